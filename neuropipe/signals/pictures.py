"""Atlases drawn on the template brain, by nilearn."""

from __future__ import annotations

import colorsys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from neuropipe.paths import atomic
from neuropipe.signals.atlases import Atlas

GOLDEN_TURN = 0.61803398875  # hues one golden turn apart are never close to their neighbours
N_CUTS = 7
MAX_LEGEND = 20


def draw(atlas: Atlas, output: Path) -> None:
    """Write a picture (png, svg or pdf, by the suffix) of an atlas: slices in three directions.

    Regions of one network have shades of one colour, and the networks are named below. Of maps,
    each voxel shows the map that weighs most there.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    from nilearn import plotting

    positions = _positions(atlas)
    networks = [name for name in dict.fromkeys(atlas.table["network"]) if name]
    image = nib.Nifti1Image(positions, atlas.affine)
    figure = plt.figure(figsize=(15, 7.6), facecolor="white")
    rows = figure.subplots(3, 1, gridspec_kw={"hspace": 0.02, "top": 0.96, "bottom": 0.07, "left": 0, "right": 1})
    centres = _cuts(positions, atlas.affine)
    for axis, direction in zip(rows, "xyz", strict=True):
        plotting.plot_roi(
            image,
            display_mode=direction,
            cut_coords=centres[direction],
            axes=axis,
            cmap=ListedColormap(_colours(atlas.table)),
            vmin=0.5,
            vmax=len(atlas.table) + 0.5,
            alpha=0.85,
            colorbar=False,
            black_bg=False,
        )
    what = "maps, the heaviest of each voxel" if atlas.labels is None else "regions"
    figure.suptitle(f"{atlas.id}: {len(atlas.table)} {what}, {atlas.space}", fontsize=14, y=0.99)
    if 1 < len(networks) <= MAX_LEGEND:
        patches = [Patch(color=_colour(n, 0.5), label=name) for n, name in enumerate(networks)]
        figure.legend(handles=patches, loc="lower center", ncols=min(len(networks), 10), frameon=False)
    with atomic(output) as temporary:
        figure.savefig(temporary, dpi=110, bbox_inches="tight")
    plt.close(figure)


def _positions(atlas: Atlas) -> np.ndarray:
    """Return each voxel's region as its position in the table plus one, int32 (x, y, z); 0 outside."""
    if atlas.labels is not None:
        position = np.zeros(max(int(atlas.labels.max()), int(atlas.table["value"].max())) + 1, dtype=np.int32)
        position[atlas.table["value"]] = np.arange(1, len(atlas.table) + 1)
        return position[np.maximum(atlas.labels, 0)]
    heaviest = np.zeros(atlas.maps.shape[0], dtype=np.float32)
    region = np.zeros(atlas.maps.shape[0], dtype=np.int32)
    for column in range(atlas.maps.shape[1]):
        within = slice(atlas.maps.indptr[column], atlas.maps.indptr[column + 1])
        voxels, weights = atlas.maps.indices[within], atlas.maps.data[within]
        more = weights > heaviest[voxels]
        heaviest[voxels[more]] = weights[more]
        region[voxels[more]] = column + 1
    return region.reshape(atlas.shape, order="F")


def _cuts(positions: np.ndarray, affine: np.ndarray) -> dict[str, np.ndarray]:
    """Return where to cut in each direction, in mm: evenly through what the atlas covers."""
    where = np.argwhere(positions > 0) @ affine[:3, :3].T + affine[:3, 3]
    low, high = np.percentile(where, [2, 98], axis=0)
    return {axis: np.unique(np.linspace(low[i], high[i], N_CUTS).round()) for i, axis in enumerate("xyz")}


def _colours(table: pd.DataFrame) -> list[tuple[float, float, float]]:
    """Return a colour per region: shades of its network's, or one of its own where it has none."""
    number = {name: n for n, name in enumerate(name for name in dict.fromkeys(table["network"]) if name)}
    if len(number) < 2:
        return [_colour(n, 0.35 + 0.3 * (n % 3) / 2) for n in range(len(table))]
    shades = np.random.default_rng(0).uniform(0.32, 0.68, size=len(table))  # so that neighbours differ
    return [
        _colour(number[name], shade) if name else (0.6, 0.6, 0.6)
        for name, shade in zip(table["network"], shades, strict=True)
    ]


def _colour(n: int, lightness: float) -> tuple[float, float, float]:
    return colorsys.hls_to_rgb(n * GOLDEN_TURN % 1.0, lightness, 0.75)
