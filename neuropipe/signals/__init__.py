"""From images and confounds to clean regional series."""
