"""Floor 7: one file a verb. Each wires a folder, data and rooms together."""
