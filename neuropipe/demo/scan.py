"""From neural series to scanner images: tissue, physiology, motion, drift, noise, and the int16 file."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from neuropipe.demo.atlas import FIRST_MM, SHAPE, VOXEL_MM, Layout, affine
from neuropipe.demo.confounds import HEAD_RADIUS_MM, framewise_displacement
from neuropipe.demo.people import Site
from neuropipe.demo.signals import band_limited
from neuropipe.paths import atomic

# Amplitudes in % of a voxel's mean.
NEURAL = 1.0
PHYSIOLOGY = {"grey": 0.3, "white_matter": 0.4, "csf": 0.6}  # one signal in all tissues: the global signal
CSF_OWN = 1.0
LEAK_PER_MM = 3.0  # of head position, with a pattern over voxels that is new in every run
DROP_PER_MM = 3.0  # of framewise displacement, everywhere: the part that regressing motion leaves behind
DRIFT = 0.6
UNSTEADY = 6.0
MEAN_INTENSITY = {"grey": 1000.0, "white_matter": 850.0, "csf": 1300.0}
SLOPE_UNIT = 1 / 64  # slopes and intercepts are multiples, so that background is exactly 0 in float32 as well


@dataclass(frozen=True, eq=False)
class Voxels:
    """The voxels of one brain mask, in the order of the file (first axis fastest).

    Attributes
    ----------
    flat : ndarray of int, shape (n_voxels,)
        Positions in the volume.
    region : ndarray of int, shape (n_voxels,)
        Row of the region table, -1 outside all regions.
    white_matter, csf : ndarray of bool, shape (n_voxels,)
    xyz : ndarray of shape (n_voxels, 3), mm
    """

    flat: np.ndarray
    region: np.ndarray
    white_matter: np.ndarray
    csf: np.ndarray
    xyz: np.ndarray

    @classmethod
    def of(cls, layout: Layout, missing_region: int | None = None) -> Voxels:
        """Return the brain's voxels, without those of `missing_region` (a label), where signal was lost."""
        labels = layout.labels.ravel(order="F")
        flat = np.flatnonzero(layout.brain.ravel(order="F") & (labels != (missing_region or -1)))
        xyz = np.stack(np.unravel_index(flat, SHAPE, order="F"), 1) * VOXEL_MM + FIRST_MM
        white_matter, csf = (mask.ravel(order="F")[flat] for mask in (layout.white_matter, layout.csf))
        return cls(flat, labels[flat].astype(np.int64) - 1, white_matter, csf, xyz)

    def per_tissue(self, values: dict[str, float]) -> np.ndarray:
        """Spread one value per tissue over the voxels, float32 (n_voxels,)."""
        kinds = [self.white_matter, self.csf]
        return np.select(kinds, [values["white_matter"], values["csf"]], values["grey"]).astype(np.float32)


def simulate_scan(
    voxels: Voxels, series: np.ndarray, motion: np.ndarray, site: Site, rng: np.random.Generator
) -> np.ndarray:
    """Return the intensities of a run.

    Parameters
    ----------
    voxels : Voxels
    series : ndarray of shape (n_volumes, n_regions)
        Neural signals of variance one.
    motion : ndarray of shape (n_volumes, 6), mm and radians
    site : Site
    rng : numpy Generator

    Returns
    -------
    ndarray of float32, shape (n_volumes, n_voxels)
    """
    n_volumes, n_voxels = len(series), len(voxels.flat)
    percent = rng.standard_normal((n_volumes, n_voxels), dtype=np.float32) * np.float32(site.noise_percent)
    grey = voxels.region >= 0
    percent[:, grey] += NEURAL * series[:, voxels.region[grey]]
    physiology = band_limited(n_volumes, 2, site.t_r, rng).astype(np.float32)
    percent += np.outer(physiology[:, 0], voxels.per_tissue(PHYSIOLOGY))
    percent += np.outer(physiology[:, 1], CSF_OWN * voxels.csf.astype(np.float32))
    percent += _motion_artefact(voxels, motion, rng)
    time = np.linspace(-1, 1, n_volumes, dtype=np.float32)
    slow = np.stack([time, 1.5 * time**2 - 0.5], 1)
    percent += DRIFT * slow @ _smooth_fields(voxels.xyz, 2, rng)
    percent[: site.n_unsteady] += UNSTEADY
    bias_field = 1 + 0.15 * _smooth_fields(voxels.xyz, 1, rng)[0]
    return site.gain * voxels.per_tissue(MEAN_INTENSITY) * bias_field * (1 + percent / 100)


def _motion_artefact(voxels: Voxels, motion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what motion does to the voxels, in %: a leak of position, and a drop with each displacement."""
    in_mm = (motion - motion.mean(0)) * np.array([1.0, 1.0, 1.0, *[HEAD_RADIUS_MM] * 3])
    leak = in_mm.astype(np.float32) @ (LEAK_PER_MM * _smooth_fields(voxels.xyz, 6, rng))
    displacement = np.nan_to_num(framewise_displacement(motion)).astype(np.float32)
    return leak - DROP_PER_MM * displacement[:, None]


def _smooth_fields(xyz: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return `n` random waves over space with periods of 80 to 200 mm, float32 (n, n_voxels), between -1 and 1."""
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    turns = (direction / rng.uniform(80, 200, size=(n, 1))) @ xyz.T + rng.random((n, 1))
    return np.cos(2 * np.pi * turns).astype(np.float32)


def write_scan(path: Path, scan: np.ndarray, voxels: Voxels, t_r: float, rng: np.random.Generator) -> None:
    """Write a scan (n_volumes, n_voxels) as int16 NIfTI with a slope and intercept of its own; background is 0."""
    steps = int(rng.integers(80, 161))  # slope 1.25 to 2.5
    slope, offset = steps * SLOPE_UNIT, int(rng.integers(-400, 401))
    stored = np.full((len(scan), np.prod(SHAPE)), -offset, dtype=np.int16)
    stored[:, voxels.flat] = np.rint(scan / np.float32(slope)) - offset
    header = _header((*SHAPE, len(scan)), np.int16, affine())
    header.set_slope_inter(slope, slope * offset)
    header.set_zooms((VOXEL_MM,) * 3 + (t_r,))
    _write(path, header, stored.tobytes())


def write_volume(path: Path, volume: np.ndarray, left_first: bool = False) -> None:
    """Write an image of shape `SHAPE` in its own type; with `left_first` its first axis runs to the left (LAS)."""
    matrix = affine()
    if left_first:
        volume = volume[::-1]
        matrix = matrix @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    _write(path, _header(SHAPE, volume.dtype, matrix), volume.tobytes(order="F"))


def _header(shape: tuple[int, ...], dtype: np.dtype | type, matrix: np.ndarray) -> nib.Nifti1Header:
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(matrix, code="mni")
    header.set_qform(matrix, code="mni")
    header.set_xyzt_units("mm", "sec")
    header["vox_offset"] = 352
    return header


def _write(path: Path, header: nib.Nifti1Header, content: bytes) -> None:
    """Write a gzip file whose bytes depend on its content only (nibabel's own writer would choose the scaling)."""
    start = io.BytesIO()
    header.write_to(start)
    with (
        atomic(path) as temporary,
        open(temporary, "wb") as handle,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=handle, mtime=0) as packed,
    ):
        packed.write(start.getvalue().ljust(352, b"\0") + content)
