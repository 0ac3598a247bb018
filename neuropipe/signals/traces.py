"""What a run looked like over time and over regions, small enough to be kept for every run, left out or not.

Displacement and DVARS are kept volume by volume. The two carpets (one row per region, grey by
value; Power 2017, NeuroImage 154:150) are kept in 15 levels and at most 240 columns: some 100 kB a run,
from which the quality page draws its pictures without reading an image again.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from neuropipe.errors import InputError
from neuropipe.signals import quality

MAX_COLUMNS = 240
LEVELS = 15
LIMIT = 2.5  # standard deviations: black and white of a carpet


@dataclass(frozen=True, eq=False)
class Traces:
    """A run over time; volumes are those after the non-steady state, at the run's own repetition time.

    Attributes
    ----------
    t_r : float
        Seconds between volumes.
    censored : bool array (time,)
        Volumes that are not to be believed.
    fd_mm, dvars_before, dvars_after : float32 arrays (time,)
        Framewise displacement in mm and DVARS in percent; NaN where unknown.
    before, after : uint8 arrays (region, column)
        Carpets before and after cleaning, as of `carpet`; empty where the run was left out before they could be made.
    coverage, tsnr : float32 arrays (region,)
        Coverage, and temporal signal-to-noise before cleaning; NaN or empty where unknown.
    """

    t_r: float
    censored: np.ndarray
    fd_mm: np.ndarray
    dvars_before: np.ndarray
    dvars_after: np.ndarray
    before: np.ndarray
    after: np.ndarray
    coverage: np.ndarray
    tsnr: np.ndarray

    def write(self, path: Path) -> None:
        """Write as npz; the bytes depend on the values alone."""
        with open(path, "wb") as handle:
            np.savez_compressed(handle, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def read(cls, path: Path) -> Traces:
        """Read what `write` wrote; a damaged file is named."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                content = {field.name: stored[field.name] for field in fields(cls)}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise InputError(f"{path} cannot be read ({error}); run parcellate for its chunk again.") from error
        return cls(**content | {"t_r": float(content["t_r"])})


def without_image(t_r: float, censored: np.ndarray, fd_mm: np.ndarray | None) -> Traces:
    """Return the traces of a run whose image was not read: all that is known is its displacement."""
    unknown = np.full(len(censored), np.nan, dtype=np.float32)
    fd = unknown if fd_mm is None else fd_mm.astype(np.float32)
    carpets, regions = np.empty((0, 0), dtype=np.uint8), np.empty(0, dtype=np.float32)
    return Traces(t_r, censored, fd, unknown, unknown, carpets, carpets, regions, regions)


def compare(
    raw: np.ndarray | None,
    residual: np.ndarray | None,
    t_r: float,
    censored: np.ndarray,
    fd_mm: np.ndarray | None,
    mean: np.ndarray | None,
    coverage: np.ndarray | None = None,
    tsnr: np.ndarray | None = None,
) -> tuple[dict[str, Any], Traces]:
    """Return the numbers before and after cleaning that compare volumes, and the traces behind them.

    Parameters
    ----------
    raw : array (time, region) or None
        Regional means before cleaning; NaN columns are missing regions. None for series that came clean.
    residual : array (time, region) or None
        The same volumes after cleaning, in the unit of `raw`; None where a run was left out before.
    t_r : float
        Seconds between volumes.
    censored : bool array (time,)
        Volumes that are not to be believed.
    fd_mm : array (time,) or None
        Framewise displacement; None where unknown.
    mean : array (region,) or None
        Mean of each region in the unit of the image; None for ready-made series, which have no such unit.
    coverage, tsnr : arrays (region,), optional
        Put into the traces as they are.

    Returns
    -------
    dict
        ``dvars_*_percent``, ``fd_dvars_correlation_*`` and ``edge_motion_*`` for ``before`` and ``after``;
        None where unknown.
    """
    kept, numbers, parts = ~censored, {}, {}
    n_volumes, n_regions = (raw if raw is not None else residual).shape
    fd = np.full(n_volumes, np.nan) if fd_mm is None else fd_mm
    for when, series in (("before", raw), ("after", residual)):
        known = series is not None
        dvars = np.full(n_volumes, np.nan) if mean is None or not known else quality.dvars_trace(series, mean, kept)
        steps = dvars[np.isfinite(dvars)]
        numbers[f"dvars_{when}_percent"] = float(steps.mean()) if len(steps) else None
        numbers[f"fd_dvars_correlation_{when}"] = quality.correlation(fd, dvars)
        numbers[f"edge_motion_{when}"] = quality.edge_motion(series, fd, kept) if known else None
        parts[f"dvars_{when}"] = dvars.astype(np.float32)
        parts[when] = carpet(series, kept) if known else np.empty((n_regions, 0), np.uint8)
    for name, values in (("coverage", coverage), ("tsnr", tsnr)):
        parts[name] = np.full(n_regions, np.nan, np.float32) if values is None else values.astype(np.float32)
    return numbers, Traces(t_r=t_r, censored=censored, fd_mm=fd.astype(np.float32), **parts)


def carpet(series: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return a series as grey levels: without its line, z-scored on the kept volumes, averaged to 240 columns.

    Returns
    -------
    uint8 array (region, column)
        1 (-2.5 standard deviations and below) to 15 (2.5 and above); 0 for a missing region.
    """
    n_volumes = len(series)
    if not kept.any():
        return np.zeros((series.shape[1], min(n_volumes, MAX_COLUMNS)), dtype=np.uint8)
    time = np.linspace(-1, 1, n_volumes)
    design = np.stack([np.ones(n_volumes), time], axis=1)
    values = np.asarray(series, dtype=np.float64)
    finite = np.isfinite(values[kept]).all(axis=0)
    values = np.where(finite, values, 0.0)
    values = np.where(np.isfinite(values), values, 0.0)  # censored volumes may hold anything
    size = np.abs(values).max(axis=0)
    values = values - design @ np.linalg.lstsq(design[kept], values[kept], rcond=None)[0]
    spread = values[kept].std(axis=0)
    known = finite & (spread > 1e-9 * size)  # what is left of a constant region is rounding
    edges = np.linspace(0, n_volumes, min(n_volumes, MAX_COLUMNS) + 1).round().astype(int)
    columns = np.add.reduceat(values[:, known] / spread[known], edges[:-1], axis=0) / np.diff(edges)[:, None]
    levels = np.zeros((values.shape[1], len(edges) - 1), dtype=np.uint8)
    share = np.clip((columns.T + LIMIT) / (2 * LIMIT), 0, 1)
    levels[known] = 1 + np.rint(share * (LEVELS - 1)).astype(np.uint8)
    return levels
