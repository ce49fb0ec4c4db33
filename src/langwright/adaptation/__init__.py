"""Floor 3: adapters, which change what a model does without changing what it is; the adapter folder."""
