"""From embeddings and baselines to predictions, metrics and their intervals."""
