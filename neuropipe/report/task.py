"""A task as the template reads it: verdict, leaderboard, figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from markupsafe import Markup

from neuropipe.config import Task
from neuropipe.report import decoding, figures, forest, rollouts, words
from neuropipe.report.forest import Forest
from neuropipe.report.systems import System
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
class Figure:
    """A drawing with its caption, the systems that its legend names, and whether three fit side by side."""

    caption: str
    drawing: Markup
    systems: list[System] = field(default_factory=list)
    small: bool = False


@dataclass(frozen=True)
class TaskView:
    """One task: verdict, leaderboard, figures.

    ``reference`` is the name of what all are compared with, ``short`` what the column of differences calls it;
    ``has`` says which columns of the leaderboard are shown; ``common`` says in words what is the same
    for all systems and needs no column.
    """

    name: str
    board: Board
    verdict: Verdict
    forest: Forest
    metric: str
    question: str
    reference: str
    short: str
    has: dict[str, bool]
    common: str
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
) -> TaskView:
    """Return a task as the template reads it.

    `attention` are the maps of its fine-tuned networks for slices; `clips` are what decoding tasks judge.
    """
    own = clips.tested(board.name) if clips is not None and board.task.kind == "decoding" else None
    entries = board.entries
    compared = board.best("reference")
    reference = compared.system.name if compared else ""
    deltas = [entry.differences[reference] for entry in entries if reference in entry.differences]
    return TaskView(
        name=board.name,
        board=board,
        verdict=words.verdict(board),
        forest=forest.draw(board),
        metric=NAMES[board.metric],
        question=_population(board, predictions) if own is None else _judged_clips(board, own),
        reference=reference,
        short=board.reference.short,
        has={
            "pooled": any(math.isfinite(entry.pooled) for entry in entries),
            "delta": any(math.isfinite(delta.value) for delta in deltas),
            "corrected": any(math.isfinite(delta.p_corrected) for delta in deltas),
            "method": len({entry.ci_method for entry in entries}) > 1,
            "sizes": len({(entry.n_train, entry.n_test) for entry in entries}) > 1,
        },
        common=_common(board),
        figures=[
            *([] if own is None else _clip_figures(board, own, clips.grid(board.name, board.metric))),
            *_task_figures(board, predictions),
            *map(_attention, attention),
        ],
    )


def _attention(maps: rollouts.Maps) -> Figure:
    caption = (
        f"Where {maps.system} looks: mean attention rollout of test people over the mean of their slices. It follows "
        "what reaches the class token, and says nothing of what the head reads elsewhere"
    )
    return Figure(caption, rollouts.draw(maps))


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
    tested = _tested(board, predictions)
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


def _clip_figures(board: Board, rows: pd.DataFrame, grid: pd.DataFrame) -> list[Figure]:
    """Return confusion matrices, single people, and the label-efficiency curve of a decoding task."""
    found = []
    for system in chosen(board, ("model", "reference")) or chosen(board, ("connectivity",)):
        drawing = decoding.confusion(rows, system)
        found.append(Figure(f"{system.label}: true states in rows, answers in columns, number of clips", drawing))
    compared = chosen(board, ("model", "scratch", "random", "reference", "connectivity", "confounds"))
    found.append(Figure("Test people, one dot each; the bar is their mean", decoding.people(rows, compared)))
    drawn = [system for system in compared if len(system.rows(grid))]
    if drawn:
        caption = f"{NAMES[board.metric]} by how many people the decoder learned from; dots are draws of people"
        drawing = decoding.efficiency(grid, drawn, NAMES[board.metric], board.chance)
        found.append(Figure(caption, drawing, drawn))
    return found


def _tested(board: Board, predictions: pd.DataFrame | None) -> pd.DataFrame | None:
    if predictions is None:
        return None
    mine = predictions[(predictions["task"] == board.name) & (predictions["role"] == "test")]
    return mine if len(mine) else None


def chosen(board: Board, roles: tuple[str, ...]) -> list[System]:
    """Return the systems that a figure compares: the best model and its counterparts, in the order of `roles`."""
    model = board.best("model")
    found = [board.twin(model, role) if model and role != "model" else board.best(role) for role in roles]
    return [entry.system for entry in found if entry is not None]


def _task_figures(board: Board, predictions: pd.DataFrame | None) -> list[Figure]:
    found = []
    tested = _tested(board, predictions)
    if tested is not None and board.task.kind == "binary":
        drawing, drawn = figures.roc(tested, chosen(board, ("model", "random", "reference", "confounds")))
        several = tested["fold"].nunique() > 1
        caption = "ROC curves, mean over folds" if several else "ROC curves"
        if drawn:
            found.append(Figure(caption, drawing, drawn))
        drawing, drawn = figures.reliability(tested, chosen(board, ("model", "reference")))
        if drawn:
            found.append(Figure("Calibration: bins of equal size; the diagonal is perfect", drawing, drawn))
    elif tested is not None and board.task.kind == "regression":
        for system in chosen(board, ("model", "reference", "confounds")):
            drawing = figures.scatter(tested, system, board.task.target)
            found.append(Figure(f"{system.label}; the dashed line is a perfect answer", drawing, small=True))
    if len(board.folds):
        compared = chosen(board, ("model", "reference")) or chosen(board, ("confounds",))
        drawing = figures.folds(board.folds, compared, NAMES[board.metric], board.chance)
        found.append(Figure("Each fold (people tested); dashed: knowing nothing", drawing, compared))
    return found
