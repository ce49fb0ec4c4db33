"""Floor 4: the one loop, optimizers, schedules, precision, training checkpoints, budgets."""
