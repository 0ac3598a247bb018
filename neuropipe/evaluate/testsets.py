"""Predictions and nulls as arrays: one test set per run and fold, and all folds of a run pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.evaluate import tables
from neuropipe.evaluate.metrics import METRICS, Metric, Scored

MEAN, POOLED = "mean", "pooled"  # values of `fold` that are no single fold
KEYS = ["repeat", "fold", "dataset", "participant_id"]
RUN_FACTS = [name for name in (*tables.RUN, *tables.FOLD) if name in tables.METRICS]


@dataclass(frozen=True, eq=False)
class TestSet:
    """The test people of one fold (or of all folds, pooled) as one run predicted them.

    Attributes
    ----------
    name : str
        The fold; ``mean`` where the split has one fold only; ``pooled``.
    people : tuple of str
        Fold and id of every row: runs with equal `people` are compared person by person.
    units : int ndarray (n,)
        Number of each row's person (or family).
    scored : Scored
        Labels and predictions, one row.
    null : Scored or None
        One row per draw.
    facts : dict
        What a row of metrics says about the run and its people.
    """

    name: str
    people: tuple[str, ...]
    units: np.ndarray
    scored: Scored
    null: Scored | None
    facts: dict[str, Any]

    @property
    def binary(self) -> bool:
        """Whether labels are 0 and 1."""
        return self.facts["target_type"] == "binary"

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that these predictions allow."""
        every = METRICS[self.facts["target_type"]]
        return {
            name: metric for name, metric in every.items() if self.scored.logit is not None or not metric.probability
        }


def test_sets(rows: pd.DataFrame, nulls: pd.DataFrame | None) -> list[TestSet]:
    """Return the folds of a run and, of several, all of them pooled as the last.

    Parameters
    ----------
    rows : DataFrame
        A run's rows of the predictions, test people only.
    nulls : DataFrame or None
        Its rows of the nulls.

    Raises
    ------
    InputError
        A person is predicted twice in a fold, or the nulls are of other people.
    """
    rows = rows.sort_values(KEYS, ignore_index=True)
    run_id = rows["run_id"].iloc[0]
    if (twice := rows[rows.duplicated(KEYS)]).size:
        named = ", ".join(twice["participant_id"].unique()[:5])
        raise InputError(f"The predictions of {run_id} name {named} more than once in a fold; give each file once.")
    draws = None if nulls is None else _draws(rows, nulls, run_id)
    folds = list(rows.groupby(["repeat", "fold"], sort=False).indices.items())
    if len(folds) == 1:
        return [_test_set(MEAN, rows, draws)]
    parts = [_test_set(fold, rows.iloc[at], None if draws is None else draws[:, :, at]) for (_, fold), at in folds]
    return [*parts, _test_set(POOLED, rows, draws)]


def _draws(rows: pd.DataFrame, nulls: pd.DataFrame, run_id: str) -> np.ndarray:
    """Return permuted labels and their predictions, (2, draws, n), in the order of `rows`."""
    nulls = rows[KEYS].merge(nulls, on=KEYS, how="left")
    if nulls["prediction"].isna().any():
        raise InputError(f"The nulls of {run_id} do not cover its test people; give predictions and nulls of one run.")
    return np.stack([np.stack(nulls[column].to_list(), axis=1) for column in ("y", "prediction")]).astype(float)


def _test_set(name: str, rows: pd.DataFrame, draws: np.ndarray | None) -> TestSet:
    regression = rows["target_type"].iloc[0] == "regression"
    prediction = rows["yhat" if regression else "score"].to_numpy(float)
    logit = rows["logit"].to_numpy(float)
    mean = rows["train_mean"].to_numpy(float)[None]
    known = bool(np.isfinite(logit).all())
    null = None
    if draws is not None:  # a readout that gives log odds has a null of log odds
        null = Scored(draws[0], 1 / (1 + np.exp(-draws[1])) if known else draws[1], draws[1] if known else None, mean)
    return TestSet(
        name=name,
        people=tuple(rows["fold"] + "/" + rows["dataset"] + "/" + rows["participant_id"]),
        units=pd.factorize(rows["person"])[0],
        scored=Scored(rows["y"].to_numpy(float)[None], prediction[None], logit[None] if known else None, mean),
        null=null,
        facts=_facts(rows) | {"fold": name},
    )


def clip_sets(rows: pd.DataFrame, permutations: int, seed: int) -> list[TestSet]:
    """Return the folds of a decoding run and, of several, all of them pooled as the last; units are persons.

    The null exchanges the labels of each test person's clips among them, and leaves the decoder as it is: where it
    knows nothing, any order of a person's labels is as probable as the true one, so the test is exact.

    Parameters
    ----------
    rows : DataFrame
        A run's rows of `tables.DECODING`, test people only.
    permutations, seed : int
        Of the null; runs on the same clips share the draws.

    Raises
    ------
    InputError
        A clip is predicted twice in a fold.
    """
    rows = rows.sort_values([*KEYS, "clip"], ignore_index=True)
    if (twice := rows[rows.duplicated(["repeat", "fold", "clip"])]).size:
        raise InputError(
            f"The predictions of {rows['run_id'].iloc[0]} name the clip {twice['clip'].iloc[0]} more than once in a "
            "fold; give each file once."
        )
    draws = _shuffled_clips(rows, permutations, seed)
    folds = list(rows.groupby(["repeat", "fold"], sort=False).indices.items())
    if len(folds) == 1:
        return [_clip_set(MEAN, rows, draws)]
    parts = [_clip_set(fold, rows.iloc[at], draws[:, at]) for (_, fold), at in folds]
    return [*parts, _clip_set(POOLED, rows, draws)]


def _shuffled_clips(rows: pd.DataFrame, permutations: int, seed: int) -> np.ndarray:
    """Return labels (permutations, n) that are permuted among the clips of each person of each fold."""
    y, draws = rows["y"].to_numpy(np.int64), np.empty((permutations, len(rows)), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for at in rows.groupby(KEYS, sort=False).indices.values():
        draws[:, at] = y[at][np.argsort(rng.random((permutations, len(at))), axis=1)]
    return draws


def _clip_set(name: str, rows: pd.DataFrame, draws: np.ndarray) -> TestSet:
    y, predicted = (rows[column].to_numpy(np.int64)[None] for column in ("y", "yhat"))
    unknown = np.full((1, len(rows)), np.nan)  # the mean of labels means nothing
    return TestSet(
        name=name,
        people=tuple(rows["fold"] + "/" + rows["clip"]),
        units=pd.factorize(rows["person"])[0],
        scored=Scored(y, predicted, None, unknown),
        null=Scored(draws, predicted, None, unknown) if len(draws) else None,
        facts=_facts(rows) | {"fold": name, "n_test": rows["person"].nunique()},
    )


def _facts(rows: pd.DataFrame) -> dict[str, Any]:
    """Return what the metrics of these rows say besides values: of whom, by what, how many."""
    folds = rows.drop_duplicates(["repeat", "fold"])
    checkpoints, repeats = rows["checkpoint_sha256"].unique(), rows["repeat"].unique()
    return {
        **rows[RUN_FACTS].iloc[0].to_dict(),
        "checkpoint_sha256": checkpoints[0] if len(checkpoints) == 1 else pd.NA,
        "pretrain_overlap_n": folds["pretrain_overlap_n"].sum(min_count=1),
        "dataset": "+".join(sorted(rows["dataset"].unique())),
        "repeat": repeats[0] if len(repeats) == 1 else pd.NA,
        "n_train": round(folds["n_train"].mean()),
        "n_val": round(folds["n_val"].mean()),
        "n_test": len(rows),
        "prevalence": rows["y"].mean() if rows["target_type"].iloc[0] == "binary" else np.nan,
    }
