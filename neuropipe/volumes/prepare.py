"""From a map or slices as a door hands them over to what networks read: one grid, one unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuropipe.bids.maps import Map
from neuropipe.config import Volumes
from neuropipe.volumes import grids, scale


@dataclass(frozen=True, eq=False)
class Prepared:
    """A map or slices, ready for networks.

    Attributes
    ----------
    array : float32 array (x, y, z) or (slice, row, column)
        Finite, in the unit that the configuration asks for.
    affine : float64 array (4, 4) or None
        Voxel indices to mm, RAS+; None for slices, and for maps of which it is not known.
    source : float32 array (x, y, z) or None
        The map in RAS+ order on its own grid, in its own unit; None for slices.
    source_affine : float64 array (4, 4) or None
        Of `source`.
    quality : dict
        Numbers by name: ``total_ml`` (of maps of tissue with an affine), ``mean`` and ``sd`` over the voxels above the
        threshold and ``nonzero_share``, all of the source in its own unit; ``mask_threshold`` in the unit of `array`;
        and what the source states itself (``tiv_ml``, ``iqr_grade`` ...).
    """

    array: np.ndarray
    affine: np.ndarray | None
    source: np.ndarray | None
    source_affine: np.ndarray | None
    quality: dict[str, Any]


def prepare(found: Map, settings: Volumes, *, is_tissue: bool) -> Prepared:
    """Bring a map to RAS+ order, the study's grid and its unit.

    Parameters
    ----------
    found : Map
        As its door hands it over.
    settings : Volumes
        Section of the configuration.
    is_tissue : bool
        Values are amounts or probabilities of tissue, so that their sum is a volume; not those of a T1w image.

    Raises
    ------
    RunExcluded
        It is no volume, is oblique, or cannot be scaled as asked.
    """
    array, affine = grids.as_ras(found.array, found.affine)
    measured = measures(array, affine if is_tissue else None, settings)
    placed, grid_affine = grids.placed(array, affine, settings, found.modulated)
    ready, border = scale.scaled(placed, settings, found.known.get("tiv_ml"))
    known = _numbers(found.known) | measured | {"mask_threshold": border}
    return Prepared(ready, grid_affine, array, affine, known)


def prepare_slices(found: Map, settings: Volumes) -> Prepared:
    """Bring the slices (slice, row, column) of a scan to the study's unit; their size is the door's work."""
    array = found.array
    measured = measures(array, None, settings) | {"n_slices": len(array)}
    ready, border = scale.scaled(array, settings, found.known.get("tiv_ml"))
    return Prepared(ready, None, None, None, _numbers(found.known) | measured | {"mask_threshold": border})


def measures(array: np.ndarray, affine: np.ndarray | None, settings: Volumes) -> dict[str, float]:
    """Return what is measured of a map in its own unit; its total in mL where the affine of a tissue is given."""
    inside = array[array > scale.threshold(array, settings.mask_threshold)]
    total = {} if affine is None else {"total_ml": float(array.sum(dtype=np.float64)) * grids.voxel_ml(affine)}
    return total | {
        "mean": float(inside.mean(dtype=np.float64)) if inside.size else 0.0,
        "sd": float(inside.std(dtype=np.float64)) if inside.size else 0.0,
        "nonzero_share": float(np.count_nonzero(array) / array.size),
    }


def _numbers(known: Mapping[str, float]) -> dict[str, float | None]:
    """Return what a source states as numbers for JSON; None where it states none."""
    return {name: float(value) if value is not None and np.isfinite(value) else None for name, value in known.items()}
