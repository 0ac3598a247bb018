"""Learning curves: how well linear readouts tell test people when only some of the training people have labels.

The features of a fold stay what they are: a network was trained, and features are centred, scaled and filled, on the
whole training side, without labels. What a curve draws are the people whose labels a readout learns from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from neuropipe.evaluate import kernel_path
from neuropipe.evaluate.linear import Path, nested
from neuropipe.evaluate.metrics import METRICS, Scored
from neuropipe.evaluate.question import N_INNER_FOLDS, Fold, Question

SMALLEST, LARGEST = 16, 1024  # of the doublings; all of the training side is the last point in any case
MOST = 0.75  # share of the training side beyond which draws would be much the same people
LEAST = 2  # persons of each class, as far as there are
METRIC_NAMES = {
    "binary": ("auroc", "balanced_accuracy", "brier"),
    "multiclass": ("balanced_accuracy", "macro_f1"),
    "regression": ("mae", "r2", "pearson_r"),
}


@dataclass(frozen=True, eq=False)
class Draw:
    """Some of the training people of a fold.

    Attributes
    ----------
    n_people, number : int
        How many persons (a family is one), and which draw of as many.
    rows : int ndarray
        Rows of `People.table`.
    inner : int ndarray
        Inner fold of each, for the choice of a strength; kin together, classes evenly.
    """

    n_people: int
    number: int
    rows: np.ndarray
    inner: np.ndarray


def sizes(n_persons: int) -> list[int]:
    """Return how many of `n_persons` training persons are drawn: 16, 32, 64 ..., all of them left out."""
    doublings = SMALLEST * 2 ** np.arange(16)
    return [int(n) for n in doublings if n <= min(MOST * n_persons, LARGEST)]


def draws(question: Question, fold: Fold) -> list[Draw]:
    """Return the people that readouts learn from, the same for every system.

    A draw is one random order of persons, of each class the first few of which are taken in proportion (and at least
    `LEAST`), so that its curve grows by adding people. Relatives come and go together, and count as their first.
    """
    family = question.people.table["person"].to_numpy()[fold.train]
    unit, names = pd.factorize(family, sort=True)
    label = np.zeros(len(names))
    if question.target.kind != "regression":
        label = question.target.y[fold.train][np.unique(unit, return_index=True)[1]]
    classes, counts = np.unique(label, return_counts=True)
    found = []
    for number in range(question.learning_draws):
        rng = np.random.default_rng([question.seed, fold.repeat, *fold.name.encode(), number])
        order = rng.permutation(len(names))
        for n in sizes(len(names)):
            quotas = zip(classes, _quotas(counts, n), strict=True)
            drawn = np.concatenate([order[label[order] == value][:quota] for value, quota in quotas])
            inner = np.full(len(names), -1)
            inner[drawn] = np.arange(n) % N_INNER_FOLDS
            chosen = inner[unit] >= 0
            found.append(Draw(n, number, fold.train[chosen], inner[unit][chosen]))
    return sorted(found, key=lambda draw: draw.n_people)


def _quotas(counts: np.ndarray, n: int) -> np.ndarray:
    """Return how many of each class are among `n` persons: its share, but `LEAST` of it."""
    exact = n * counts / counts.sum()
    quotas = np.maximum(np.floor(exact).astype(int), np.minimum(LEAST, counts))
    while quotas.sum() != n:
        step = np.sign(n - quotas.sum())
        quotas[np.argmax(step * (exact - quotas))] += step
    return quotas


def curve(
    question: Question, fold: Fold, model: type[Path], coordinates: np.ndarray, prediction: np.ndarray, logit: bool
) -> Iterator[dict[str, Any]]:
    """Yield ``n_people, draw, metric, value`` of a readout on one fold.

    Parameters
    ----------
    model : type
        A readout of `coordinates`.
    coordinates : ndarray of shape (n_people, ...)
        Of the fold's training side.
    prediction : ndarray of shape (n_test,) or (n_test, n_classes)
        What the readout that learned from everybody says of the test people: the last point.
    logit : bool
        Predictions are log odds.
    """
    if not question.learning_draws or question.target.kind not in METRIC_NAMES:
        return
    for draw in draws(question, fold):
        said = _answer(question, fold, model, coordinates, draw)
        yield from _scores(question, fold, logit, draw.rows, said, n_people=draw.n_people, draw=draw.number)
    everyone = question.people.table["person"].iloc[fold.train].nunique()
    yield from _scores(question, fold, logit, fold.train, prediction, n_people=everyone, draw=0)


def _answer(question: Question, fold: Fold, model: type[Path], coordinates: np.ndarray, draw: Draw) -> np.ndarray:
    """Return what a readout that learned from a draw says of the test people."""
    y, train, tested = question.columns(draw.rows)[:, :1], coordinates[draw.rows], coordinates[fold.test]
    if model in kernel_path.FITS and y.ndim == 2:
        return kernel_path.prediction(model, train, y[:, 0], tested, draw.inner)
    return nested(model, train, y, tested, draw.inner).prediction[:, 0]


def _scores(
    question: Question, fold: Fold, logit: bool, rows: np.ndarray, prediction: np.ndarray, **point: int
) -> Iterator[dict[str, Any]]:
    """Yield one row per metric for what a readout that learned from `rows` says of the test people."""
    y, kind = question.target.y, question.target.kind
    mean = np.full((1, len(fold.test)), y[rows].mean())
    if kind == "multiclass":
        scored = Scored(y[None, fold.test], prediction.argmax(axis=1)[None], None, mean)
    elif logit:
        probability = expit(prediction)[None]
        scored = Scored(y[None, fold.test], probability, prediction[None], mean, probability)
    else:
        scored = Scored(y[None, fold.test], prediction[None], None, mean)
    for name in METRIC_NAMES[kind]:
        metric = METRICS[kind][name]
        if scored.allows(metric):
            yield {**point, "metric": name, "value": float(metric.compute(scored, np.ones(mean.shape))[0])}
