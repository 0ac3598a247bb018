"""neuropipe: from brain-imaging derivatives to brain models that can be believed."""

__version__ = "0.1.0"
