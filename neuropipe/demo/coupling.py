"""What is planted: how diagnosis and age change the coupling of nine networks.

Every person has a correlation matrix of nine network signals (unit variances, so that nothing but coupling can
tell people apart). With ``u`` and ``v`` the unit vectors of the named network pairs over the 36 pairs,

    coupling = POPULATION + diagnosis_step * (patient - 1/2) * pairs_dx + age_slope * z(age) * pairs_age
               + diagnosis_spread * N(0, 1) * u + age_spread * N(0, 1) * v + pair_spread * N(0, I)

``u`` and ``v`` share no pair, so the best scores are the projections on them (`neuropipe.demo.truth` says how good).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# With the sizes, the order of the 457 regions: left cortex, right cortex, subcortex, cerebellum.
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default", "Subcortex", "Cerebellum")
LEFT_CORTEX = (31, 37, 23, 22, 13, 22, 52)
RIGHT_CORTEX = (30, 40, 23, 25, 13, 30, 39)
N_SUBCORTEX = 50
N_CEREBELLUM = 7

Pair = tuple[str, str, int]  # two networks and the sign of the effect
DIAGNOSIS_PAIRS: tuple[Pair, ...] = (
    ("Cont", "Default", -1),
    ("SalVentAttn", "Default", 1),
    ("Limbic", "Subcortex", 1),
)
AGE_PAIRS: tuple[Pair, ...] = (
    ("Vis", "DorsAttn", -1),
    ("SomMot", "Cerebellum", -1),
    ("Vis", "SomMot", 1),
)
BASE_COUPLING = 0.08
POPULATION_PAIRS = {
    ("Vis", "SomMot"): 0.15,
    ("Vis", "DorsAttn"): 0.15,
    ("SomMot", "SalVentAttn"): 0.20,
    ("SomMot", "Cerebellum"): 0.10,
    ("DorsAttn", "SalVentAttn"): 0.15,
    ("DorsAttn", "Default"): -0.10,
    ("SalVentAttn", "Default"): 0.0,
    ("Limbic", "Cont"): 0.08,
    ("Limbic", "Default"): 0.20,
    ("Limbic", "Subcortex"): 0.10,
    ("Cont", "Default"): 0.10,
    ("Subcortex", "Cerebellum"): 0.15,
}

AGE_RANGE = (20.0, 75.0)  # years, uniform
AGE_MEAN = sum(AGE_RANGE) / 2
AGE_SD = (AGE_RANGE[1] - AGE_RANGE[0]) / 12**0.5
SMALLEST_EIGENVALUE = 0.05  # a draw below it is drawn again: no network is nearly a sum of the others


@dataclass(frozen=True)
class Effects:
    """Sizes of what is planted, all in units of correlation."""

    diagnosis_step: float = 0.30
    """Patients minus controls in each of `DIAGNOSIS_PAIRS`, times its sign."""
    age_slope: float = 0.21
    """Change per standard deviation of age (`AGE_SD` years) in each of `AGE_PAIRS`, times its sign."""
    diagnosis_spread: float = 0.20
    """Standard deviation between people along the unit vector of `DIAGNOSIS_PAIRS`, diagnosis apart."""
    age_spread: float = 0.14
    """Standard deviation between people along the unit vector of `AGE_PAIRS`, age apart."""
    pair_spread: float = 0.05
    """Standard deviation between people in every pair of networks."""


def network_ids() -> np.ndarray:
    """Return the network (0-8) of each of the 457 regions, int64: left cortex, right cortex, subcortex, cerebellum."""
    sizes = [*LEFT_CORTEX, *RIGHT_CORTEX, N_SUBCORTEX, N_CEREBELLUM]
    return np.repeat([*range(7), *range(7), 7, 8], sizes)


def pair_index(a: str, b: str) -> tuple[int, int]:
    """Return row and column (row < column) of two networks in a coupling matrix."""
    i, j = sorted((NETWORKS.index(a), NETWORKS.index(b)))
    return i, j


def pattern(pairs: Sequence[Pair]) -> np.ndarray:
    """Return a symmetric (9, 9) array with the sign of each pair at its two places, zero elsewhere."""
    matrix = np.zeros((len(NETWORKS), len(NETWORKS)))
    for a, b, sign in pairs:
        i, j = pair_index(a, b)
        matrix[i, j] = matrix[j, i] = sign
    return matrix


def population() -> np.ndarray:
    """Return the mean coupling (9, 9) over both groups at the mean age."""
    matrix = np.full((len(NETWORKS), len(NETWORKS)), BASE_COUPLING)
    np.fill_diagonal(matrix, 1.0)
    for (a, b), value in POPULATION_PAIRS.items():
        i, j = pair_index(a, b)
        matrix[i, j] = matrix[j, i] = value
    return matrix


def draw_couplings(
    patient: np.ndarray, age: np.ndarray, rng: np.random.Generator, effects: Effects | None = None
) -> np.ndarray:
    """Draw every person's true coupling.

    Parameters
    ----------
    patient : ndarray of bool, shape (n_people,)
    age : ndarray of shape (n_people,), years
    rng : numpy Generator
    effects : Effects, optional
        Sizes of the effects; the demo's by default.

    Returns
    -------
    ndarray of shape (n_people, 9, 9)
        Correlation matrices with unit diagonal, positive definite.
    """
    effects = effects or Effects()
    diagnosis, ageing = pattern(DIAGNOSIS_PAIRS), pattern(AGE_PAIRS)
    along_diagnosis = diagnosis * effects.diagnosis_spread / len(DIAGNOSIS_PAIRS) ** 0.5
    along_age = ageing * effects.age_spread / len(AGE_PAIRS) ** 0.5
    base, n = population(), len(NETWORKS)
    couplings = np.empty((len(patient), n, n))
    for person, (ill, years) in enumerate(zip(patient, age, strict=True)):
        expected = base + effects.diagnosis_step * (float(ill) - 0.5) * diagnosis
        expected = expected + effects.age_slope * (years - AGE_MEAN) / AGE_SD * ageing
        while True:
            own = np.triu(rng.normal(size=(n, n)) * effects.pair_spread, 1)
            drawn = expected + rng.normal() * along_diagnosis + rng.normal() * along_age + own + own.T
            if np.linalg.eigvalsh(drawn)[0] >= SMALLEST_EIGENVALUE:
                break
        couplings[person] = drawn
    return couplings


def score(couplings: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
    """Return each person's coupling along the unit vector of `pairs`, shape (n_people,)."""
    i, j = np.triu_indices(len(NETWORKS), 1)
    return couplings[:, i, j] @ pattern(pairs)[i, j] / len(pairs) ** 0.5
