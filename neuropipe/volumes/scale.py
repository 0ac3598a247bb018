"""Units of prepared maps and slices, and the number formats in which they are stored."""

from __future__ import annotations

import numpy as np

from neuropipe.config import Volumes
from neuropipe.errors import RunExcluded

REFERENCE_TIV_ML = 1500.0
LARGEST_PERCENTILE = 99.9  # the largest value itself may be that of one odd voxel
FLOAT16_PEAK = (2.0**-8, 2.0**15)  # peaks outside are scaled: float16 ends at 65504, and has no digits near 0
UINT8_STEPS = 255


def threshold(array: np.ndarray, share: float) -> float:
    """Return the value above which a voxel belongs to a map: a share of its 99.9th percentile."""
    return share * float(np.percentile(array, LARGEST_PERCENTILE))


def scaled(array: np.ndarray, settings: Volumes, tiv_ml: float | None) -> tuple[np.ndarray, float]:
    """Return a map in the unit that the configuration asks for, and the threshold of its mask in that unit.

    Parameters
    ----------
    array : float32 array
        A map (x, y, z) or slices (slice, row, column).
    settings : Volumes
        ``zscore``: mean 0 and deviation 1 over the voxels above the threshold; the other voxels go through the same
        line, so that nothing jumps at the border of the mask. ``tiv``: times 1500 mL over the intracranial volume.
    tiv_ml : float or None
        Total intracranial volume in mL.

    Raises
    ------
    RunExcluded
        ``tiv`` without a volume to scale by, or ``zscore`` of a mask without variation.
    """
    border = threshold(array, settings.mask_threshold)
    if settings.scale == "none":
        return array, border
    if settings.scale == "tiv":
        factor, shift = REFERENCE_TIV_ML / _known_tiv(tiv_ml), 0.0
    else:
        inside = array[array > border]
        sd = float(inside.std(dtype=np.float64)) if inside.size else 0.0
        if not sd > 0:
            raise RunExcluded("constant map", "no variation above volumes.mask_threshold; look at the image")
        factor, shift = 1 / sd, -float(inside.mean(dtype=np.float64)) / sd
    return (array * np.float32(factor) + np.float32(shift)), border * factor + shift


def _known_tiv(tiv_ml: float | None) -> float:
    if tiv_ml is None or not tiv_ml > 0:
        raise RunExcluded(
            "no TIV",
            f"volumes.scale: tiv needs the total intracranial volume in mL, found {tiv_ml}; add CAT12's report "
            "(cat_*.xml) of this person and index again, or choose another scale",
        )
    return float(tiv_ml)


def pack(array: np.ndarray, dtype: str) -> tuple[np.ndarray, float, float]:
    """Return finite values as they are stored, with scale and shift: value = stored * scale + shift.

    Parameters
    ----------
    array : float32 array
        Any shape.
    dtype : str
        ``float32``; ``float16``, scaled by a power of two where the values leave its range; or ``uint8`` in 255 equal
        steps from the smallest to the largest value, which is off by half a step at most.
    """
    if dtype == "uint8":
        low, high = float(array.min()), float(array.max())
        scale = (high - low) / UINT8_STEPS or 1.0
        return np.rint((array.astype(np.float64) - low) / scale).astype(np.uint8), scale, low
    if dtype == "float16":
        peak = float(np.abs(array).max(initial=0))
        inside = peak == 0 or FLOAT16_PEAK[0] <= peak <= FLOAT16_PEAK[1]
        scale = 1.0 if inside else 2.0 ** np.floor(np.log2(peak))
        return (array / np.float32(scale)).astype(np.float16), float(scale), 0.0
    return array.astype(dtype, copy=False), 1.0, 0.0
