"""Which figures a task has: what was predicted, where, for whom, and from how many people."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit

from neuropipe.report import confusion, decision, decoding, embedding, figures, groups, learning, rollouts
from neuropipe.report.beside import Beside
from neuropipe.report.figure import Figure
from neuropipe.report.systems import System
from neuropipe.report.tables import NAMES, Board

MAX_CLASSES = 40  # of a confusion matrix


def of_people(board: Board, predictions: pd.DataFrame | None, beside: Beside) -> list[Figure]:
    """Return the figures of a task that asks people: those of its kind, then those that every kind has."""
    rows = tested(board, predictions)
    kinds = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}
    found = kinds[board.task.kind](board, rows) if rows is not None else []
    if (benefit := beside.of("net_benefit", board.name)) is not None:
        found += _kept(decision.draw(benefit, chosen(board, ("model", "reference", "confounds"))))
    return found + _folds(board) + by_group(board, beside) + learned(board, beside, "readout") + maps(board, beside)


def of_clips(board: Board, rows: pd.DataFrame, beside: Beside) -> list[Figure]:
    """Return confusion matrices, single people, label efficiency, folds and groups of a decoding task."""
    found = []
    for system in chosen(board, ("model", "reference")) or chosen(board, ("connectivity",)):
        drawing = decoding.confused(rows, system)
        found.append(Figure(f"{system.label}: true states in rows, answers in columns, number of clips", drawing))
    compared = chosen(board, ("model", "scratch", "random", "reference", "connectivity", "confounds"))
    found.append(Figure("Test people, one dot each; the bar is their mean", decoding.people(rows, compared)))
    return found + learned(board, beside, "decoder") + _folds(board) + by_group(board, beside) + maps(board, beside)


def of_attention(maps: rollouts.Maps) -> Figure:
    """Return where a fine-tuned network for slices looks."""
    caption = (
        f"Where {maps.system} looks: mean attention rollout of test people over the mean of their slices. It follows "
        "what reaches the class token, and says nothing of what the head reads elsewhere"
    )
    return Figure(caption, rollouts.draw(maps))


def tested(board: Board, predictions: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return the predictions of the split's test people; those of test datasets have another role."""
    if predictions is None:
        return None
    mine = predictions[(predictions["task"] == board.name) & (predictions["role"] == "test")]
    return mine if len(mine) else None


def chosen(board: Board, roles: tuple[str, ...]) -> list[System]:
    """Return the systems that a figure compares: the best model and its counterparts, in the order of `roles`."""
    model = board.best("model")
    found = [board.twin(model, role) if model and role != "model" else board.best(role) for role in roles]
    return [entry.system for entry in found if entry is not None]


def learned(board: Board, beside: Beside, learner: str) -> list[Figure]:
    """Return the learning curve of a task that has a grid."""
    grid = beside.of("efficiency", board.name, board.metric)
    compared = chosen(board, ("model", "scratch", "random", "reference", "connectivity", "confounds"))
    drawn = [] if grid is None else [system for system in compared if len(system.rows(grid))]
    return [learning.draw(grid, drawn, NAMES[board.metric], board.chance, learner)] if drawn else []


def by_group(board: Board, beside: Beside) -> list[Figure]:
    """Return the strips of a task by site and by sex."""
    rows = beside.of("breakdown", board.name, board.metric)
    if rows is None:
        return []
    compared = chosen(board, ("model", "reference", "confounds"))
    strips = (groups.draw(rows, compared, column, NAMES[board.metric], board.chance) for column in ("site", "sex"))
    return [strip for strip in strips if strip is not None]


def maps(board: Board, beside: Beside) -> list[Figure]:
    """Return the maps of the best model's embedding."""
    model, rows = board.best("model"), beside.of("places", board.name)
    if model is None or rows is None:
        return []
    return embedding.draw(rows, model.system, board.task.target, board.task.kind == "regression")


def _kept(figure: Figure | None) -> list[Figure]:
    return [] if figure is None else [figure]


def _binary(board: Board, rows: pd.DataFrame) -> list[Figure]:
    found = []
    drawing, drawn = figures.roc(rows, chosen(board, ("model", "random", "reference", "confounds")))
    if drawn:
        several = rows["fold"].nunique() > 1
        found.append(Figure("ROC curves, mean over folds" if several else "ROC curves", drawing, drawn))
    compared = chosen(board, ("model", "reference"))
    drawing, drawn = figures.reliability(_calibrated(board, rows, compared), compared)
    if drawn:
        found.append(Figure("Calibration: bins of equal size; the diagonal is perfect", drawing, drawn))
    return found + [
        figure
        for system in chosen(board, ("model", "reference"))
        if (figure := _at_threshold(board, rows, system)) is not None
    ]


def _at_threshold(board: Board, rows: pd.DataFrame, system: System) -> Figure | None:
    """Return the confusion matrix of a binary task at the thresholds that its metrics were computed with."""
    known, mine = system.rows(board.asides.thresholds), system.rows(rows)
    if known.empty or mine.empty:
        return None
    by_fold = _by_fold(known, mine)
    decided, threshold = _decided(mine, by_fold), by_fold["threshold"].to_numpy(float)
    if not (np.isfinite(decided).all() and np.isfinite(threshold).all()):
        return None
    names = [f"not {board.task.positive}", str(board.task.positive)]
    truth = pd.Series(np.where(mine["y"] > 0.5, names[1], names[0]))
    answer = pd.Series(np.where(decided >= threshold, names[1], names[0]))
    low, high = threshold.min(), threshold.max()
    at = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    source = " and ".join(dict.fromkeys(str(word) for word in known["threshold_source"] if word))
    caption = f"{system.label}: true classes in rows, answers in columns, number of people; threshold {at}"
    caption += f" ({source})" if source else ""
    return Figure(caption, confusion.draw(truth, answer, names, system, "people"), small=True)


def _by_fold(known: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the threshold and calibration of each of some predictions of one system."""
    at_fold = rows["fold"].astype("string") if len(known) > 1 else [known["fold"].iloc[0]] * len(rows)
    return known.set_index("fold").reindex(at_fold)


def _calibrated(board: Board, rows: pd.DataFrame, systems: list[System]) -> pd.DataFrame:
    """Return predictions with the probabilities that metrics judge; without those whose bias is not known."""
    parts = []
    for system in systems:
        known, mine = system.rows(board.asides.thresholds), system.rows(rows)
        if not known.empty and not mine.empty:
            mine = mine.assign(score=_decided(mine, _by_fold(known, mine)))
        parts.append(mine.dropna(subset="score"))
    return pd.concat(parts) if parts else rows.iloc[:0]


def _decided(rows: pd.DataFrame, by_fold: pd.DataFrame) -> np.ndarray:
    """Return what thresholds are applied to: calibrated probabilities where a fold was calibrated, else scores.

    Where a calibration is known by its temperature alone, the result is NaN.
    """
    temperature, bias = (by_fold[name].to_numpy(float) for name in ("temperature", "bias"))
    calibrated = expit(rows["logit"].to_numpy(float) / temperature + bias)
    return np.where(np.isfinite(temperature), calibrated, rows["score"].to_numpy(float))


def _multiclass(board: Board, rows: pd.DataFrame) -> list[Figure]:
    """Return the confusion matrices of a task of several classes; of an older study without labels, none."""
    if not {"label", "predicted"} <= set(rows) or rows["label"].isna().all():
        return []
    found = []
    for system in chosen(board, ("model", "reference", "confounds")):
        mine = system.rows(rows).dropna(subset=["label", "predicted"])
        names = decoding.label_names(rows.dropna(subset=["label", "predicted"]))
        if mine.empty or len(names) > MAX_CLASSES:
            continue
        drawing = confusion.draw(mine["label"], mine["predicted"], names, system, "people")
        found.append(Figure(f"{system.label}: true classes in rows, answers in columns, number of people", drawing))
    return found


def _regression(board: Board, rows: pd.DataFrame) -> list[Figure]:
    return [
        Figure(
            f"{system.label}; the dashed line is a perfect answer",
            figures.scatter(rows, system, board.task.target),
            small=True,
        )
        for system in chosen(board, ("model", "reference", "confounds"))
    ]


def _folds(board: Board) -> list[Figure]:
    if board.folds.empty:
        return []
    compared = chosen(board, ("model", "reference")) or chosen(board, ("confounds",))
    drawing = figures.folds(board.folds, compared, NAMES[board.metric], board.chance)
    return [Figure("Each fold (people tested); dashed: knowing nothing", drawing, compared)]
