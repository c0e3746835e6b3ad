"""Training from scratch, or from any checkpoint: one loop for both families."""
