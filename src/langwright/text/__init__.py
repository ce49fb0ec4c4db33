"""Floor 1: tokenizers, their training and their folders. No torch here."""
