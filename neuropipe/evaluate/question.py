"""A task put on a split: who is on which side of every fold, the labels, and the permutations of the null."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.config import EXTERNAL
from neuropipe.errors import InputError, SplitError
from neuropipe.evaluate.targets import Target
from neuropipe.splits.make import fold_numbers, ordered_units
from neuropipe.splits.people import People

N_INNER_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of `People.table` (int arrays) on each side of one fold, people without a target left out.

    ``external`` are the people of the task's test datasets, the same in every fold.
    """

    repeat: int
    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    external: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def judged(self) -> np.ndarray:
        """Rows that are predicted: validation, then test, then external."""
        return np.concatenate([self.validation, self.test, self.external])

    @property
    def roles(self) -> list[str]:
        """The roles of the `judged`."""
        sides = {"validation": self.validation, "test": self.test, EXTERNAL: self.external}
        return [role for role, rows in sides.items() for _ in rows]


@dataclass(frozen=True, eq=False)
class Question:
    """A task on a split: everything that a system needs to answer it, and nothing about systems.

    Attributes
    ----------
    people, target, split
        Who, what, and the name and scheme of the split.
    folds : list of Fold
        In the order of the split's table.
    labels : float ndarray (n_people, 1 + draws)
        The target, then its permutations; NaN rows where it is unknown.
    seed : int
        Of inner folds.
    facts : dict
        Columns of `tables.RUN` that hold for every system: hashes, atlas.
    learning_draws : int
        Draws of people for each point of a learning curve; 0 leaves curves out.
    related : int ndarray
        Rows of the test datasets who are, or are kin of, people of the task's other datasets: nobody asks them.
    """

    people: People
    target: Target
    split: str
    scheme: str
    folds: list[Fold]
    labels: np.ndarray
    seed: int
    facts: dict[str, Any] = field(default_factory=dict)
    learning_draws: int = 0
    related: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def columns(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of some people as readouts learn them: (n, 1 + draws), of several classes one-hot.

        Then it is (n, 1 + draws, n_classes), in the order of `Target.classes`.
        """
        if self.target.kind != "multiclass":
            return self.labels[rows]
        return (self.labels[rows][:, :, None] == np.arange(len(self.target.classes))).astype(float)


def ask(
    people: People, target: Target, table: pd.DataFrame, *, draws: int, seed: int, facts: dict[str, Any] | None = None
) -> Question:
    """Return the question that a target puts on a split's table.

    Parameters
    ----------
    draws : int
        Permutations of the null.
    seed : int
        Of permutations and inner folds; combined with the task's name.

    Raises
    ------
    SplitError
        The table does not cover everyone with a recording, or a side has nobody with a target.
    """
    target, external, related = _set_apart(people, target)
    rows = dict(zip(people.ids, range(len(people)), strict=True))
    ids = table["dataset"] + "/" + table["participant_id"]
    known = set(people.ids[target.known & ~np.isin(np.arange(len(people)), external)])
    if unlisted := sorted(known - set(ids)):
        raise SplitError(
            f"The split {table['split'].iloc[0]!r} does not list {len(unlisted)} people of task {target.task!r}: "
            f"{', '.join(unlisted[:5])}. Make the split again."
        )
    folds = []
    for (repeat, name), part in table[ids.isin(known)].groupby(["repeat", "fold"], sort=False):
        place = (part["dataset"] + "/" + part["participant_id"]).map(rows).to_numpy()
        side = {role: np.sort(place[part["role"] == role]) for role in ("train", "validation", "test")}
        for role in ("train", "test"):
            if len(side[role]) == 0 or len(np.unique(target.y[side[role]])) < _least_classes(target, role):
                raise SplitError(
                    f"Task {target.task!r}, fold {name} of the split {table['split'].iloc[0]!r}: the {role} side needs "
                    f"people of every class, found {len(side[role])} people with a target. Make the split again."
                )
        folds.append(Fold(int(repeat), str(name), side["train"], side["validation"], side["test"], external))
    task_seed = zlib.crc32(target.task.encode())
    rng = np.random.default_rng([seed, task_seed])
    labels = permuted(target.y, null_blocks(people, folds), draws, rng, people.individuals.to_numpy())
    scheme = str(table["scheme"].iloc[0])
    split = str(table["split"].iloc[0])
    return Question(people, target, split, scheme, folds, labels, seed, facts or {}, related=related)


def _set_apart(people: People, target: Target) -> tuple[Target, np.ndarray, np.ndarray]:
    """Return the target without people of the test datasets whom training may know, and who is external and related.

    Raises
    ------
    SplitError
        A test dataset has nobody left, or not every class.
    """
    dataset, person = people.table["dataset"], people.table["person"]
    outside = dataset.isin(target.test_datasets).to_numpy()
    known_elsewhere = outside & person.isin(person[~outside]).to_numpy()
    apart = replace(target, y=np.where(known_elsewhere, np.nan, target.y))
    external, related = np.flatnonzero(outside & apart.known), np.flatnonzero(known_elsewhere & target.known)
    for name in sorted(dataset[outside].unique()):
        rows = external[(dataset.iloc[external] == name).to_numpy()]
        needed = 1 if target.kind == "regression" else 2
        if len(np.unique(target.y[rows])) < needed:
            raise SplitError(
                f"Task {target.task!r}: the test dataset {name} needs people of every class whom no training knows, "
                f"found {len(rows)} people with a target, after {len(related)} who are or are related to people of the "
                "task's other datasets were left out. Leave it out of test_datasets, or check its participants.tsv."
            )
    return apart, external, related


def _least_classes(target: Target, role: str) -> int:
    """Return how many classes a side must have: all to learn from, two to be judged."""
    if target.kind == "multiclass" and role == "train":
        return len(target.classes)
    return 2 if target.kind in ("binary", "multiclass") else 0


def null_blocks(people: People, folds: list[Fold]) -> np.ndarray:
    """Return a text block (n_people,) for every person: labels are exchanged within blocks only.

    Blocks are the sites of each dataset (linked datasets are one), divided by side. A split that was
    stratified by label gives every side its share of each class; labels that moved between sides would
    undo that, and what the training side gained the test side would lack, so that shuffled labels would
    score below chance.
    Over repeats nobody has one side, and blocks are sites alone.
    """
    dataset = people.individuals.str.partition("/")[0]
    blocks = (dataset + "/" + people.table["site"]).to_numpy(dtype=object)
    if len({fold.repeat for fold in folds}) > 1:
        return blocks
    side = np.full(len(people), "", dtype=object)
    if len(folds) == 1:
        side[folds[0].validation] = "validation"
    side[folds[0].external] = EXTERNAL
    for fold in folds:
        side[fold.test] = fold.name
    return blocks + "/" + side


def permuted(
    y: np.ndarray, blocks: np.ndarray, draws: int, rng: np.random.Generator, individuals: np.ndarray | None = None
) -> np.ndarray:
    """Return `y` (n,) and `draws` permutations of its known values within `blocks`, as columns (n, 1 + draws).

    Rows of one individual (in linked datasets) are exchanged as one, in the block of the first of them.
    """
    columns = np.repeat(y[:, None], 1 + draws, axis=1)
    known = np.flatnonzero(np.isfinite(y))
    of_row = np.arange(len(known)) if individuals is None else pd.factorize(individuals[known])[0]
    first = known[np.unique(of_row, return_index=True)[1]]
    drawn = np.empty((len(first), draws))
    for block in sorted(set(blocks)):
        rows = np.flatnonzero(blocks[first] == block)
        order = np.argsort(rng.random((len(rows), draws)), axis=0)
        drawn[rows] = y[first[rows]][order]
    columns[known, 1:] = drawn[of_row]
    return columns


def inner_folds(people: People, train: np.ndarray, seed: int, stratify: Sequence[str] = ()) -> np.ndarray:
    """Return the inner fold (int) of each training row: persons and kin together, spread within site.

    Labels play no part unless they are named in `stratify`, so that the choice of strength treats real and permuted
    labels alike.
    """
    rng = np.random.default_rng([seed, len(train)])
    some = replace(people, table=people.table.iloc[train])
    units = ordered_units(some, list(stratify), rng)
    n_folds = min(N_INNER_FOLDS, len(units))
    if n_folds < 2:
        raise InputError(f"Choosing a strength needs two training people at least, found {len(units)}.")
    number = dict(zip(units["person"], fold_numbers(len(units), n_folds, rng), strict=True))
    return some.table["person"].map(number).to_numpy()
