"""The other sections as the template reads them: what was asked, who was left out, training, quality, costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from neuropipe.report import curves, figures, quality
from neuropipe.report.figure import Figure, Plot, Trace
from neuropipe.report.read import Results, Training
from neuropipe.report.tables import NAMES, Board
from neuropipe.report.task import question
from neuropipe.splits.people import individuals

MAX_EXCLUDED = 400  # rows shown; the file has all
MAX_GROUPS = 30  # sites drawn in one figure
MAX_PARTS = 8  # parts of a loss drawn for one recipe
PLOTTED = 60  # points of one training run that a reader can point at
CURVES = {
    "loss": "Loss",
    "lr": "Learning rate",
    "samples_per_s": "Samples per second",
    "grad_norm": "Gradient norm",
}


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
    people = table.assign(individual=individuals(table, results.config.same_people()))
    counts = people.groupby(["repeat", "fold", "role"])["individual"].nunique().unstack(fill_value=0)
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
    """Return one block per trained recipe and seed: a sentence, loss and rate, and the parts of the loss."""
    blocks = []
    groups: dict[tuple[str, int], list[Training]] = {}
    for one in results.trainings:
        groups.setdefault((one.recipe, one.seed), []).append(one)
    several = {recipe for recipe, _ in groups if sum(name == recipe for name, _ in groups) > 1}
    for (recipe, seed), models in groups.items():
        rated = [one for one in models if one.curve is not None and "samples_per_s" in one.curve]
        first, *parts = figures.training_columns(models)[:MAX_PARTS] or [""]
        main = [_curve(models, first)] if first else []
        main += _probes(models)
        main += [_curve(rated, "samples_per_s")] if rated else []
        name = f"{recipe}, seed {seed}" if recipe in several else recipe
        more = [_curve(models, column) for column in parts]
        sentence = _training_sentence(models, rated)
        blocks.append({"name": name, "sentence": sentence, "figures": main, "parts": more})
    return blocks


def _curve(models: list[Training], column: str) -> Figure:
    label = CURVES.get(column, column.replace("_", " ").capitalize())
    plot = _plot(models, column, label) if column == "loss" else None
    return Figure(label, figures.training(models, column, label), small=True, plot=plot)


def _plot(models: list[Training], column: str, label: str) -> Plot:
    """Return the running means of one quantity, one line per fold, as they are explored."""
    traces = []
    for one in models:
        if one.curve is not None and column in one.curve:
            recorded = one.curve[["step", column]].dropna().astype(float)
            mean = curves.smooth(recorded[column].to_numpy(), max(1, len(recorded) // 20))
            points = curves.thin(recorded["step"].to_numpy(), mean, PLOTTED)
            traces.append(Trace(one.where, "s-model", *points))
    return Plot("Step", label, traces)


def _probes(models: list[Training]) -> list[Figure]:
    """Return one figure per task that was probed during the training."""
    found = [one.probes for one in models if one.probes is not None and len(one.probes)]
    if not found:
        return []
    probes = pd.concat(found, ignore_index=True)
    return [
        Figure(f"{task}, among training people", figures.probes(rows, NAMES.get(metric, metric)), small=True)
        for (task, metric), rows in probes.groupby(["task", "metric"], sort=True)
    ]


def _training_sentence(models: list[Training], rated: list[Training]) -> str:
    family = models[0].config.get("family", "a model")
    where = f"one model ({models[0].where})" if len(models) == 1 else f"{len(models)} models, one per fold"
    parts = [f"Family {family}, {where}."]
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
    """Return figures, sentences and tables of the quality section; of motion only where there are series."""
    found: dict[str, Any] = {"figures": [], "sentences": [], "summary": [], "lowest": []}
    series = has_series(results)
    found["title"] = "Motion and coverage" if series else "Quality of maps and slices"
    found["pages_say"] = f"Every {'run, with its picture before and after cleaning' if series else 'scan'}:"
    found["pages"] = [
        (name, f"../qc/{name}/index.html")
        for name in results.config.datasets
        if (results.study.qc(name) / "index.html").is_file()
    ]
    limits = results.config.exclude
    found["sentences"] += _anatomy(results)
    if results.runs is None:
        what = "motion" if series else "quality"
        found["sentences"].append(f"No quality table of recordings was found, so {what} cannot be shown.")
    else:
        found["summary"] = quality.summary(results.runs)
        found["figures"] += _motion(results, limits.max_mean_fd_mm)
        if series and not found["figures"]:
            found["sentences"].append(
                "No recording has a framewise displacement (ready-made series have none), so motion cannot be shown."
            )
    regions = results.regions
    if regions is None or "mean_coverage" not in regions or not regions["mean_coverage"].notna().any():
        if series:
            found["sentences"].append(
                "No region has a coverage (ready-made series have none), so coverage cannot be shown."
            )
        return found
    for dataset, part in regions[regions["mean_coverage"].notna()].groupby("dataset", sort=False):
        caption = f"Coverage of regions by network, {dataset}"
        found["figures"].append(Figure(caption, quality.coverage(part, limits.min_region_coverage)))
        low = quality.lowest(part)
        coverage, share = low["mean_coverage"].map("{:.3f}".format), low["share_missing"].map("{:.1%}".format)
        found["lowest"] += low.assign(mean_coverage=coverage, share_missing=share).to_dict("records")
    return found


def has_series(results: Results) -> bool:
    """Return whether any dataset of the study holds series, which have motion."""
    return any(item.content == "series" for item in results.config.datasets.values())


def _anatomy(results: Results) -> list[str]:
    """Return a sentence on each dataset of maps or slices."""
    sentences = []
    for dataset, section in results.config.datasets.items():
        runs = None if results.runs is None else results.runs[results.runs["dataset"] == dataset]
        if section.content == "series" or runs is None or runs.empty:
            continue
        path = results.study.qc(dataset) / "outliers.tsv"
        outliers = pd.read_csv(path, sep="\t", dtype={"run_id": str}) if path.is_file() else None
        sentences.append(quality.anatomy(dataset, runs, outliers))
    return sentences


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
