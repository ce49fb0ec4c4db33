"""Floor 4: caches, sampling, generation."""
