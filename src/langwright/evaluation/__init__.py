"""Floor 5: how good a model is."""
