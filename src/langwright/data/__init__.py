"""Floor 3: token shards, sample order, windows, batches, a run's supply."""
