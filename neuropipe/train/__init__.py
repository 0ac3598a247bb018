"""The loop, its optimiser, its checkpoints and its devices."""
