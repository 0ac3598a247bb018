"""The score of the OpenBHB challenge: age from embeddings on seen and unseen sites, against what they tell of the site.

Ridge and logistic regression on frozen embeddings, chosen by 5-fold cross-validation within the training people, as
the challenge defines them (Dufumier et al. 2022); scikit-learn's own estimators, so that numbers can be set beside
published ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error
from sklearn.model_selection import GridSearchCV

from neuropipe.errors import InputError

SIDES = ("train", "internal_test", "external_test")
STRENGTHS = [0.01, 0.1, 1.0, 10.0, 100.0]  # of Ridge's alpha, and of the logistic regression's C
N_FOLDS = 5
MAX_FEATURES = 10_000  # the challenge takes fewer
MAX_ITERATIONS = 150
EXPONENT = 0.3
N_SITES = 64  # of the challenge


@dataclass(frozen=True)
class Result:
    """What embeddings reach.

    Attributes
    ----------
    mae_internal, mae_external : float
        Mean absolute error of age in years, on sites of the training people and on others.
    site_accuracy : float
        Balanced accuracy (a share) of the site, on test people of the training sites; lower is better.
    published : float or None
        The score as its authors print it, from numbers before rounding.
    """

    mae_internal: float
    mae_external: float
    site_accuracy: float
    published: float | None = None

    @property
    def score(self) -> float:
        """What the challenge ranks by; lower is better."""
        return score(self.mae_external, self.site_accuracy) if self.published is None else self.published


# Residual networks (ResNet-18) of Barbano et al. 2022, arXiv:2211.08326, on the challenge's private test people.
PUBLISHED = {
    "y-Aware, ResNet-18": Result(2.66, 4.10, 0.066, 1.82),
    "L_threshold, ResNet-18": Result(2.95, 4.10, 0.057, 1.74),
    "L_exp, ResNet-18": Result(2.55, 3.76, 0.051, 1.54),
}


def score(mae_external: float, site_accuracy: float) -> float:
    """Return ``MAE on unseen sites * balanced accuracy of the site ** 0.3``, in years; lower is better."""
    return mae_external * site_accuracy**EXPONENT


def judge(embeddings: np.ndarray, age: np.ndarray, site: Sequence[str], side: Sequence[str], seed: int = 0) -> Result:
    """Return what embeddings reach on the challenge.

    Parameters
    ----------
    embeddings : ndarray of shape (n, d)
        One row per person, fewer than `MAX_FEATURES` columns; they are read as they are.
    age : ndarray of shape (n,)
        Years.
    site : sequence of str
        Scanner and acquisition.
    side : sequence of str
        ``train``, ``internal_test`` or ``external_test``; others are ignored.
    seed : int
        Of the order in which saga draws people.

    Raises
    ------
    InputError
        A side is empty, a value is missing, or there are too many features.
    """
    site, side = np.asarray(site, dtype=str), np.asarray(side, dtype=str)
    train, internal, external = (np.flatnonzero(side == name) for name in SIDES)
    _check(embeddings, age, site, {"train": train, "internal_test": internal, "external_test": external})
    ridge = GridSearchCV(Ridge(), {"alpha": STRENGTHS}, scoring="r2", cv=N_FOLDS)
    ridge.fit(embeddings[train], age[train])
    logistic = GridSearchCV(
        LogisticRegression(solver="saga", max_iter=MAX_ITERATIONS, random_state=seed),
        {"C": STRENGTHS},
        scoring="balanced_accuracy",
        cv=N_FOLDS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the challenge stops after 150 iterations
        logistic.fit(embeddings[train], site[train])
    return Result(
        mean_absolute_error(age[internal], ridge.predict(embeddings[internal])),
        mean_absolute_error(age[external], ridge.predict(embeddings[external])),
        balanced_accuracy_score(site[internal], logistic.predict(embeddings[internal])),
    )


def chance(age: np.ndarray, site: Sequence[str], side: Sequence[str]) -> Result:
    """Return what knowing nothing about a person gives: the mean training age, and a guess among the sites."""
    site, side = np.asarray(site, dtype=str), np.asarray(side, dtype=str)
    mean = age[side == "train"].mean()
    errors = (float(np.abs(age[side == name] - mean).mean()) for name in SIDES[1:])
    return Result(*errors, 1 / len(set(site[side == "train"])))


def _check(embeddings: np.ndarray, age: np.ndarray, site: np.ndarray, sides: dict[str, np.ndarray]) -> None:
    if empty := [name for name, rows in sides.items() if len(rows) == 0]:
        raise InputError(f"The challenge needs people of {', '.join(SIDES)}; found nobody of {', '.join(empty)}.")
    if embeddings.shape[1] >= MAX_FEATURES:
        raise InputError(f"The challenge takes fewer than {MAX_FEATURES} features, found {embeddings.shape[1]}.")
    used = np.concatenate(list(sides.values()))
    if not (np.isfinite(embeddings[used]).all() and np.isfinite(age[used]).all()):
        raise InputError("Every person of the challenge needs an embedding and an age; found missing values.")
    unseen = sorted(set(site[sides["internal_test"]]) - set(site[sides["train"]]))
    if unseen:
        raise InputError(f"internal_test is of the training sites, found people of {', '.join(unseen[:5])} as well.")
