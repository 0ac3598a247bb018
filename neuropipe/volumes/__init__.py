"""Maps of anatomy and pictures: read, brought to one grid, measured."""
