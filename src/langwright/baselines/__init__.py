"""Floor 2: what a model must beat: compressors, n-grams, word2vec, code that merely parses. No transformers here."""
