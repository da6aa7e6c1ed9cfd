"""Training: configuration, the loop, the recipes, checkpoints, several processes."""
