"""Changes to a model that is built: its vocabulary, its key and value heads, the storage of its weights."""
