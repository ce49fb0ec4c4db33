"""Floor 3: the machine measured, and what a model costs on it."""
