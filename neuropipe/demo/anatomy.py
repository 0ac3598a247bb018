"""What is planted in the grey matter: where it shrinks with age and in patients, and what differs for other reasons.

A person's map is the common template, scaled to the head and changed region by region,

    map = template * tiv / MEAN_TIV * exp(-age_score * AGE_BLOBS - diagnosis_score * DIAGNOSIS_BLOBS + own + noise)
    age_score = age_slope * z(age) + age_spread * N(0, 1)
    diagnosis_score = diagnosis_step * (patient - 1/2) + diagnosis_spread * N(0, 1)

and then seen by a scanner, which scales and blurs it. ``own`` is a smooth random field. Nobody can know more of age
and diagnosis than the two scores say (`neuropipe.demo.truth` says how much that is).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from neuropipe.demo.atlas import (
    CEREBELLUM,
    CEREBRUM,
    CORTEX_FROM,
    FIRST_MM,
    SHAPE,
    SUBCORTEX,
    VENTRICLES,
    VOXEL_MM,
    radius,
)
from neuropipe.demo.coupling import AGE_MEAN, AGE_SD
from neuropipe.demo.people import Site

Blob = tuple[str, tuple[float, float, float], float]  # name, centre on the right in mm, standard deviation in mm
AGE_BLOBS: tuple[Blob, ...] = (("prefrontal", (34.0, 40.0, 22.0), 15.0), ("sensorimotor", (42.0, -22.0, 52.0), 15.0))
DIAGNOSIS_BLOBS: tuple[Blob, ...] = (
    ("hippocampus", (24.0, -16.0, -10.0), 9.0),
    ("temporal", (54.0, -16.0, -18.0), 13.0),
)

MEAN_TIV_ML = 1500.0
TIV_BY_SEX_ML = {"F": 1420.0, "M": 1580.0}
TIV_SD_ML = 110.0  # within a sex
GREY_SHARE = 0.43  # of the intracranial volume, in the template
WHITE_SHARE = 0.34
OWN_FWHM_MM = 25.0  # smoothness of what is a person's own
IQR_GRADES = (1.8, 2.6)  # CAT12's image quality, 1 excellent to 6 unacceptable; uniform
POOR_IQR_GRADE = 5.4
POOR_NOISE = 8.0  # times the usual noise in the one poor scan

FINE = 3  # the template is drawn on a grid so many times as fine, 2 mm
DENSITY = {"cortex": 0.6, "subcortex": 0.8, "cerebellum": 0.7}  # share of grey matter
FOLD_MM = (31.0, 24.0, 27.0)  # periods of the pattern that stands for gyri, along x, y, z
RIBBON_SD_MM = 3.0  # blur of the fine template


@dataclass(frozen=True)
class AnatomyEffects:
    """Sizes of what is planted: relative change of grey-matter volume at the centre of a blob."""

    age_slope: float = 0.16
    """Loss per standard deviation of age (`AGE_SD` years)."""
    age_spread: float = 0.06
    """Standard deviation between people of one age."""
    diagnosis_step: float = 0.30
    """Loss of patients over that of controls."""
    diagnosis_spread: float = 0.16
    """Standard deviation between people of one group."""
    own_sd: float = 0.08
    """Standard deviation between people of the smooth field, everywhere."""
    noise_sd: float = 0.05
    """Standard deviation of what is new in every voxel of a map."""


@dataclass(frozen=True)
class Scan:
    """One person's structural scan.

    Attributes
    ----------
    person : int
        Row of the participants.
    tiv_ml : float
        Total intracranial volume, mL.
    age_score, diagnosis_score : float
        Relative loss at the centres of the blobs.
    iqr_grade : float
        Image quality, 1 excellent to 6 unacceptable.
    has_map : bool
        Whether segmentation gave one.
    left_first : bool
        The file's first axis runs from right to left (LAS).
    """

    participant_id: str
    person: int
    site: Site
    tiv_ml: float
    age_score: float
    diagnosis_score: float
    iqr_grade: float
    has_map: bool = True
    left_first: bool = False

    @property
    def is_poor(self) -> bool:
        """Whether the image is too poor to be used."""
        return self.iqr_grade == POOR_IQR_GRADE


def draw_scans(
    people: pd.DataFrame, sites: Sequence[Site], rng: np.random.Generator, effects: AnatomyEffects | None = None
) -> list[Scan]:
    """Draw everyone's head and scores; one person gets no map, one a poor scan, and one a file in LAS."""
    effects = effects or AnatomyEffects()
    n = len(people)
    patient = (people["diagnosis"] == "patient").to_numpy()
    age_z = ((people["age"] - AGE_MEAN) / AGE_SD).to_numpy()
    tiv = people["sex"].map(TIV_BY_SEX_ML).to_numpy() + TIV_SD_ML * rng.normal(size=n)
    age_score = effects.age_slope * age_z + effects.age_spread * rng.normal(size=n)
    diagnosis_score = effects.diagnosis_step * (patient - 0.5) + effects.diagnosis_spread * rng.normal(size=n)
    grade = rng.uniform(*IQR_GRADES, size=n).round(2)
    without, poor, left_first = rng.choice(n, 3, replace=False).tolist()
    by_name = {site.name: site for site in sites}
    return [
        Scan(
            participant_id=row["participant_id"],
            person=person,
            site=by_name[row["site"]],
            tiv_ml=round(float(tiv[person]), 1),
            age_score=float(age_score[person]),
            diagnosis_score=float(diagnosis_score[person]),
            iqr_grade=POOR_IQR_GRADE if person == poor else float(grade[person]),
            has_map=person != without,
            left_first=person == left_first,
        )
        for person, row in people.iterrows()
    ]


def simulate_map(scan: Scan, rng: np.random.Generator, effects: AnatomyEffects | None = None) -> np.ndarray:
    """Return a person's modulated grey matter, float32 of shape `SHAPE` in RAS order.

    A voxel's value times its volume is the grey matter that it had before it was brought to the template's space.
    """
    effects = effects or AnatomyEffects()
    own = _smooth(rng.normal(size=SHAPE), OWN_FWHM_MM)
    own *= effects.own_sd / _smoothed_sd(OWN_FWHM_MM)
    noise = effects.noise_sd * (POOR_NOISE if scan.is_poor else 1.0) * rng.normal(size=SHAPE)
    loss = scan.age_score * blobs(AGE_BLOBS) + scan.diagnosis_score * blobs(DIAGNOSIS_BLOBS)
    grey = template() * (scan.tiv_ml / MEAN_TIV_ML) * np.exp(own + noise - loss)
    return (scan.site.grey_gain * _smooth(grey, scan.site.grey_blur_mm)).astype(np.float32)


@cache
def template() -> np.ndarray:
    """Return the grey matter of a head of `MEAN_TIV_ML` at the mean age, shape `SHAPE`; always the same."""
    fine_mm = VOXEL_MM / FINE
    first = FIRST_MM - VOXEL_MM / 2 + fine_mm / 2
    xyz = np.moveaxis(np.indices([FINE * n for n in SHAPE]), 0, -1) * fine_mm + first
    cerebrum, cerebellum = radius(xyz, CEREBRUM), radius(xyz, CEREBELLUM) <= 1
    inside = (cerebrum <= 1) & ~cerebellum & (radius(xyz, VENTRICLES) > 1)
    subcortex = inside & (radius(xyz, SUBCORTEX) <= 1)
    folds = np.cos(2 * np.pi * np.abs(xyz) / FOLD_MM).prod(-1)  # the same on both sides
    cortex = (inside & ~subcortex & (cerebrum >= CORTEX_FROM)) * (1 + 0.6 * folds)
    fine = DENSITY["cortex"] * cortex + DENSITY["subcortex"] * subcortex + DENSITY["cerebellum"] * cerebellum
    fine = gaussian_filter(fine, RIBBON_SD_MM / fine_mm, mode="constant")
    x, y, z = SHAPE
    coarse = fine.reshape(x, FINE, y, FINE, z, FINE).mean((1, 3, 5))
    coarse[coarse < 0.01] = 0
    return coarse * (GREY_SHARE * MEAN_TIV_ML / grey_ml(coarse))


@cache
def blobs(which: tuple[Blob, ...]) -> np.ndarray:
    """Return where an effect is planted: 1 at the centre of a blob on either side, falling off as a Gaussian."""
    xyz = np.moveaxis(np.indices(SHAPE), 0, -1) * VOXEL_MM + FIRST_MM
    both = [((side * x, y, z), sd) for _, (x, y, z), sd in which for side in (1, -1)]
    return np.max([np.exp(-np.square(xyz - np.array(centre)).sum(-1) / (2 * sd**2)) for centre, sd in both], axis=0)


def grey_ml(grey: np.ndarray) -> float:
    """Return the volume of a modulated map, mL."""
    return float(grey.sum(dtype=np.float64) * VOXEL_MM**3 / 1000)


def _smooth(volume: np.ndarray, fwhm_mm: float) -> np.ndarray:
    sd_voxels = fwhm_mm / 8**0.5 / np.log(2) ** 0.5 / VOXEL_MM
    return gaussian_filter(volume, sd_voxels, mode="constant") if fwhm_mm else volume


@cache
def _smoothed_sd(fwhm_mm: float) -> float:
    """Return the standard deviation of smoothed white noise, away from the edge of the grid."""
    impulse = np.zeros(SHAPE)
    impulse[tuple(n // 2 for n in SHAPE)] = 1
    return float(np.sqrt(np.square(_smooth(impulse, fwhm_mm)).sum()))
