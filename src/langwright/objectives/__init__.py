"""Floor 1: `Batch`, and losses, rewards and metrics as pure functions of tensors and masks."""
