"""Floor 2: sources of documents and their splits. No tensors here."""
