"""The sections of the page, as the template reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.config import Task
from neuropipe.report import figures, forest, quality, words
from neuropipe.report.forest import Forest
from neuropipe.report.read import Results, Training
from neuropipe.report.systems import System
from neuropipe.report.tables import NAMES, Board
from neuropipe.report.words import Verdict

MAX_EXCLUDED = 400  # rows shown; the file has all
MAX_GROUPS = 30  # sites drawn in one figure
MAX_PARTS = 8  # parts of a loss drawn for one recipe
CURVES = {
    "loss": "Loss",
    "lr": "Learning rate",
    "samples_per_s": "Samples per second",
    "grad_norm": "Gradient norm",
}


METHODS = {
    "bootstrap": "bootstrap over people",
    "bootstrap_stratified": "bootstrap over people within class",
    "bootstrap_descriptive": "bootstrap over people, descriptive",
    "bootstrap_stratified_descriptive": "bootstrap over people within class, descriptive",
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
    has: dict[str, bool]
    common: str
    figures: list[Figure]


def question(task: Task) -> str:
    """Return in words what a task asks."""
    if task.kind == "binary":
        return f"Is a person’s {task.target} “{task.positive}”?"
    if task.kind == "multiclass":
        return f"Which {task.target} does a person have?"
    return f"What is a person’s {task.target}?"


def task_view(board: Board, predictions: pd.DataFrame | None) -> TaskView:
    """Return a task as the template reads it."""
    entries = board.entries
    connectivity = board.best("fc")
    reference = connectivity.system.name if connectivity else ""
    deltas = [entry.differences[reference] for entry in entries if reference in entry.differences]
    return TaskView(
        name=board.name,
        board=board,
        verdict=words.verdict(board),
        forest=forest.draw(board),
        metric=NAMES[board.metric],
        question=_population(board, predictions),
        reference=reference,
        has={
            "pooled": any(math.isfinite(entry.pooled) for entry in entries),
            "delta": any(math.isfinite(delta.value) for delta in deltas),
            "corrected": any(math.isfinite(delta.p_corrected) for delta in deltas),
            "method": len({entry.ci_method for entry in entries}) > 1,
            "sizes": len({(entry.n_train, entry.n_test) for entry in entries}) > 1,
        },
        common=_common(board),
        figures=_task_figures(board, predictions),
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
        drawing, drawn = figures.roc(tested, chosen(board, ("model", "random", "fc", "confounds")))
        several = tested["fold"].nunique() > 1
        caption = "ROC curves, mean over folds" if several else "ROC curves"
        if drawn:
            found.append(Figure(caption, drawing, drawn))
        drawing, drawn = figures.reliability(tested, chosen(board, ("model", "fc")))
        if drawn:
            found.append(Figure("Calibration: bins of equal size; the diagonal is perfect", drawing, drawn))
    elif tested is not None and board.task.kind == "regression":
        for system in chosen(board, ("model", "fc", "confounds")):
            drawing = figures.scatter(tested, system, board.task.target)
            found.append(Figure(f"{system.label}; the dashed line is a perfect answer", drawing, small=True))
    if len(board.folds):
        compared = chosen(board, ("model", "fc")) or chosen(board, ("confounds",))
        drawing = figures.folds(board.folds, compared, NAMES[board.metric], board.chance)
        found.append(Figure("Each fold (people tested); dashed: knowing nothing", drawing, compared))
    return found


def asked(results: Results, judged: set[str], cards: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Return what the configuration asks: tasks, splits with their counts, pretraining.

    Parameters
    ----------
    judged : set of str
        Tasks that have a leaderboard.
    cards : dict of str to str
        Link to the card of each trained recipe.
    """
    config = results.config
    tasks = [
        {
            "name": name,
            "question": question(task),
            "datasets": ", ".join(task.datasets),
            "split": f"{task.split} ({config.splits[task.split].scheme.replace('_', ' ')})",
            "confounds": ", ".join(task.confounds) or "none",
            "judged": name in judged,
        }
        for name, task in config.tasks.items()
    ]
    pretrain = [
        {
            "name": name,
            "datasets": ", ".join(item.datasets),
            "people": item.people.replace("_", " ").replace("train side", "the training side of each fold"),
            "everyone": item.people == "everyone",
            "seeds": ", ".join(map(str, item.seeds)),
            "card": cards.get(name),
        }
        for name, item in config.pretrain.items()
    ]
    return {"tasks": tasks, "splits": [_split(name, results) for name in config.splits], "pretrain": pretrain}


def _split(name: str, results: Results) -> dict[str, str]:
    """Return a split's counts; a range where folds differ."""
    table = results.splits[name].table
    row = {"name": name, "scheme": results.config.splits[name].scheme.replace("_", " ")}
    if table is None:
        return row | dict.fromkeys(("folds", "train", "validation", "test", "sites"), "–")
    counts = table.groupby(["repeat", "fold", "role"]).size().unstack(fill_value=0)
    for role in ("train", "validation", "test"):
        sizes = counts[role] if role in counts else pd.Series([0])
        row[role] = str(sizes.min()) if sizes.min() == sizes.max() else f"{sizes.min()}–{sizes.max()}"
    sites = table["site"].replace("", np.nan).dropna().nunique()
    return row | {"folds": str(len(counts)), "sites": str(sites) if sites else "–"}


def excluded(results: Results, path: str) -> dict[str, Any]:
    """Return the first rows of the excluded table, their number and where all of them are."""
    return {
        "rows": results.excluded.head(MAX_EXCLUDED).to_dict("records"),
        "total": len(results.excluded),
        "path": path,
    }


def training(results: Results) -> list[dict[str, Any]]:
    """Return one block per trained recipe and seed: a sentence and the curves."""
    blocks = []
    groups: dict[tuple[str, int], list[Training]] = {}
    for one in results.trainings:
        groups.setdefault((one.recipe, one.seed), []).append(one)
    several = {recipe for recipe, _ in groups if sum(name == recipe for name, _ in groups) > 1}
    for (recipe, seed), models in groups.items():
        columns = figures.training_columns(models)[:MAX_PARTS]
        rated = [one for one in models if one.curve is not None and "samples_per_s" in one.curve]
        drawn = [_curve(models, column) for column in columns]
        if rated:
            drawn.insert(1, _curve(rated, "samples_per_s"))
        name = f"{recipe}, seed {seed}" if recipe in several else recipe
        blocks.append({"name": name, "sentence": _training_sentence(models, rated), "figures": drawn})
    return blocks


def _curve(models: list[Training], column: str) -> Figure:
    label = CURVES.get(column, column.replace("_", " ").capitalize())
    return Figure(label, figures.training(models, column, label), small=True)


def _training_sentence(models: list[Training], rated: list[Training]) -> str:
    family = models[0].config.get("family", "a model")
    where = models[0].where if len(models) == 1 else f"{len(models)} folds, one model each"
    parts = [f"Family {family}; {where}."]
    steps = [int(one.curve["step"].max()) for one in models if one.curve is not None and len(one.curve)]
    if steps:
        parts.append(f"{max(steps)} steps.")
    people = [len(one.people) for one in models if one.people is not None]
    if people:
        shown = str(people[0]) if min(people) == max(people) else f"{min(people)} to {max(people)}"
        parts.append(f"Learned from {shown} people.")
    if rated:
        rates = np.concatenate([one.curve["samples_per_s"].to_numpy(float) for one in rated])
        parts.append(f"Median rate {np.nanmedian(rates):.3g} samples/s.")
    return " ".join(parts)


def motion_and_coverage(results: Results) -> dict[str, Any]:
    """Return figures, sentences and tables of the quality section."""
    found: dict[str, Any] = {"figures": [], "sentences": [], "summary": [], "lowest": []}
    limits = results.config.exclude
    if results.runs is None:
        found["sentences"].append("No quality table of recordings was found, so motion cannot be shown.")
    else:
        found["summary"] = quality.summary(results.runs)
        found["figures"] += _motion(results, limits.max_mean_fd_mm)
        if not found["figures"]:
            found["sentences"].append(
                "No recording has a framewise displacement (ready-made series have none), so motion cannot be shown."
            )
    regions = results.regions
    if regions is None or not regions["mean_coverage"].notna().any():
        found["sentences"].append(
            "No region has a coverage (ready-made series have none), so coverage cannot be shown."
        )
        return found
    for dataset, part in regions.groupby("dataset", sort=False):
        caption = f"Coverage of regions by network, {dataset}"
        found["figures"].append(Figure(caption, quality.coverage(part, limits.min_region_coverage)))
        low = quality.lowest(part)
        coverage, share = low["mean_coverage"].map("{:.3f}".format), low["share_missing"].map("{:.1%}".format)
        found["lowest"] += low.assign(mean_coverage=coverage, share_missing=share).to_dict("records")
    return found


def _motion(results: Results, limit: float | None) -> list[Figure]:
    """Return the distributions of framewise displacement by site and by the classes of every class target."""
    runs = results.runs
    label = "Mean framewise displacement (mm)"
    if runs is None or "mean_fd_mm" not in runs or not runs["mean_fd_mm"].notna().any():
        return []
    targets = dict.fromkeys(task.target for task in results.config.tasks.values() if task.kind != "regression")
    found = []
    for by in ["site", *targets]:
        values = quality.groups(runs, by, "mean_fd_mm") if by in runs else {}
        if 0 < len(values) <= MAX_GROUPS:
            caption = f"Motion by {by} (recordings)" + ("; dashed: the study’s limit" if limit is not None else "")
            found.append(Figure(caption, quality.strips(values, label, limit, f"{label} by {by}")))
    if not found:
        values = {str(k): v["mean_fd_mm"].dropna().to_numpy(float) for k, v in runs.groupby("dataset", sort=False)}
        found.append(Figure("Motion by dataset", quality.strips(values, label, limit, f"{label} by dataset")))
    return found


def costs(results: Results, boards: list[Board]) -> list[dict[str, Any]]:
    """Return the measurements of ``costs.parquet`` with the names that systems have on the page."""
    if results.costs is None:
        return []
    labels = {entry.system.run_id: entry.system.label for board in boards for entry in board.entries}
    rows = []
    for row in results.costs.to_dict("records"):
        label = labels.get(row["run_id"], row["system"])
        shown = f"{row['value']:.4g}"
        measure = str(row["measure"]).replace("_", " ")
        rows.append({**row, "system": label, "measure": measure, "shown": shown})
    return rows
