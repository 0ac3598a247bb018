"""Finding and describing runs, confounds and people."""
