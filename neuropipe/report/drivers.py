"""What drives a linear readout: its pattern on the glass brain, by network, and the regions that weigh most."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from markupsafe import Markup

from neuropipe.paths import Study
from neuropipe.report import brain
from neuropipe.report.read import Results
from neuropipe.report.svg import line, rect
from neuropipe.report.tables import Board, Entry

MAX_REGIONS = 10  # named
NO_NETWORK = "no network named"


@dataclass(frozen=True)
class Network:
    """One network of a pattern.

    Attributes
    ----------
    name : str
        Of the network.
    n_regions : int
        Regions in it.
    mean : float
        Mean weight of its regions.
    share : float
        Of the sum of absolute weights.
    bar : Markup
        The mean as a bar from the middle; its drawing is as wide as its cell.
    """

    name: str
    n_regions: int
    mean: float
    share: float
    bar: Markup


@dataclass(frozen=True)
class Pattern:
    """What drives one system on one task.

    Attributes
    ----------
    task, system : str
        As the page calls them.
    more, less : str
        What weights above and below zero go with.
    brains : list of (str, Markup)
        Name and drawing of each view of the glass brain; empty where the centres of the regions are not known.
    networks : list of Network
        From the most positive to the most negative mean.
    regions : list of (str, str, float)
        Name, network and weight of the regions that weigh most.
    n_regions : int
        Regions of the pattern.
    """

    task: str
    system: str
    more: str
    less: str
    brains: list[tuple[str, Markup]]
    networks: list[Network]
    regions: list[tuple[str, str, float]]
    n_regions: int = 0


@dataclass(frozen=True)
class Drivers:
    """The patterns of a study, and a sentence where it has none."""

    patterns: list[Pattern] = field(default_factory=list)
    missing: str = ""


def read(study: Study) -> pd.DataFrame | None:
    """Return ``drivers.parquet``; None where the study has none."""
    path = study.root / "drivers.parquet"
    return pd.read_parquet(path) if path.is_file() else None


def view(results: Results, boards: list[Board]) -> Drivers:
    """Return the patterns to draw: of each task the best model that has one, and the reference."""
    table = read(results.study)
    if table is None or table.empty:
        return Drivers(missing="No pattern of a linear readout was recorded (drivers.parquet is not there).")
    patterns = []
    for board in boards:
        own = table[table["task"] == board.name]
        chosen = [_first(board.of_role(role), own) for role in ("model", "reference")]
        patterns += [_pattern(board, entry, own, results) for entry in chosen if entry is not None]
    return Drivers(patterns)


def _first(entries: list[Entry], table: pd.DataFrame) -> Entry | None:
    """Return the best of some entries that has a pattern."""
    known = set(table["run_id"])
    return next((entry for entry in entries if entry.system.run_id in known), None)


def _pattern(board: Board, entry: Entry, table: pd.DataFrame, results: Results) -> Pattern:
    rows = entry.system.rows(table).sort_values("region").reset_index(drop=True)
    weights = rows["weight"].to_numpy(float)
    networks = rows["network"].fillna("").replace("", NO_NETWORK)
    names = rows["name"].fillna("").astype(str)
    titles = [f"{name} ({network}): {w:+.3g}" for name, network, w in zip(names, networks, weights, strict=True)]
    centres = _centres(results, board.task.datasets, names)
    largest = np.argsort(-np.abs(np.nan_to_num(weights)), kind="stable")[:MAX_REGIONS]
    target = board.task.target
    more, less = (
        (board.task.positive, f"not {board.task.positive}")
        if board.task.kind == "binary"
        else (f"higher {target}", f"lower {target}")
    )
    return Pattern(
        task=board.name,
        system=entry.system.label,
        more=str(more),
        less=str(less),
        brains=[] if centres is None else brain.weighted(centres, weights, titles),
        networks=_networks(weights, networks),
        regions=[(names[i], networks[i], float(weights[i])) for i in largest if np.isfinite(weights[i])],
        n_regions=len(rows),
    )


def _centres(results: Results, datasets: list[str], names: pd.Series) -> np.ndarray | None:
    """Return x, y, z (mm) of each region from the packed data's table; None where it tells none of these regions."""
    for dataset in datasets:
        path = results.study.shards(dataset) / "regions.tsv"
        if not path.is_file():
            continue
        regions = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if list(regions["name"]) != list(names) or not {"x", "y", "z"} <= set(regions):
            continue
        centres = regions[["x", "y", "z"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
        if np.isfinite(centres).all(axis=1).any():
            return centres
    return None


def _networks(weights: np.ndarray, networks: pd.Series) -> list[Network]:
    """Return each network's mean weight and share, from the most positive to the most negative."""
    table = pd.DataFrame({"network": networks, "weight": np.nan_to_num(weights)})
    total = float(table["weight"].abs().sum()) or 1.0
    groups = table.groupby("network", sort=True)["weight"].agg(["size", "mean", lambda part: part.abs().sum() / total])
    groups.columns = ["size", "mean", "share"]
    groups = groups.sort_values("mean", ascending=False, kind="stable")
    unit = float(groups["mean"].abs().max()) or 1.0
    return [
        Network(str(name), int(row["size"]), float(row["mean"]), float(row["share"]), _bar(row["mean"] / unit))
        for name, row in groups.iterrows()
    ]


BAR = 100.0  # half of a bar's drawing, in its own units


def _bar(length: float) -> Markup:
    """Return a bar from the middle of a drawing that is stretched to its cell; `length` lies between -1 and 1."""
    start, width = (BAR, length * BAR) if length > 0 else (BAR + length * BAR, -length * BAR)
    marks = rect(start, 2, width, 12, "w-plus" if length > 0 else "w-minus") + line(BAR, 0, BAR, 16, "axis")
    frame = '<svg class="wbar" viewBox="0 0 200 16" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    return Markup(frame).format(marks)
