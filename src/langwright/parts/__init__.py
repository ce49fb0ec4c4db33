"""Floor 1: the parts that every family is built from. No family names and no files here."""
