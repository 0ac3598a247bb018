"""Frozen tables of who is on which side, and their audit."""
