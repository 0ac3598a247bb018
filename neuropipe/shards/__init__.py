"""Samples, tars, manifests and the HDF5 exchange layout."""
