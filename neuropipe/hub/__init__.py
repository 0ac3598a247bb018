"""Doors to published checkpoints."""
