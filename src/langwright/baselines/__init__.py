"""Floor 2: what a model must beat: compressors, a byte n-gram, and code that merely parses. No transformers here."""
