"""Volumes and slices: how anatomical maps become arrays of one grid."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from neuropipe.config.base import Section, Share

Voxels = Annotated[int, Field(ge=1)]


class Volumes(Section):
    """How maps and slices are prepared; lengths are in voxels or pixels where no unit is said."""

    voxel_mm: Annotated[float, Field(gt=0)] | None = None
    """Resample to isotropic voxels of this edge in mm, centred on multiples of it; the volume in mL that a modulated
    map sums to is kept. Null keeps the data's grid."""
    crop: tuple[Voxels, Voxels, Voxels] | None = None
    """Cut to at most this many voxels about the centre; with ``size`` the published recipe of y-Aware:
    ``crop: [121, 128, 121]``, ``size: [128, 128, 128]``."""
    size: tuple[Voxels, Voxels, Voxels] | None = None
    """Then cut or pad with zeros about the centre to this size."""
    scale: Literal["none", "zscore", "tiv"] = "none"
    """``zscore``: mean 0 and deviation 1 over the voxels above ``mask_threshold``, the others by the same line;
    ``tiv``: times 1500 mL over the total intracranial volume."""
    mask_threshold: Share = 0.05
    """Share of a map's largest value (its 99.9th percentile) above which a voxel belongs to it."""
    dtype: Literal["float16", "float32", "uint8"] = "float16"
    """Number format; ``uint8`` is stored with its scale."""
    regional: bool = True
    """Sum the volume of tissue in each region of ``atlases``, in mL; false where they lie in another space than the
    maps and are not warped."""
    image_size: tuple[Voxels, Voxels] = (224, 224)
    """Rows and columns that slices of kind ``images`` are fitted into, their aspect kept."""
