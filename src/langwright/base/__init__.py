"""Floor 0: errors, console and progress, files and atomic writing. No torch here."""
