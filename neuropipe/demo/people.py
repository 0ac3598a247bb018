"""Who takes part: sites, ages, diagnoses, and how much everyone moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from neuropipe.demo.coupling import AGE_RANGE

MEDIAN_FD_MM = 0.15
LOG_FD_SD = 0.35  # within a group
LOG_FD_STEP = 0.28  # patients move more: d = 0.8, an AUROC of 0.71 for mean FD alone
FD_LIMITS_MM = (0.05, 0.38)  # below the usual limit of 0.5
AGE_JITTER = 2.0  # years between the patient and the control of a pair


@dataclass(frozen=True)
class Site:
    """A scanner and its marks on the data.

    Attributes
    ----------
    t_r : float, s
    n_volumes, n_pairs : int
        Length of a run; patients (and as many controls) examined here.
    gain : float
        Factor on all intensities.
    noise_percent : float
        Standard deviation of a voxel's white noise, in % of its mean.
    n_unsteady : int
        First volumes that are too bright, before the magnetisation is steady.
    grey_gain : float
        Factor on the grey matter that is found in a structural scan.
    grey_blur_mm : float
        Blur of that grey matter, full width at half maximum.
    """

    name: str
    t_r: float
    n_volumes: int
    n_pairs: int
    gain: float
    noise_percent: float
    n_unsteady: int = 0
    grey_gain: float = 1.0
    grey_blur_mm: float = 0.0


SITES = (
    Site("alder", t_r=2.0, n_volumes=320, n_pairs=10, gain=1.0, noise_percent=1.2),
    Site("birch", t_r=1.5, n_volumes=425, n_pairs=8, gain=0.7, noise_percent=1.4, grey_gain=0.93, grey_blur_mm=6.0),
    Site(
        "cedar",
        t_r=2.5,
        n_volumes=255,
        n_pairs=6,
        gain=1.6,
        noise_percent=1.3,
        n_unsteady=1,
        grey_gain=1.06,
        grey_blur_mm=9.0,
    ),
)


def draw_people(rng: np.random.Generator, sites: Sequence[Site] = SITES) -> pd.DataFrame:
    """Draw the participants: at every site, pairs of a patient and a control of one sex and about one age.

    Ages and motion are spread evenly over their distributions, so that even a small study has the planted relation
    of motion to diagnosis, and none of age or sex to diagnosis.

    Returns
    -------
    DataFrame
        Columns participant_id, age (years), sex, diagnosis, site, and mean_fd_mm: the mean framewise displacement
        that the person's first run is given.
    """
    parts = []
    for site in sites:
        n = site.n_pairs
        pair_age = AGE_RANGE[0] + (AGE_RANGE[1] - AGE_RANGE[0]) * _spread(n, rng)
        age = np.tile(pair_age, 2) + rng.uniform(-AGE_JITTER / 2, AGE_JITTER / 2, 2 * n)
        sex = np.tile(rng.choice(["F", "M"], n), 2)
        diagnosis = np.repeat(["patient", "control"], n)
        columns = {"age": age.clip(*AGE_RANGE).round(1), "sex": sex, "diagnosis": diagnosis, "site": site.name}
        parts.append(pd.DataFrame(columns))
    people = pd.concat(parts, ignore_index=True)
    for diagnosis, side in (("patient", 0.5), ("control", -0.5)):
        members = people.index[people["diagnosis"] == diagnosis]
        log_fd = np.log(MEDIAN_FD_MM) + LOG_FD_STEP * side + LOG_FD_SD * ndtri(_spread(len(members), rng))
        people.loc[members, "mean_fd_mm"] = np.exp(log_fd).clip(*FD_LIMITS_MM)
    people = people.iloc[rng.permutation(len(people))].reset_index(drop=True)  # a label tells nothing
    people.insert(0, "participant_id", [f"sub-{number:03d}" for number in range(1, len(people) + 1)])
    return people[["participant_id", "age", "sex", "diagnosis", "site", "mean_fd_mm"]]


def _spread(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return `n` numbers in (0, 1) in random order, one in each n-th of the interval."""
    return (rng.permutation(n) + rng.uniform(0.1, 0.9, n)) / n
