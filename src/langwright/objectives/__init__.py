"""Between floors 1 and 2: batches, losses as pure functions of tensors and masks, and objectives made of them."""
