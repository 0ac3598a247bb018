"""A task as the template reads it: verdict, leaderboard, figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from neuropipe.config import Task
from neuropipe.report import decoding, forest, rollouts, task_figures, words
from neuropipe.report.beside import Beside
from neuropipe.report.figure import Figure
from neuropipe.report.forest import Forest
from neuropipe.report.tables import NAMES, Board
from neuropipe.report.words import Verdict

METHODS = {
    "bootstrap": "bootstrap over people",
    "bootstrap_stratified": "bootstrap over people within class",
    "bootstrap_descriptive": "bootstrap over people, descriptive",
    "bootstrap_stratified_descriptive": "bootstrap over people within class, descriptive",
    "exact_pairs": "exact, over separate pairs of people",
    "exact_pairs_descriptive": "exact, over separate pairs of people, descriptive",
    "corrected_resampled": "corrected resampled t over folds",
}


@dataclass(frozen=True)
class BoardView:
    """A leaderboard: its plot and its table.

    ``reference`` is the name of what all are compared with, ``short`` what the column of differences calls it;
    ``has`` says which columns of the table are shown; ``common`` says in words what is the same
    for all systems and needs no column.
    """

    name: str
    board: Board
    forest: Forest
    metric: str
    reference: str
    short: str
    has: dict[str, bool]
    common: str


@dataclass(frozen=True)
class TaskView(BoardView):
    """One task: verdict, leaderboard, the leaderboards of test datasets, what else features tell, figures."""

    verdict: Verdict
    question: str
    external: list[BoardView]
    figures: list[Figure]


def question(task: Task) -> str:
    """Return in words what a task asks."""
    if task.kind == "binary":
        return f"Is a person’s {task.target} “{task.positive}”?"
    if task.kind == "decoding":
        return f"Which {task.target} is a person in?"
    if task.kind == "multiclass":
        return f"Which {task.target} does a person have?"
    return f"What is a person’s {task.target}?"


def task_view(
    board: Board,
    predictions: pd.DataFrame | None,
    attention: Sequence[rollouts.Maps] = (),
    clips: decoding.Clips | None = None,
    beside: Beside | None = None,
    external: Mapping[str, Board] | None = None,
) -> TaskView:
    """Return a task as the template reads it.

    `attention` are the maps of its fine-tuned networks for slices; `clips` are what decoding tasks judge;
    `external` are the leaderboards of its test datasets.
    """
    own = clips.tested(board.name) if clips is not None and board.task.kind == "decoding" else None
    beside = beside or Beside()
    figures = [] if board.task.kind == "decoding" else task_figures.of_people(board, predictions, beside)
    if own is not None:
        figures = task_figures.of_clips(board, own, beside)
    return TaskView(
        **vars(board_view(board)),
        verdict=words.verdict(board),
        question=_population(board, predictions) if own is None else _judged_clips(board, own),
        external=[replace(board_view(other), name=name) for name, other in (external or {}).items()],
        figures=[*figures, *map(task_figures.of_attention, attention)],
    )


def board_view(board: Board) -> BoardView:
    """Return a leaderboard as the template reads it."""
    entries = board.entries
    compared = board.best("reference")
    reference = compared.system.name if compared else ""
    deltas = [entry.differences[reference] for entry in entries if reference in entry.differences]
    return BoardView(
        name=board.name,
        board=board,
        forest=forest.draw(board),
        metric=NAMES[board.metric],
        reference=reference,
        short=board.reference.short,
        has={
            "pooled": any(math.isfinite(entry.pooled) for entry in entries),
            "delta": any(math.isfinite(delta.value) for delta in deltas),
            "corrected": any(math.isfinite(delta.p_corrected) for delta in deltas),
            "shuffled": any(math.isfinite(entry.p_perm) for entry in entries),
            "method": len({entry.ci_method for entry in entries}) > 1,
            "sizes": len({(entry.n_train, entry.n_test) for entry in entries}) > 1,
        },
        common=_common(board),
    )


def _common(board: Board) -> str:
    """Return what all systems of a leaderboard share: how intervals were made, and how many people there are."""
    parts = []
    if len(methods := {entry.ci_method for entry in board.entries}) == 1:
        parts.append(f"Intervals: {method(methods.pop())}.")
    if len(sizes := {(entry.n_train, entry.n_test) for entry in board.entries}) == 1:
        n_train, n_test = sizes.pop()
        each = " on average" if len(board.folds) else ""
        parts.append(f"People: {n_train:.0f} in training{each}, {n_test:.0f} in testing.")
    if any(entry.ci_method.startswith("exact_pairs") for entry in board.entries):
        parts.append(
            "Where a ranking is perfect, resampling shows no doubt; the exact interval holds however scores are "
            "distributed, so it is wider than the bootstrap of a nearly perfect ranking."
        )
    if any(entry.ci_low == entry.ci_high for entry in board.entries if entry.system.role != "majority"):
        parts.append("An interval without width means that all resamples of these few people agree, not certainty.")
    return " ".join(parts)


def method(name: str) -> str:
    """Return how an interval was made, in words."""
    return METHODS.get(name, name.replace("_", " ")) or "none"


def _population(board: Board, predictions: pd.DataFrame | None) -> str:
    """Return the question and who answered it."""
    asked = question(board.task)
    tested = task_figures.tested(board, predictions)
    if tested is None:
        return asked
    people = tested.drop_duplicates(["dataset", "participant_id"])
    n_folds = tested[["repeat", "fold"]].drop_duplicates().shape[0]
    judged = f"{len(people)} people judged" + (f" in {n_folds} folds" if n_folds > 1 else " in one test set")
    if board.task.kind == "binary":
        judged += f", {int(people['y'].sum())} of them {board.task.positive}"
    elif board.task.kind == "regression":
        judged += f", {board.task.target} {people['y'].mean():.1f} ± {people['y'].std():.1f} (mean ± SD)"
    return f"{asked} {judged}."


def _judged_clips(board: Board, rows: pd.DataFrame) -> str:
    """Return the question and how many clips of how many people answered it."""
    clips = rows.drop_duplicates("clip")
    n_people = clips[["dataset", "participant_id"]].drop_duplicates().shape[0]
    labels = ", ".join(f"{name} {n}" for name, n in clips.groupby(["y", "label"]).size().droplevel(0).items())
    return f"{question(board.task)} {len(clips)} clips of {n_people} test people judged: {labels}."
