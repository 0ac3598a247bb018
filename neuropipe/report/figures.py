"""Figures of results: ROC curves, predicted against true, single folds, training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from pandas.api.types import is_numeric_dtype

from neuropipe.report import curves
from neuropipe.report.read import Training
from neuropipe.report.svg import Panel, circle, dots, figure, line, number, padded, polyline, text
from neuropipe.report.systems import System

MAX_DOTS = 800  # people drawn in one scatter
NOT_CURVES = {"step", "seconds", "samples_per_s", "epoch", "progress"}


def roc(predictions: pd.DataFrame, systems: Sequence[System]) -> tuple[Markup, list[System]]:
    """Return the ROC curves of a binary task, and the systems that are in it.

    One split gives the curve itself, several folds the mean of their curves.

    Parameters
    ----------
    predictions : DataFrame
        Test rows of the task: run_id, repeat, fold, y (0 or 1), score.
    """
    panel = Panel.over((0, 1), (0, 1), height=370)
    marks = panel.axes("False-positive rate", "True-positive rate")
    marks.append(line(panel.x(0), panel.y(0), panel.x(1), panel.y(1), "reference"))
    drawn = []
    for system in reversed(systems):  # the first system lies on top
        folds = [
            curves.roc(fold["y"].to_numpy(float), fold["score"].to_numpy(float))
            for _, fold in system.rows(predictions).groupby(["repeat", "fold"])
            if fold["y"].nunique() == 2
        ]
        if folds:
            fpr, tpr = folds[0] if len(folds) == 1 else curves.mean_roc(folds)
            marks.append(polyline(panel.points(fpr, tpr), f"curve {system.css}", system.label))
            drawn.insert(0, system)
    names = ", ".join(system.label for system in drawn)
    return panel.draw(marks, f"ROC curves of {names}; the areas are in the table."), drawn


def reliability(predictions: pd.DataFrame, systems: Sequence[System]) -> tuple[Markup, list[System]]:
    """Return predicted probability against observed share, and the systems that predict probabilities.

    Parameters
    ----------
    predictions : DataFrame
        Test rows of a binary task: run_id, y, score, logit (missing where the score is no probability).
    """
    panel = Panel.over((0, 1), (0, 1), height=370)
    marks = panel.axes("Predicted probability", "Observed share")
    marks.append(line(panel.x(0), panel.y(0), panel.x(1), panel.y(1), "reference"))
    drawn = []
    for system in reversed(systems):
        rows = system.rows(predictions)
        if rows.empty or rows["logit"].isna().any():
            continue
        predicted, observed, sizes = curves.reliability(rows["y"].to_numpy(float), rows["score"].to_numpy(float))
        points = panel.points(predicted, observed)
        marks.append(polyline(points, f"curve {system.css}", system.label))
        for (x, y), size, share in zip(points, sizes, observed, strict=True):
            marks.append(circle(x, y, 4, f"mark {system.css}", f"{system.label}: {share:.2f} of {size} people"))
        drawn.insert(0, system)
    names = ", ".join(system.label for system in drawn)
    return panel.draw(marks, f"Calibration of {names}; the diagonal is perfect calibration."), drawn


def scatter(predictions: pd.DataFrame, system: System, unit: str) -> Markup:
    """Return predicted against true values of a regression task for one system.

    Parameters
    ----------
    predictions : DataFrame
        Test rows of the task: run_id, y, yhat.
    unit : str
        Name of the target.
    """
    rows = system.rows(predictions)
    everyone = predictions[["y", "yhat"]].to_numpy(float)
    low, high = padded(everyone.ravel())  # the same axes for every system of the task
    panel = Panel.over((low, high), (low, high), width=308, height=290)
    marks = panel.axes(f"True {unit}", f"Predicted {unit}", 4, 4)
    marks.append(line(panel.x(low), panel.y(low), panel.x(high), panel.y(high), "reference"))
    if len(rows) > MAX_DOTS:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, MAX_DOTS).round().astype(int)]
    marks.append(dots(panel.points(rows["y"], rows["yhat"]), system.css))
    return panel.draw(marks, f"Predicted against true {unit} of {len(rows)} people by {system.label}.")


def folds(metrics: pd.DataFrame, systems: Sequence[System], metric: str, chance: float | None) -> Markup:
    """Return the value of every fold, one row per fold, one mark per system.

    Parameters
    ----------
    metrics : DataFrame
        Rows of single folds of one task and metric: run_id, fold, value, n_test.
    """
    names = list(dict.fromkeys(metrics["fold"]))
    height = 22 * len(names) + 46
    extremes = [*metrics["value"], *([chance] if chance is not None else [])]
    panel = Panel.over(padded(extremes), (0, 1), height=height, left=118)
    marks = []
    for value in panel.x.ticks(4):
        marks.append(line(panel.x(value), 8, panel.x(value), height - 38, "grid"))
        marks.append(text(panel.x(value), height - 24, number(value)))
    if chance is not None:
        marks.append(line(panel.x(chance), 8, panel.x(chance), height - 38, "reference"))
    marks.append(text((panel.x.start + panel.x.end) / 2, height - 6, metric, "label"))
    n_test = metrics.groupby("fold")["n_test"].max()
    for row, name in enumerate(names):
        middle = 20 + 22 * row
        size = f" ({n_test[name]:.0f})" if np.isfinite(n_test[name]) else ""
        shown = name if len(name) <= 12 else name[:11] + "…"
        marks.append(text(panel.x.start - 8, middle + 4, f"{shown}{size}", "tick", "end"))
        marks.append(line(panel.x.start, middle, panel.x.end, middle, "row"))
        for place, system in reversed(list(enumerate(systems))):
            height_of_mark = middle + 7 * (place - (len(systems) - 1) / 2)  # side by side, so that none hides another
            for value in system.rows(metrics[metrics["fold"] == name])["value"].dropna():
                tip = f"{name}, {system.label}: {value:.3f}"
                marks.append(circle(panel.x(value), height_of_mark, 4.5, f"mark {system.css}", tip))
    what = ", ".join(system.label for system in systems)
    return figure(panel.width, height, marks, f"{metric} in each of {len(names)} folds for {what}.")


def training(trainings: Sequence[Training], column: str, label: str) -> Markup:
    """Return one quantity over the steps of training, one line per fold.

    Several folds are drawn thin; a single one is drawn thin with its running mean on top.
    """
    recorded = [
        (one, one.curve[["step", column]].dropna())
        for one in trainings
        if one.curve is not None and column in one.curve and len(one.curve)
    ]
    lines = [(one, curve["step"].to_numpy(float), curve[column].to_numpy(float)) for one, curve in recorded]
    values = np.concatenate([y for _, _, y in lines])
    longest = max(float(x.max()) for _, x, _ in lines)
    low, high = padded(values)
    if column == "samples_per_s":
        low = 0.0
    panel = Panel.over((0, longest or 1), (low, high), width=308, height=220)
    marks = panel.axes("Step", "", 4, 5)
    for one, x, y in lines:
        window = max(1, len(y) // 20)
        raw = panel.points(*curves.thin(x, y))
        mean = panel.points(*curves.thin(x, curves.smooth(y, window)))
        if len(lines) == 1 and window > 1:
            marks.append(polyline(raw, "curve raw"))
        marks.append(polyline(mean, "curve s-model" if len(lines) == 1 else "curve s-model many", one.where))
    first, last = lines[0][2][0], lines[0][2][-1]
    described = f"{label} over {longest:.0f} steps in {len(lines)} training runs, from {first:.4g} to {last:.4g}."
    return panel.draw(marks, described)


def probes(rows: pd.DataFrame, metric: str) -> Markup:
    """Return what the frozen embedding told at moments of the training, one line per fold, chance dashed.

    Parameters
    ----------
    rows : DataFrame
        Of one task: step, split, fold, value, chance.
    metric : str
        Its name for a reader.
    """
    longest = float(rows["step"].max())
    panel = Panel.over((0, longest), padded([*rows["value"], *rows["chance"]]), width=308, height=220)
    marks = panel.axes("Step", metric, 4, 5)
    groups = rows.groupby(["split", "fold"], sort=True)
    chance = rows.groupby("step")["chance"].mean()
    ends = [0.0, longest]
    marks.append(polyline(panel.points(ends, [chance.mean()] * 2), "curve s-majority v3", "A constant"))
    for (split, fold), own in groups:
        own = own.sort_values("step")
        points = panel.points(own["step"].astype(float), own["value"])
        marks.append(polyline(points, "curve s-model" + " many" * (len(groups) > 1), f"{split}/{fold}"))
        for (x, y), value in zip(points, own["value"].dropna(), strict=True):
            marks.append(circle(x, y, 4, "mark s-model", f"{split}/{fold}: {value:.3f}"))
    first, last = (rows.loc[rows["step"] == step, "value"].mean() for step in (rows["step"].min(), longest))
    return panel.draw(marks, f"{metric} of a linear readout among training people: {first:.3f}, at the end {last:.3f}.")


def training_columns(trainings: Sequence[Training]) -> list[str]:
    """Return what was recorded and changes: ``loss`` first, then its parts as written, the learning rate last."""
    recorded = [one.curve for one in trainings if one.curve is not None]
    seen = dict.fromkeys(name for curve in recorded for name in curve if name not in NOT_CURVES)
    varies = [
        name
        for name in seen
        if name == "loss" or any(name in c and is_numeric_dtype(c[name]) and c[name].nunique() > 1 for c in recorded)
    ]
    return sorted(varies, key=lambda name: (name != "loss", name == "lr"))
