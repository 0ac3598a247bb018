"""The one protocol by which every system answers a question: same people, same folds, same null."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.evaluate import attentive, learning, tables
from neuropipe.evaluate.features import Features, Kernel
from neuropipe.evaluate.linear import STRENGTHS, Logistic, Path, Ridge, nested
from neuropipe.evaluate.question import Fold, Question, inner_folds

READOUTS: dict[str, type[Path]] = {"ridge": Ridge, "logistic": Logistic}
ATTENTIVE = "attentive"  # reads tokens, not one vector per person


@dataclass(frozen=True)
class System:
    """Who answers: a name, its seed, and what is known of its training.

    Attributes
    ----------
    name : str
        Recipe or baseline.
    seed : int or None
        Seed of the model.
    facts : dict
        Columns of `tables.RUN` that belong to the system.
    fold_facts : dict of str to dict
        By fold name: columns of `tables.FOLD` that belong to the system (checkpoint, overlap).
    """

    name: str
    seed: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    fold_facts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Answer:
    """The tables of one or more runs, with the columns of `tables`."""

    predictions: pd.DataFrame
    nulls: pd.DataFrame
    choices: pd.DataFrame
    costs: pd.DataFrame
    efficiency: pd.DataFrame

    @classmethod
    def join(cls, answers: list[Answer]) -> Answer:
        """Return the tables of several answers one below the other."""
        parts = []
        for name in ("predictions", "nulls", "choices", "costs", "efficiency"):
            columns = getattr(tables, name.upper())
            rows = [table for one in answers if len(table := getattr(one, name))]
            parts.append(pd.concat(rows, ignore_index=True) if rows else tables.frame([], columns))
        return cls(*parts)


def resolve_readouts(names: list[str], kind: str) -> list[str]:
    """Return the linear readouts for a kind of target: numbers have ridge; of classes, ``linear`` means logistic."""
    names = [name for name in names if name != ATTENTIVE] or ["linear"]
    if kind == "regression":
        return ["ridge"]
    return list(dict.fromkeys("logistic" if name == "linear" else name for name in names))


def answer(
    question: Question, system: System, readout: str, features: Callable[[Fold], Features | Kernel | attentive.Tokens]
) -> Answer:
    """Let a readout of frozen `features` answer a question, with its null.

    Parameters
    ----------
    question : Question
        What is asked.
    system : System
        Whose features these are.
    readout : str
        ``ridge`` or ``logistic``, or ``attentive`` for tokens.
    features : callable
        Features of a fold, one row per person of `question.people`.
    """
    started = time.perf_counter()
    model = attentive.READOUT[question.target.kind] if readout == ATTENTIVE else READOUTS[readout]
    run_id = _run_id(question, system, readout)
    predictions, nulls, choices, efficiency, seconds = [], [], [], [], 0.0
    for fold in question.folds:
        table = features(fold)
        coordinates = table.coordinates(fold.train)
        result = nested(
            model,
            coordinates[fold.train],
            question.labels[fold.train],
            coordinates[fold.judged],
            inner_folds(question.people, fold.train, question.seed),
        )
        predictions.append(_predictions(question, system, readout, fold, result.prediction[:, 0]))
        nulls += _nulls(question, run_id, fold, result.prediction[:, 1:])
        choices += [
            {
                "run_id": run_id,
                "repeat": fold.repeat,
                "fold": fold.name,
                "n_features": table.n_features,
                "strength": strength,
                "inner_loss": loss,
                "chosen": place == result.chosen[0],
            }
            for place, (strength, loss) in enumerate(zip(STRENGTHS, result.inner_loss[:, 0], strict=True))
        ]
        begun, facts = time.perf_counter(), run_facts(question, system, readout, fold)
        tested = _of_test(fold, result.prediction)[:, 0]
        points = learning.curve(question, fold, model, coordinates, tested, _gives_logits(question, readout))
        efficiency += [facts | point for point in points]
        seconds += time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    costs = [
        _cost(question, system, readout, "readout and null", time.perf_counter() - started - seconds, "s"),
        _cost(question, system, readout, "learning curve", seconds, "s"),
        _cost(question, system, readout, "peak memory of the process", memory, "byte"),
    ]
    return Answer(
        pd.concat(predictions, ignore_index=True),
        tables.frame(nulls, tables.NULLS),
        tables.frame(choices, tables.CHOICES),
        tables.frame(costs, tables.COSTS),
        tables.frame(efficiency, tables.EFFICIENCY),
    )


def constant_answer(question: Question, system: System) -> Answer:
    """Let the training side's prevalence or mean answer; it has no null, because it knows no labels of people."""
    predictions = []
    for fold in question.folds:
        mean = question.target.y[fold.train].mean()
        constant = np.log(mean / (1 - mean)) if question.target.kind == "binary" else mean
        value = np.full(len(fold.judged), constant)
        predictions.append(_predictions(question, system, "baseline", fold, value))
    return replace(Answer.join([]), predictions=pd.concat(predictions, ignore_index=True))


def given_answer(
    question: Question,
    system: System,
    readout: str,
    value: dict[str, np.ndarray],
    uncertainty: dict[str, np.ndarray],
    seconds: float,
) -> Answer:
    """Return the tables of an answer that was found elsewhere; it has no null.

    Parameters
    ----------
    value, uncertainty : dict of str to ndarray
        By fold, for its `judged` people: log odds or numbers, and how unsure they are.
    seconds : float
        Taken by training and prediction.
    """
    predictions = [
        _predictions(question, system, readout, fold, value[fold.name]).assign(uncertainty=uncertainty[fold.name])
        for fold in question.folds
    ]
    costs = [_cost(question, system, readout, "training and prediction", seconds, "s")]
    found = {"predictions": pd.concat(predictions, ignore_index=True), "costs": tables.frame(costs, tables.COSTS)}
    return replace(Answer.join([]), **found)


def _cost(question: Question, system: System, readout: str, measure: str, value: float, unit: str) -> dict[str, Any]:
    """Return a row of the table of costs."""
    return {
        "run_id": _run_id(question, system, readout),
        "system": system.name,
        "task": question.target.task,
        "readout": readout,
        "seed": system.seed,
        "measure": measure,
        "value": value,
        "unit": unit,
    }


def _of_test(fold: Fold, prediction: np.ndarray) -> np.ndarray:
    """Return the rows of predictions of the `judged` that are of test people."""
    return prediction[len(fold.validation) :][: len(fold.test)]


def _gives_logits(question: Question, readout: str) -> bool:
    """Return whether predictions are log odds; ridge gives scores."""
    return question.target.kind == "binary" and readout != "ridge"


def _run_id(question: Question, system: System, readout: str) -> str:
    seed = "" if system.seed is None else f"_seed-{system.seed}"
    name = system.name.replace(tables.BESIDE, "_beside_")
    return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{question.target.task}_{name}").strip("-") + f"_{readout}{seed}"


def run_facts(question: Question, system: System, readout: str, fold: Fold) -> dict[str, Any]:
    """Return what every row of one run and fold says: columns of `tables.RUN` and `tables.FOLD`."""
    target = question.target
    return {
        **question.facts,
        **system.facts,
        **system.fold_facts.get(fold.name, {}),
        "run_id": _run_id(question, system, readout),
        "system": system.name,
        "task": target.task,
        "readout": readout,
        "split": question.split,
        "split_scheme": question.scheme,
        "seed": system.seed,
        "target": target.column,
        "target_type": target.kind,
        "positive": target.positive,
        "repeat": fold.repeat,
        "fold": fold.name,
        "n_train": len(fold.train),
        "n_val": len(fold.validation),
    }


def _predictions(question: Question, system: System, readout: str, fold: Fold, value: np.ndarray) -> pd.DataFrame:
    """Return one fold's rows; `value` is what the readout gives for `fold.judged` (classes: log odds or a score)."""
    target, rows = question.target, fold.judged
    binary, logit = target.kind == "binary", _gives_logits(question, readout)
    people = question.people.table.iloc[rows]
    table = people[["dataset", "participant_id", "person", "site", "sex"]].reset_index(drop=True)
    facts = run_facts(question, system, readout, fold) | {"train_mean": target.y[fold.train].mean()}
    score = 1 / (1 + np.exp(-value)) if logit else value
    table = table.assign(
        **facts,
        role=fold.roles,
        y=target.y[rows],
        score=score if binary else np.nan,
        yhat=np.nan if binary else value,
        logit=value if logit else np.nan,
    )
    return tables.frame(table.reindex(columns=list(tables.PREDICTIONS)), tables.PREDICTIONS)


def _nulls(question: Question, run_id: str, fold: Fold, prediction: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield one row per test person: permuted labels, and predictions of readouts trained on permuted labels."""
    if prediction.shape[1] == 0:
        return
    people = question.people.table
    tested = _of_test(fold, prediction).astype(np.float32)
    for row, values in zip(fold.test, tested, strict=True):
        yield {
            "run_id": run_id,
            "repeat": fold.repeat,
            "fold": fold.name,
            "dataset": people["dataset"].iat[row],
            "participant_id": people["participant_id"].iat[row],
            "y": question.labels[row, 1:].astype(np.float32),
            "prediction": values,
        }
