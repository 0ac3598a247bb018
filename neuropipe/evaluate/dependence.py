"""How far predictions still depend on confounds among people with the same target."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.stats import rankdata

from neuropipe.evaluate.testsets import MEAN, POOLED, facts_of
from neuropipe.evaluate.uncertainty import LEVEL, permutation_p

PREFIX = "dependence_"
PERSON = ["dataset", "participant_id"]
MIN_PEOPLE = 10


def rows(tested: pd.DataFrame, confounds: pd.DataFrame, permutations: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield one row of metrics per run and confound of a task.

    Parameters
    ----------
    tested : DataFrame
        A task's rows of the predictions, test people only.
    confounds : DataFrame
        Its rows of `tables.CONFOUNDS`.
    permutations, seed : int
        Of the null.
    """
    for run_id, run in tested.groupby("run_id", sort=True):
        people = _people(run)
        facts = facts_of(run) | {"fold": MEAN if run["fold"].nunique() == 1 else POOLED}
        for name, values in confounds.groupby("confound", sort=True):
            rng = np.random.default_rng([seed, zlib.crc32(f"{run_id}/{name}".encode())])
            yield facts | {"metric": f"{PREFIX}{name}"} | _dependence(people, values, permutations, rng)


def _people(run: pd.DataFrame) -> pd.DataFrame:
    """Return one row per test person: target, and prediction (list over labels), the mean over repeats."""
    kind = run["target_type"].iloc[0]
    if kind == "multiclass" and run["probability"].notna().all():
        columns = np.stack(run["probability"].to_list())
    else:
        best = run["logit"].fillna(run["score"]) if kind == "binary" else run["yhat"]
        columns = best.to_numpy(float)[:, None]
    table = pd.DataFrame(columns).assign(**{name: run[name].to_numpy() for name in [*PERSON, "y"]})
    table = table.groupby(PERSON, sort=True).mean().reset_index()
    table["classes"] = kind != "regression"
    return table


def _dependence(
    people: pd.DataFrame, confound: pd.DataFrame, permutations: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return value, interval and null of one run's dependence on one confound; NaN where too little is known."""
    known = people.merge(confound, on=PERSON, how="inner")
    numeric = confound["number"].notna().any()
    known = known[known["number"].notna() if numeric else known["text"].notna()]
    if len(known) < MIN_PEOPLE:
        return {"n_test": len(known), "value": np.nan}
    prediction = known[[name for name in people if isinstance(name, int)]].to_numpy(float)
    design = known["number"].to_numpy(float)[:, None] if numeric else _dummies(known["text"])
    given = _dummies(known["y"]) if known["classes"].iloc[0] else rankdata(known["y"])[:, None]
    value, null = partial_correlation(
        rankdata(prediction, axis=0), rankdata(design, axis=0) if numeric else design, given, permutations, rng
    )
    low, high = fisher_interval(value, len(known), given.shape[1]) if numeric else (np.nan, np.nan)
    row = {"n_test": len(known), "value": value, "ci_low": low, "ci_high": high}
    row |= {"ci_method": "fisher_z" if numeric else pd.NA}
    if len(null) and np.isfinite(value):
        row |= {"null_mean": np.mean(null), "p_perm": permutation_p(abs(value), np.abs(null), 1)}
    return row


def _dummies(values: pd.Series) -> np.ndarray:
    """Return one column per value but the first."""
    return pd.get_dummies(values, drop_first=True).to_numpy(float)


def partial_correlation(
    prediction: np.ndarray, confound: np.ndarray, given: np.ndarray, permutations: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Return the partial (multiple) correlation of predictions with a confound, given the target, and its null.

    ``sqrt`` of the share of the predictions' variance that the confound explains, of what the target leaves
    unexplained; with the sign of the slope where one column meets one column. With ranks it is Spearman's partial
    correlation, with an indicator of classes for `given` it is within classes, and with several columns of
    predictions the explained and unexplained variances are summed (the redundancy index of Stewart & Love 1968).
    The null permutes what the target leaves of the predictions (Freedman & Lane 1983).

    Parameters
    ----------
    prediction : ndarray (n, n_labels)
    confound : ndarray (n, k)
        A number, or indicators of groups.
    given : ndarray (n, q)
        The target.

    Returns
    -------
    value : float
        NaN where the target leaves nothing of one of the two.
    null : ndarray (permutations,)
    """
    n = len(prediction)
    basis = _basis(np.column_stack([np.ones(n), given]))
    rest = _left(prediction, basis)
    other = _basis(_left(confound, basis), confound)
    if not other.shape[1] or (rest**2).sum() <= 1e-12 * ((prediction - prediction.mean(axis=0)) ** 2).sum():
        return np.nan, np.empty(0)

    def correlation(left: np.ndarray) -> float:
        return float(np.sqrt(((other.T @ left) ** 2).sum() / (left**2).sum()))

    null = [correlation(_left(rest[rng.permutation(n)], basis)) for _ in range(permutations)]
    single = prediction.shape[1] == confound.shape[1] == 1
    sign = np.sign((rest * _left(confound, basis)).sum()) if single else 1.0
    return sign * correlation(rest), np.array(null)


def _basis(columns: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """Return an orthonormal basis (n, rank) of the span of columns; what is tiny beside `scale` spans nothing."""
    u, size, _ = np.linalg.svd(columns, full_matrices=False)
    largest = np.linalg.norm(columns if scale is None else scale)
    return u[:, size > 1e-9 * largest]


def _left(columns: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return what a basis leaves of columns."""
    return columns - basis @ (basis.T @ columns)


def fisher_interval(r: float, n: int, n_given: int) -> tuple[float, float]:
    """Return the interval of a partial rank correlation by Fisher's z.

    The variance is ``(1 + r**2 / 2) / (n - n_given - 3)`` (Bonett & Wright 2000, each given variable taking one
    degree of freedom, as Fisher 1924).
    """
    if not np.isfinite(r) or n - n_given <= 3:
        return np.nan, np.nan
    if abs(r) >= 1:
        return r, r
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + r**2 / 2) / (n - n_given - 3))
    low, high = np.tanh([np.arctanh(r) - half, np.arctanh(r) + half])
    return float(low), float(high)
