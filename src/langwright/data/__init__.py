"""Floor 3: token shards, sample order, windows and batches."""
