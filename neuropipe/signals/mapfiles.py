"""Probabilistic atlases: 4-D images of one map per region, read map by map in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import sparse

from neuropipe.errors import RunExcluded
from neuropipe.signals import images


def read_maps(path: Path) -> tuple[sparse.csc_array, tuple[int, int, int], np.ndarray]:
    """Read the maps of a probabilistic atlas as a sparse matrix.

    Only one map is held whole: the 1024 maps of DiFuMo at 2 mm would take 5.4 GB, their
    non-zero voxels take a few hundred MB.

    Parameters
    ----------
    path : Path
        4-D ``.nii`` or ``.nii.gz``; a 3-D image is one map.

    Returns
    -------
    maps : float32 sparse.csc_array (voxel, region)
        Weights; voxels are numbered with x fastest (``ravel(order="F")``). NaN, which some atlases
        have outside the brain, is weight 0.
    shape : three int
        Size of the grid (x, y, z).
    affine : float64 array (4, 4)
        Voxel indices to mm.

    Raises
    ------
    RunExcluded
        The file is missing, truncated or damaged, or not an image of maps.
    """
    voxels: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    with images.damage_excludes(path.name), images.open_stream(path) as stream:
        layout = images.read_layout(stream, path)
        if len(layout.shape) not in (3, 4):
            raise RunExcluded("damaged image", f"{path.name}: expected one map per region, found shape {layout.shape}")
        buffer = bytearray(layout.volume_bytes)
        for region in range(layout.n_volumes):
            if images.read_exactly(stream, memoryview(buffer)) < len(buffer):
                raise RunExcluded(
                    "truncated image", f"{path.name}: expected {layout.n_volumes} maps, found {region} whole ones"
                )
            stored = np.frombuffer(buffer, dtype=layout.dtype)
            weight = layout.scaled(stored.astype(np.float64)).astype(np.float32)
            voxels.append(np.flatnonzero(np.isfinite(weight) & (weight != 0)).astype(np.int32))
            weights.append(weight[voxels[-1]])
        images.check_end(stream, path.name)
    starts = np.concatenate([[0], np.cumsum([len(chosen) for chosen in voxels])])
    maps = sparse.csc_array(
        (np.concatenate(weights), np.concatenate(voxels), starts), shape=(layout.n_voxels, layout.n_volumes)
    )
    return maps, layout.shape[:3], layout.affine
