"""Predictions and nulls as arrays: one test set per run and fold, and all folds of a run pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from neuropipe.errors import InputError
from neuropipe.evaluate import tables
from neuropipe.evaluate.calibration import FIXED, Decision, decide
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
    decisions : tuple of Decision
        How the scores of each fold in it are read; empty where there is nothing to decide.
    """

    name: str
    people: tuple[str, ...]
    units: np.ndarray
    scored: Scored
    null: Scored | None
    facts: dict[str, Any]
    decisions: tuple[Decision, ...] = ()

    @property
    def classes(self) -> bool:
        """Whether labels are classes of people."""
        return self.facts["target_type"] in ("binary", "multiclass")

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that these predictions allow."""
        every = METRICS[self.facts["target_type"]]
        return {name: metric for name, metric in every.items() if self.scored.allows(metric)}


def test_sets(rows: pd.DataFrame, nulls: pd.DataFrame | None, validation: pd.DataFrame | None = None) -> list[TestSet]:
    """Return the folds of a run and, of several, all of them pooled as the last.

    Parameters
    ----------
    rows : DataFrame
        A run's rows of the predictions, test people only.
    nulls : DataFrame or None
        Its rows of the nulls.
    validation : DataFrame, optional
        Its rows of the predictions that are of validation people: they settle temperature, bias and threshold.

    Raises
    ------
    InputError
        A person is predicted twice in a fold, or the nulls are of other people.
    """
    answered = read_answer(rows, validation)
    null = None if nulls is None else _null(answered, nulls)
    if len(answered.folds) == 1:
        return [_test_set(MEAN, answered, null, slice(None), answered.decisions)]
    folds = zip(answered.names, answered.folds, answered.decisions, strict=True)
    parts = [_test_set(name, answered, null, at, [decision]) for name, at, decision in folds]
    return [*parts, _test_set(POOLED, answered, null, slice(None), answered.decisions)]


@dataclass(frozen=True, eq=False)
class Answered:
    """A run's test people as arrays.

    Attributes
    ----------
    rows : DataFrame
        Of the predictions, in order of fold and person.
    names : list of str
        Of folds, in that order.
    folds : list of int ndarray
        Rows of each fold.
    decisions : list of Decision
        One per fold.
    scored : Scored
        All rows.
    """

    rows: pd.DataFrame
    names: list[str]
    folds: list[np.ndarray]
    decisions: list[Decision]
    scored: Scored


def read_answer(rows: pd.DataFrame, validation: pd.DataFrame | None = None) -> Answered:
    """Return a run's predictions of test people, read as its validation people suggest; see `test_sets`."""
    rows = rows.sort_values(KEYS, ignore_index=True)
    if (twice := rows[rows.duplicated(KEYS)]).size:
        named = ", ".join(twice["participant_id"].unique()[:5])
        raise InputError(
            f"The predictions of {rows['run_id'].iloc[0]} name {named} more than once in a fold; give each file once."
        )
    kind = rows["target_type"].iloc[0]
    folds = rows.groupby(["repeat", "fold"], sort=False).indices
    decisions = [_decision(validation, *fold) if kind == "binary" else Decision() for fold in folds]
    y, mean = rows["y"].to_numpy(float)[None], rows["train_mean"].to_numpy(float)[None]
    if kind == "binary":
        scored = _binary(rows, y, mean, list(folds.values()), decisions)
    else:
        scored = Scored(y, rows["yhat"].to_numpy(float)[None], None, mean, _shares(rows))
    return Answered(rows, [fold for _, fold in folds], list(folds.values()), decisions, scored)


def _decision(validation: pd.DataFrame | None, repeat: int, fold: str) -> Decision:
    """Return what a fold's validation people settle."""
    if validation is None:
        return Decision()
    own = validation[(validation["repeat"] == repeat) & (validation["fold"] == fold)].sort_values(KEYS)
    y, score, logit = (own[column].to_numpy(float) for column in ("y", "score", "logit"))
    return decide(y, score, logit if np.isfinite(logit).all() else None) if len(own) else Decision()


def _binary(
    rows: pd.DataFrame, y: np.ndarray, mean: np.ndarray, folds: list[np.ndarray], decisions: list[Decision]
) -> Scored:
    """Return scores of a binary target with calibrated probabilities and calls, fold by fold."""
    score, logit = rows["score"].to_numpy(float), rows["logit"].to_numpy(float)
    known = bool(np.isfinite(logit).all())
    calibrated, called = logit.copy(), np.zeros(len(rows), dtype=bool)
    for at, decision in zip(folds, decisions, strict=True):
        calibrated[at] = decision.log_odds(logit[at])
        judged = expit(calibrated[at]) if decision.calibrates else score[at]
        called[at] = judged >= decision.threshold
    if not known:
        return Scored(y, score[None], None, mean, called=called[None])
    raw = expit(logit)[None] if any(decision.calibrates for decision in decisions) else None
    return Scored(y, score[None], calibrated[None], mean, expit(calibrated)[None], called[None], raw)


def _shares(rows: pd.DataFrame) -> np.ndarray | None:
    """Return the probabilities of all labels (n_labels, n); None where a row has none.

    Raises
    ------
    InputError
        Rows have probabilities of different numbers of labels.
    """
    if "probability" not in rows or (given := rows["probability"]).isna().any():
        return None
    if len(counts := sorted({len(shares) for shares in given})) > 1:
        raise InputError(
            f"The predictions of {rows['run_id'].iloc[0]} give probabilities of {counts[0]} labels in one row and "
            f"{counts[-1]} in another; give each row one of every label."
        )
    return np.stack(given.to_list(), axis=1).astype(float)


def _draws(rows: pd.DataFrame, nulls: pd.DataFrame) -> np.ndarray:
    """Return permuted labels and their predictions, (2, draws, n), in the order of `rows`."""
    nulls = rows[KEYS].merge(nulls, on=KEYS, how="left")
    if nulls["prediction"].isna().any():
        raise InputError(
            f"The nulls of {rows['run_id'].iloc[0]} do not cover its test people; give predictions and nulls of one "
            "run."
        )
    return np.stack([np.stack(nulls[column].to_list(), axis=1) for column in ("y", "prediction")]).astype(float)


def _null(answered: Answered, nulls: pd.DataFrame) -> Scored:
    """Return permuted labels and what readouts that learned them predict, all rows of a run.

    A readout that gives log odds has a null of log odds. A null of calibrated probabilities there is none: its
    readouts have no validation people. Where validation people chose the threshold, every draw calls as many people
    of a fold positive as the run does, so that labels alone decide who is right.
    """
    scored, (labels, prediction) = answered.scored, _draws(answered.rows, nulls)
    if answered.rows["target_type"].iloc[0] != "binary":
        return Scored(labels, prediction, None, scored.train_mean)
    logit = None if scored.logit is None else prediction
    score = prediction if logit is None else expit(logit)
    called = score >= Decision().threshold
    for at, decision in zip(answered.folds, answered.decisions, strict=True):
        if decision.source != FIXED:
            rank = np.argsort(np.argsort(-score[:, at], axis=1, kind="stable"), axis=1)
            called[:, at] = rank < scored.calls[0, at].sum()
    probability = score if scored.raw is None and logit is not None else None
    return Scored(labels, score, logit, scored.train_mean, probability, called, None if scored.raw is None else score)


def _test_set(
    name: str, answered: Answered, null: Scored | None, at: np.ndarray | slice, decisions: list[Decision]
) -> TestSet:
    rows = answered.rows.iloc[at]
    return TestSet(
        name=name,
        people=tuple(rows["fold"] + "/" + rows["dataset"] + "/" + rows["participant_id"]),
        units=pd.factorize(rows["person"])[0],
        scored=answered.scored.take(at),
        null=None if null is None else null.take(at),
        facts=facts_of(rows) | {"fold": name},
        decisions=tuple(decisions),
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
        scored=Scored(y, predicted, None, unknown, _shares(rows)),
        null=Scored(draws, predicted, None, unknown) if len(draws) else None,
        facts=facts_of(rows) | {"fold": name, "n_test": rows["person"].nunique()},
    )


def facts_of(rows: pd.DataFrame) -> dict[str, Any]:
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
