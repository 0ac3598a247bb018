"""Maps of anatomy and slices: orientation, grids, scaling, regional volumes, and what only a group shows."""
