"""Head motion, and the confounds table that fMRIPrep would write for a simulated scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

AXES = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
HEAD_RADIUS_MM = 50.0
JERK_RATE = 0.02  # sudden movements per volume
JERK_SIZE = 6.0  # times the ordinary movement from volume to volume
HIGH_PASS_S = 128.0  # period of the slowest drift that the cosine columns leave in
OUTLIER_FD_MM = 0.5
OUTLIER_STD_DVARS = 1.5
N_COMPONENTS = 5
COMPCOR_MASKS = {"c": "CSF", "w": "WM", "a": "combined"}


def draw_motion(n_volumes: int, mean_fd_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return motion parameters (n_volumes, 6), mm and radians, whose mean framewise displacement is `mean_fd_mm`.

    The head wanders, springs back slowly, and now and then jerks.
    """
    steps = rng.normal(size=(n_volumes, 6))
    jerks = rng.random(n_volumes) < JERK_RATE
    steps[jerks] *= JERK_SIZE
    position = np.zeros((n_volumes, 6))
    for volume in range(1, n_volumes):
        position[volume] = 0.98 * position[volume - 1] + steps[volume]
    position[:, 3:] /= HEAD_RADIUS_MM
    return position * (mean_fd_mm / framewise_displacement(position)[1:].mean())


def framewise_displacement(motion: np.ndarray) -> np.ndarray:
    """Return FD (n_volumes,) in mm, after Power et al. 2012 (NeuroImage 59:2142); the first is NaN."""
    steps = np.abs(np.diff(motion, axis=0)) @ np.array([1.0, 1.0, 1.0, *[HEAD_RADIUS_MM] * 3])
    return np.concatenate([[np.nan], steps])


def cosines(n_volumes: int, t_r: float) -> np.ndarray:
    """Return the slow discrete cosines (n_volumes, n) with periods above `HIGH_PASS_S`, as SPM and fMRIPrep use."""
    order = int(2 * n_volumes * t_r / HIGH_PASS_S)
    phase = np.pi * (np.arange(n_volumes) + 0.5) / n_volumes
    return np.cos(phase[:, None] * np.arange(1, order + 1)) * (2 / n_volumes) ** 0.5


def confounds_table(
    scan: np.ndarray, white_matter: np.ndarray, csf: np.ndarray, motion: np.ndarray, t_r: float, n_unsteady: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Compute the confounds of a scan.

    Parameters
    ----------
    scan : ndarray of shape (n_volumes, n_voxels)
        Intensities of the voxels in the brain mask.
    white_matter, csf : ndarray of bool, shape (n_voxels,)
    motion : ndarray of shape (n_volumes, 6), mm and radians
    t_r : float, s
    n_unsteady : int
        First volumes before the steady state.

    Returns
    -------
    table : DataFrame
        One row per volume, NaN where fMRIPrep writes ``n/a``.
    metadata : dict
        Content of the JSON file beside the table.
    """
    columns: dict[str, np.ndarray] = {}
    metadata: dict[str, Any] = {}
    tissues = {"global_signal": np.ones(scan.shape[1], dtype=bool), "csf": csf, "white_matter": white_matter}
    for name, voxels in tissues.items():
        columns |= _expanded(name, scan[:, voxels].mean(1, dtype=np.float64))
        metadata[name] = {"Method": "Mean"}
    columns["std_dvars"], columns["dvars"] = _dvars(scan)
    columns["framewise_displacement"] = framewise_displacement(motion)
    drift = cosines(len(scan), t_r)
    for prefix, voxels in zip(COMPCOR_MASKS, (csf, white_matter, csf | white_matter), strict=True):
        components, described = _acompcor(scan[:, voxels], drift, prefix)
        columns |= components
        metadata |= described
    columns |= {f"cosine{i:02d}": drift[:, i] for i in range(drift.shape[1])}
    for i in range(n_unsteady):
        columns[f"non_steady_state_outlier{i:02d}"] = _spike(len(scan), i)
    for name, values in zip(AXES, motion.T, strict=True):
        columns |= _expanded(name, values)
    outlying = (columns["framewise_displacement"] > OUTLIER_FD_MM) | (columns["std_dvars"] > OUTLIER_STD_DVARS)
    for i, volume in enumerate(np.flatnonzero(outlying)):  # NaN > limit is False: the first volume is never one
        columns[f"motion_outlier{i:02d}"] = _spike(len(scan), volume)
    return pd.DataFrame(columns), metadata


def _expanded(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return a signal with its backward difference and the squares of both, under fMRIPrep's names."""
    change = np.concatenate([[np.nan], np.diff(values)])
    return {
        name: values,
        f"{name}_derivative1": change,
        f"{name}_power2": values**2,
        f"{name}_derivative1_power2": change**2,
    }


def _spike(n_volumes: int, volume: int) -> np.ndarray:
    column = np.zeros(n_volumes)
    column[volume] = 1.0
    return column


def _dvars(scan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (standardised, plain) DVARS: the latter over what the voxels' AR(1) noise makes expected."""
    dvars = np.sqrt(np.square(np.diff(scan, axis=0)).mean(1, dtype=np.float64))
    quartiles = np.percentile(scan, [25, 75], axis=0)
    robust_sd = (quartiles[1] - quartiles[0]) / 1.349
    centred = scan - scan.mean(0)
    ar1 = (centred[1:] * centred[:-1]).sum(0) / np.square(centred).sum(0)
    expected = (np.sqrt(2 * (1 - ar1)) * robust_sd).mean(dtype=np.float64)
    return np.concatenate([[np.nan], dvars / expected]), np.concatenate([[np.nan], dvars])


def _acompcor(
    voxels: np.ndarray, drift: np.ndarray, prefix: str
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Return the first principal components of tissue voxels (n_volumes, n) after removing mean and drift."""
    centred = voxels - voxels.mean(0)
    centred = centred - drift @ (drift.T @ centred)
    centred = centred / centred.std(0)
    variances, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    order = np.argsort(variances)[::-1][:N_COMPONENTS]
    share = variances[order] / variances.sum()
    columns, metadata = {}, {}
    for i, which in enumerate(order):
        name = f"{prefix}_comp_cor_{i:02d}"
        columns[name] = vectors[:, which]
        metadata[name] = {
            "CumulativeVarianceExplained": float(share[: i + 1].sum()),
            "Mask": COMPCOR_MASKS[prefix],
            "Method": "aCompCor",
            "Retained": True,
            "SingularValue": float(variances[which] ** 0.5),
            "VarianceExplained": float(share[i]),
        }
    return columns, metadata
