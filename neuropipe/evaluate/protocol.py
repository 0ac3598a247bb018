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
from scipy.special import expit, logit, softmax
from threadpoolctl import threadpool_limits

from neuropipe.config import BESIDE
from neuropipe.evaluate import attentive, knn, learning, shares, tables
from neuropipe.evaluate.drivers import Regional
from neuropipe.evaluate.features import Blocks, Features, Kernel
from neuropipe.evaluate.linear import Logistic, Path, Ridge
from neuropipe.evaluate.multinomial import Softmax
from neuropipe.evaluate.question import Fold, Question, inner_folds
from neuropipe.evaluate.targets import Target

LINEAR = ("ridge", "logistic")
ATTENTIVE = "attentive"  # reads tokens, not one vector per person
READOUTS: dict[str, dict[str, type[Path]]] = {  # by kind of target
    "binary": {"ridge": Ridge, "logistic": Logistic, "knn": knn.Votes, ATTENTIVE: attentive.AttentiveLogistic},
    "multiclass": {"ridge": Ridge, "logistic": Softmax, "knn": knn.Votes},
    "regression": {"ridge": Ridge, "knn": knn.Means, ATTENTIVE: attentive.AttentiveRidge},
}


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
    drivers: pd.DataFrame
    efficiency: pd.DataFrame

    @classmethod
    def join(cls, answers: list[Answer]) -> Answer:
        """Return the tables of several answers one below the other."""
        parts = []
        for name in ("predictions", "nulls", "choices", "costs", "drivers", "efficiency"):
            columns = getattr(tables, name.upper())
            rows = [table for one in answers if len(table := getattr(one, name))]
            parts.append(pd.concat(rows, ignore_index=True) if rows else tables.frame([], columns))
        return cls(*parts)


def resolve_readouts(names: list[str], kind: str) -> list[str]:
    """Return the readouts of one vector per person for a kind of target.

    ``linear`` is logistic for classes and ridge for numbers, which have nothing else that is linear. Where only
    ``attentive`` is asked for, linear ones stand beside it.
    """
    names = [name for name in names if name != ATTENTIVE] or ["linear"]
    linear = "ridge" if kind == "regression" else "logistic"
    known = READOUTS.get(kind, {})
    return list(dict.fromkeys(name if name in known else linear for name in names))


@threadpool_limits.wrap(limits=1, user_api="blas")  # on busy machines several threads wait for each other
def answer(
    question: Question,
    system: System,
    readout: str,
    features: Callable[[Fold], Features | Kernel | Blocks | attentive.Tokens],
    regional: Regional | None = None,
) -> Answer:
    """Let a readout of frozen `features` answer a question, with its null.

    Parameters
    ----------
    question : Question
        What is asked.
    system : System
        Whose features these are.
    readout : str
        One of `READOUTS` for the kind of target; ``attentive`` reads tokens.
    features : callable
        Features of a fold, one row per person of `question.people`.
    regional : Regional, optional
        What the regions' part in the answer is told by. Where these are the very features of a linear readout, by the
        scores of the training side that it was fitted to, else by those of the test people.
    """
    started = time.perf_counter()
    model = READOUTS[question.target.kind][readout]
    run_id = _run_id(question, system, readout)
    predictions, nulls, choices, patterns, efficiency, seconds = [], [], [], [], [], 0.0
    for fold in question.folds:
        table = features(fold)
        inner = inner_folds(question.people, fold.train, question.seed)
        labels = question.columns(fold.train)
        asked = np.concatenate([fold.judged, fold.train])  # the training side for what drives the answer
        result, coordinates = shares.read(model, table, fold.train, asked, labels, inner)
        said = result.prediction[: len(fold.judged)]
        predictions.append(_predictions(question, system, readout, fold, said[:, 0]))
        nulls += _nulls(question, run_id, fold, said[:, 1:])
        if regional is not None and result.prediction.ndim == 2:
            fitted = table is regional.features and readout in LINEAR
            rows = np.arange(len(fold.judged), len(asked)) if fitted else np.arange(len(asked))[_tested(fold)]
            patterns.append(regional.pattern(asked[rows], result.prediction[rows, 0]))
        choices += [
            {
                "run_id": run_id,
                "repeat": fold.repeat,
                "fold": fold.name,
                "n_features": table.n_features,
                **setting,
                "inner_loss": loss,
                "chosen": place == result.chosen[0],
            }
            for place, (setting, loss) in enumerate(zip(result.tried, result.inner_loss[:, 0], strict=True))
        ]
        begun, facts = time.perf_counter(), run_facts(question, system, readout, fold)
        points = learning.curve(
            question, fold, model, coordinates, said[_tested(fold), 0], _gives_logits(question, readout)
        )
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
        _drivers(question, system, readout, regional, patterns),
        tables.frame(efficiency, tables.EFFICIENCY),
    )


def constant_answer(question: Question, system: System) -> Answer:
    """Let the training side's prevalence or mean answer; it has no null, because it knows no labels of people."""
    predictions = []
    for fold in question.folds:
        mean = question.columns(fold.train)[:, 0].mean(axis=0)
        constant = {"binary": logit, "multiclass": np.log}.get(question.target.kind, float)(mean)
        value = np.repeat(np.asarray(constant)[None], len(fold.judged), axis=0)
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


def _tested(fold: Fold) -> slice:
    """Return the places of test people among those who are judged."""
    return slice(len(fold.validation), len(fold.validation) + len(fold.test))


def _drivers(
    question: Question, system: System, readout: str, regional: Regional | None, patterns: list[np.ndarray]
) -> pd.DataFrame:
    """Return the mean over folds of every region's pattern; nothing where there is none."""
    if regional is None or not patterns:
        return tables.frame([], tables.DRIVERS)
    about = _about(question, system, readout)
    return tables.frame(regional.table.assign(**about, weight=np.mean(patterns, axis=0)), tables.DRIVERS)


def _about(question: Question, system: System, readout: str) -> dict[str, Any]:
    """Return which run a row of costs or drivers is of."""
    return {
        "run_id": _run_id(question, system, readout),
        "system": system.name,
        "task": question.target.task,
        "readout": readout,
        "seed": system.seed,
    }


def _cost(question: Question, system: System, readout: str, measure: str, value: float, unit: str) -> dict[str, Any]:
    """Return a row of the table of costs."""
    return _about(question, system, readout) | {"measure": measure, "value": value, "unit": unit}


def _gives_logits(question: Question, readout: str) -> bool:
    """Return whether predictions are log odds; ridge gives scores."""
    return question.target.kind == "binary" and readout != "ridge"


def _run_id(question: Question, system: System, readout: str) -> str:
    seed = "" if system.seed is None else f"_seed-{system.seed}"
    name = system.name.replace(BESIDE, "_beside_")
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
    """Return one fold's rows; `value` is what the readout gives for `fold.judged`.

    That is log odds or a score; of several classes, logits (or scores) in columns; or numbers.
    """
    target, rows = question.target, fold.judged
    people = question.people.table.iloc[rows]
    table = people[["dataset", "participant_id", "person", "site", "sex"]].reset_index(drop=True)
    mean = np.nan if target.kind == "multiclass" else target.y[fold.train].mean()
    table = table.assign(
        **run_facts(question, system, readout, fold),
        train_mean=mean,
        role=fold.roles,
        y=target.y[rows],
        **_said(target, readout, value),
    )
    if target.kind == "multiclass":
        table["label"] = [target.classes[int(place)] for place in target.y[rows]]
    return tables.frame(table.reindex(columns=list(tables.PREDICTIONS)), tables.PREDICTIONS)


def _said(target: Target, readout: str, value: np.ndarray) -> dict[str, Any]:
    """Return the columns of `tables.PREDICTIONS` that a readout fills; ridge gives no probabilities."""
    if target.kind == "regression":
        return {"yhat": value}
    if target.kind == "binary":
        return {"score": value} if readout == "ridge" else {"score": expit(value), "logit": value}
    place = value.argmax(axis=1)
    said = {"yhat": place, "predicted": [target.classes[p] for p in place]}
    return said if readout == "ridge" else said | {"probability": list(softmax(value, axis=1).astype(np.float32))}


def _nulls(question: Question, run_id: str, fold: Fold, prediction: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield one row per test person: permuted labels, and predictions of readouts trained on permuted labels."""
    if prediction.shape[1] == 0:
        return
    people = question.people.table
    if prediction.ndim == 3:  # of several classes, the place of the most probable
        prediction = prediction.argmax(axis=2)
    tested = prediction[_tested(fold)].astype(np.float32)
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
