"""What every transform was fitted on, and the proof: other people's features change nothing on the training side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neuropipe.evaluate.features import Blocks, Features, Kernel
from neuropipe.evaluate.harmony import Harmony
from neuropipe.evaluate.question import Fold, Question

CHECK = "no transform fitted outside the training side"
TOLERANCE = 1e-3  # of the training side's inner products, whose diagonal is 1 on average; single precision stays below

Any_ = Features | Kernel | Blocks


def transforms(
    question: Question, system: str, run_id: str, features: Callable[[Fold], Any_], harmony: Harmony | None = None
) -> list[dict[str, Any]]:
    """Return the check of a system's transforms on the first fold: standardising, and ComBat where there is one.

    Everybody who is not on the training side gets other features, and the training side's coordinates are made
    again. A scaler, or a harmonisation, that had looked beyond the training side would move them.
    """
    fold = question.folds[0]

    def made(values: Any_) -> Any_:
        return values if harmony is None else harmony.on(values, fold.train)

    return [checked(features(fold), fold.train, made, run_id)]


def checked(features: Any_, train: np.ndarray, made: Callable[[Any_], Any_], where: str) -> dict[str, Any]:
    """Return whether `made` depends on rows beyond `train`.

    Parameters
    ----------
    features : Features, Kernel or Blocks
        As they were before any transform.
    train : int ndarray
        Rows of the training side.
    made : callable
        The transforms.

    Returns
    -------
    dict
        ``check, where, value, expected, passed``; the value is the largest change of any inner product of the
        training side's coordinates.
    """
    own, other = (_products(made(values), train) for values in (features, disturbed(features, train)))
    change = float(np.abs(own - other).max())
    return {
        "check": CHECK,
        "where": where,
        "value": change,
        "expected": f"at most {TOLERANCE:g}: what changes on the training side when all other people's features do",
        "passed": change <= TOLERANCE,
    }


def disturbed(features: Any_, train: np.ndarray) -> Any_:
    """Return features in which everyone beyond `train` is quite another: mirrored, three times as large, and moved."""
    if isinstance(features, Blocks):
        return Blocks(tuple(disturbed(part, train) for part in features.parts))
    if isinstance(features, Kernel):
        sign = np.full(len(features.gram), -3.0)
        sign[train] = 1
        return Kernel(features.gram * sign[:, None] * sign, features.n_features)
    values = features.values.copy()
    others = np.setdiff1d(np.arange(len(values)), train)
    values[others] = 1 - 3 * values[others]
    return Features(values, features.scaled)


def _products(features: Any_, train: np.ndarray) -> np.ndarray:
    """Return the inner products of the training side's coordinates, which no rotation changes."""
    at = features.coordinates(train)[train]
    return at @ at.T
