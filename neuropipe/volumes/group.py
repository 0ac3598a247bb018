"""What only many maps together show: the mean map, the mask in which most have tissue, and who differs from both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from neuropipe.signals.group_quality import robust_z

MASK_SHARE = 0.5  # of the maps that have a voxel of the group mask

Maps = Callable[[], Iterable[np.ndarray]]  # one map at a time, anew at each call


@dataclass(frozen=True, eq=False)
class Group:
    """Maps of one grid taken together.

    Attributes
    ----------
    mean : float32 array (x, y, z)
        In the unit of the maps.
    mask : bool array (x, y, z)
        Voxels above the threshold in at least half of the maps.
    """

    mean: np.ndarray
    mask: np.ndarray


def combine(maps: Maps, thresholds: Sequence[float]) -> Group:
    """Return mean and mask of a stream of maps, each with the value above which a voxel belongs to it."""
    total, count = 0.0, 0
    for array, border in zip(maps(), thresholds, strict=True):
        total = total + array.astype(np.float64)
        count = count + (array > border).astype(np.int32)
    n = len(thresholds)
    return Group((total / n).astype(np.float32), count >= MASK_SHARE * n)


def likeness(maps: Maps, thresholds: Sequence[float], group: Group) -> dict[str, np.ndarray]:
    """Return how much each map is like the group.

    Returns
    -------
    dict of str to float64 array (map,)
        ``group_dice``: overlap of the map's voxels with the group mask, 2 |A and B| / (|A| + |B|);
        ``group_correlation``: Pearson's correlation with the mean map over the voxels of the mask, NaN where a map is
        constant there; ``outlier_z``: robust z-score of that correlation (far below zero: unlike the others).
    """
    mean = group.mean[group.mask].astype(np.float64)
    mean -= mean.mean() if mean.size else 0.0
    n_mask, dice, correlation = int(group.mask.sum()), [], []
    for array, border in zip(maps(), thresholds, strict=True):
        own = array > border
        dice.append(2 * np.count_nonzero(own & group.mask) / max(np.count_nonzero(own) + n_mask, 1))
        values = array[group.mask].astype(np.float64)
        values -= values.mean() if values.size else 0.0
        length = np.sqrt((values @ values) * (mean @ mean))
        correlation.append(values @ mean / length if length > 0 else np.nan)
    r = np.array(correlation)
    return {"group_dice": np.array(dice), "group_correlation": r, "outlier_z": robust_z(r)}
