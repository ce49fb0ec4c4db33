"""What is no text, read into numbers: series of several channels."""
