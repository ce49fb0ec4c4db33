"""Floor 2: one file a family (config, builder, key map), and the model folder."""
