"""What a task asks: each person's label or number, and who has none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuropipe.config import Task
from neuropipe.errors import ConfigError, InputError
from neuropipe.shards.read import Shards
from neuropipe.splits.people import People, as_text


@dataclass(frozen=True, eq=False)
class Target:
    """A task's target over the rows of `People.table`.

    Attributes
    ----------
    task : str
        Name of the task.
    column : str
        The participants column that was asked for.
    kind : str
        ``binary``, ``multiclass``, ``regression`` or ``decoding``.
    positive : str or None
        Binary: the value that is coded 1.
    y : float ndarray (n_people,)
        0 or 1, or the place of the class, or the number, or 0 for people with clips; NaN where unknown or where the
        task does not ask the person's dataset.
    classes : tuple of str
        Multiclass: the values of the column, by place.
    test_datasets : tuple of str
        Datasets that nothing learns from.
    """

    task: str
    column: str
    kind: str
    positive: str | None
    y: np.ndarray
    classes: tuple[str, ...] = ()
    test_datasets: tuple[str, ...] = ()

    @property
    def known(self) -> np.ndarray:
        """bool (n_people,): whose target is known."""
        return np.isfinite(self.y)


def class_labels(name: str, task: Task, people: People) -> pd.Series:
    """Return a class target as text (None where missing), indexed by ``<dataset>/<participant_id>``.

    Raises
    ------
    InputError
        Everybody has the same value, or nobody has the positive one.
    ConfigError
        A binary target has more than two values.
    """
    text = people.column(task.target).where(people.table["dataset"].isin(task.asked), None)
    labels = pd.Series([as_text(value) for value in text], index=people.ids, dtype=object)
    classes = sorted(labels.dropna().unique())
    where = f"tasks.{name}: the participants column {task.target!r} of {', '.join(task.asked)}"
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "no value at all"
        raise InputError(
            f"{where} needs two classes among the people with recordings, found {found}. "
            "Check the column, the exclusions and the datasets of the task."
        )
    if task.kind == "binary" and task.positive not in classes:
        raise InputError(f"{where} never has the positive value {task.positive!r}; found {', '.join(classes)}.")
    if task.kind == "binary" and len(classes) > 2:
        raise ConfigError(
            f"{where} has {len(classes)} values ({', '.join(classes)}) but the task is binary. Select two of them "
            "with another column (n/a for people who are not asked)."
        )
    return labels


def has_clips(name: str, task: Task, people: People, sources: list[Shards]) -> Target:
    """Return the target of a decoding task: 0 for everyone with a labelled clip, NaN for everyone else.

    What is to be told are the labels of clips; see `neuropipe.evaluate.trials`.
    """
    clips = pd.concat([source.clips[["dataset", "participant_id"]] for source in sources])
    having = people.ids.isin(set(clips["dataset"] + "/" + clips["participant_id"])).to_numpy()
    return Target(name, task.target, task.kind, None, np.where(having, 0.0, np.nan))


def read_target(name: str, task: Task, people: People) -> Target:
    """Return the target of a task.

    Raises
    ------
    InputError, ConfigError
        The column cannot answer the question; see `class_labels`.
    """
    if task.kind == "multiclass":
        labels = class_labels(name, task, people)
        classes = tuple(sorted(labels.dropna().unique()))
        y = labels.map({label: float(place) for place, label in enumerate(classes)}).to_numpy(float)
        return Target(name, task.target, task.kind, None, y, classes, tuple(task.test_datasets))
    if task.kind == "binary":
        labels = class_labels(name, task, people)
        y = np.where(labels.isna(), np.nan, (labels == task.positive).astype(float))
        return Target(name, task.target, task.kind, task.positive, y, test_datasets=tuple(task.test_datasets))
    y = people.numbers(task.target).where(people.table["dataset"].isin(task.asked)).to_numpy()
    if len(np.unique(y[np.isfinite(y)])) < 2:
        raise InputError(f"tasks.{name}: the participants column {task.target!r} does not vary; name another target.")
    return Target(name, task.target, task.kind, None, y, test_datasets=tuple(task.test_datasets))
