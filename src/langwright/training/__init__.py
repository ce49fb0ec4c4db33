"""Floor 4: the trainer, the one loop, optimizers, schedules, precision, training checkpoints, budgets."""
