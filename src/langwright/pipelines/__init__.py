"""Floor 5: several calls of models composed."""
