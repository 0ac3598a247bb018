"""YAML files, each one training run."""
