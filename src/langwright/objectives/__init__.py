"""Floor 1: batches, objectives, and losses, rewards and metrics as pure functions of tensors and masks."""
