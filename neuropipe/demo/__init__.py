"""A synthetic study with planted, known effects."""
