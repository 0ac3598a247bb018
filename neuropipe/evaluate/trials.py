"""A decoding task on a split: labelled clips, whose they are, and on which side of every fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuropipe.errors import InputError, SplitError
from neuropipe.evaluate.question import Fold, Question, inner_folds
from neuropipe.shards.read import Shards
from neuropipe.splits.people import People

N_INNER_PIECES = 5  # of one person's clips, where there is nobody else to choose by


@dataclass(frozen=True, eq=False)
class Trials:
    """Labelled clips as a question: persons are divided, clips are judged.

    Attributes
    ----------
    question : Question
        Of persons; its target says who has a clip.
    table : DataFrame
        One row per clip, sorted by key: columns of ``clips.parquet`` with ``source`` (dataset's place in `sources`),
        ``position`` (row of its manifest) and ``row`` (row of `People.table`).
    labels : list of str
        In the order of the label map; those that no clip has are left out.
    y : int64 ndarray (n_clips,)
        Place of each clip's label.
    sources : list of Shards
    """

    question: Question
    table: pd.DataFrame
    labels: list[str]
    y: np.ndarray
    sources: list[Shards]

    def __len__(self) -> int:
        return len(self.table)

    def of(self, people: np.ndarray) -> np.ndarray:
        """Return the clips (rows of `table`) of some people (rows of `People.table`)."""
        return np.flatnonzero(np.isin(self.table["row"].to_numpy(), people))

    def of_recording(self, column: str) -> np.ndarray:
        """Return what the manifests say of each clip's recording, float64 (n_clips,)."""
        values = [source.manifest[column].to_numpy(float) for source in self.sources]
        return np.array([values[s][p] for s, p in zip(self.table["source"], self.table["position"], strict=True)])

    def t_r(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the repetition times (s) of some clips."""
        return self.of_recording("t_r")[rows]

    def inner(self, people: np.ndarray) -> np.ndarray:
        """Return the inner fold (int) of each clip of the training side `people`.

        Persons and kin stay together. The clips of a single person are divided in pieces that follow each other.
        """
        clips = self.of(people)
        everyone = self.question.people
        if everyone.table["person"].iloc[people].nunique() < 2:
            return np.arange(len(clips)) * min(N_INNER_PIECES, len(clips)) // len(clips)
        fold = dict(zip(people, inner_folds(everyone, people, self.question.seed), strict=True))
        return self.table["row"].iloc[clips].map(fold).to_numpy()


def gather(question: Question, sources: Sequence[Shards]) -> Trials:
    """Return the clips of the people whom a question asks.

    Raises
    ------
    InputError
        Datasets give one label different places, or there are fewer than two labels.
    SplitError
        The training side of a fold has clips of one label only.
    """
    table = clips_of(question.people, sources)
    table = table[table["row"].isin(np.flatnonzero(question.target.known))].reset_index(drop=True)
    labels = _labels(table, question.target.task)
    y = table["label"].map({name: place for place, name in enumerate(labels)}).to_numpy(np.int64)
    trials = Trials(question, table, labels, y, list(sources))
    for fold in question.folds:
        if len(found := np.unique(y[trials.of(fold.train)])) < 2:
            raise SplitError(
                f"Task {question.target.task!r}, fold {fold.name} of the split {question.split!r}: the training side "
                f"needs clips of two labels, found {', '.join(labels[k] for k in found) or 'none'}. Make the split "
                "again."
            )
    return trials


def clips_of(people: People, sources: Sequence[Shards]) -> pd.DataFrame:
    """Return the labelled clips of all `sources`, with ``source``, ``position`` and ``row``, sorted by key."""
    place = people.recordings.set_index("key")[["source", "position", "row"]]
    parts = []
    for number, source in enumerate(sources):
        own = place[place["source"] == number]
        if unknown := sorted(set(source.clips["sample"]) - set(own.index)):
            raise InputError(
                f"{source.folder / 'clips.parquet'} names {unknown[0]}, which is not in the shards; run "
                "`neuropipe clips` again."
            )
        parts.append(source.clips.join(own, on="sample"))
    return pd.concat(parts, ignore_index=True).sort_values("key", ignore_index=True)


def _labels(table: pd.DataFrame, task: str) -> list[str]:
    """Return the labels that occur, in the order of their ids."""
    found = table[["label", "label_id"]].drop_duplicates().sort_values("label_id")
    if found["label"].duplicated().any() or found["label_id"].duplicated().any():
        raise InputError(
            f"tasks.{task}.datasets: the label maps of its datasets differ; give all of them the same events: labels."
        )
    if len(found) < 2:
        raise InputError(f"tasks.{task}: decoding needs clips of two labels at least, found {found['label'].tolist()}.")
    return found["label"].astype(str).tolist()


def drawn_people(trials: Trials, fold: Fold, sizes: Sequence[int], draws: int) -> list[tuple[int, int, np.ndarray]]:
    """Return, for the label-efficiency grid, (number of people, draw, rows of `People.table`) for one fold.

    A draw is one random order of the training persons, whose first ones are taken, so that its curve grows by adding
    people. Relatives come and go together; all of the training side is taken once. Every system sees the same draws.
    """
    table = trials.question.people.table
    persons = np.array(sorted(table["person"].iloc[fold.train].unique()))
    wanted = [n for n in sorted(set(sizes)) if n < len(persons)]
    found = []
    for draw in range(draws if wanted else 0):
        rng = np.random.default_rng([trials.question.seed, fold.repeat, *fold.name.encode(), draw])
        order = rng.permutation(persons)
        for n in wanted:
            found.append((n, draw, fold.train[table["person"].iloc[fold.train].isin(order[:n]).to_numpy()]))
    return [*found, (len(persons), 0, fold.train)]
