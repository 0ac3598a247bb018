"""Where people lie in an embedding: its first two principal components, coloured by site and by label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from neuropipe.report.figure import Figure, Plot, Trace
from neuropipe.report.methods_data import joined
from neuropipe.report.svg import Panel, dots, padded
from neuropipe.report.systems import System

MAX_PEOPLE = 400  # drawn in one map; evenly taken from all
MAX_GROUPS = 8  # colours; smaller groups share the last one
BINS = 5  # groups of equal size that a number is coloured by
REST = "others"
NOBODY = "not known"
SMALL = {"train": "training", "validation": "validation", "external": "external"}  # roles of those who are drawn small


def draw(places: pd.DataFrame, system: System, target: str, is_number: bool) -> list[Figure]:
    """Return the map of one system coloured by site and by label; nothing where it has no places.

    Parameters
    ----------
    places : DataFrame
        Of one task: system, seed, fold, role, participant_id, site, label, x, y.
    system : System
        Whose embedding is drawn: of its seed (of several, the first), in the first fold.
    target : str
        Name of what people are labelled by.
    is_number : bool
        Whether the label is a number; it is then coloured in groups of equal size.
    """
    own = places[places["system"] == system.name]
    if system.seed:
        own = own[own["seed"].astype("string") == system.seed]
    own = own.dropna(subset=["x", "y"])
    if own.empty:
        return []
    first = own.sort_values(["seed", "fold"], kind="stable").iloc[0]
    own = own[(own["fold"] == first["fold"]) & (own["seed"].isna() | (own["seed"] == first["seed"]))]
    n_people, roles = len(own), own["role"].value_counts()
    if n_people > MAX_PEOPLE:
        own = own.iloc[np.linspace(0, n_people - 1, MAX_PEOPLE).round().astype(int)]
    groups = {"site": (named(own["site"]), "g"), target: (named(own["label"]), "g")}
    if is_number:
        groups[target] = binned(pd.to_numeric(own["label"], errors="coerce")), "q"
    small = joined([f"{roles[role]} {word}" for role, word in SMALL.items() if role in roles])
    about = f"{small} people small, {roles.get('test', 0)} tested people large"
    if len(own) < n_people:
        about += f"; {len(own)} are drawn"
    return [
        _map(own, group, f"g-{css}", f"Embedding of {system.name} by {by}: first two components; {about}", by)
        for by, (group, css) in groups.items()
        if group.nunique() > 1 or by == target
    ]


def named(values: pd.Series) -> pd.Series:
    """Return the names of groups; the smallest ones beyond `MAX_GROUPS` become one."""
    names = values.astype("string").replace("", pd.NA).fillna(NOBODY)
    sizes = names.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    if len(sizes) <= MAX_GROUPS:
        return names
    return names.where(names.isin(sizes.index[: MAX_GROUPS - 1]), REST)


def binned(values: pd.Series) -> pd.Series:
    """Return each number's group of about equal size, named by its limits."""
    if values.nunique() < 2:
        return values.astype("string").fillna(NOBODY)
    bins = pd.qcut(values, BINS, duplicates="drop")
    labels = [f"{item.left:.3g} to {item.right:.3g}" for item in bins.cat.categories]
    return bins.cat.rename_categories(labels).astype("string").fillna(NOBODY)


def _ordered(groups: pd.Series) -> Sequence[str]:
    """Return the groups in order: numbers by size, the rest by name, what is left over last."""

    def rank(name: str) -> tuple[bool, float, str]:
        head = pd.to_numeric(name.split(" to ")[0], errors="coerce")
        return name in (REST, NOBODY), float("inf") if pd.isna(head) else float(head), name

    return sorted(groups.unique(), key=rank)


def _map(people: pd.DataFrame, groups: pd.Series, css: str, caption: str, by: str) -> Figure:
    panel = Panel.over(padded(people["x"]), padded(people["y"]), width=380, height=330)
    marks = panel.axes("First component", "Second component", 4, 4)
    traces, keys = [], []
    for place, name in enumerate(_ordered(groups)):
        colour = "s-majority" if name in (REST, NOBODY) else f"{css}{place}"
        keys.append((colour, f"{name} ({(groups == name).sum()})"))
        mine = people[groups == name]
        for is_test in (False, True):  # tested people lie on top
            part = mine[(mine["role"] == "test") == is_test]
            marks.append(dots(panel.points(part["x"], part["y"]), colour if is_test else f"{colour} faint"))
        text = mine["participant_id"].astype(str) + np.where(mine["role"] == "test", ", tested", "")
        traces.append(Trace(name, colour, mine["x"].to_numpy(), mine["y"].to_numpy(), "markers", list(text)))
    said = panel.draw(marks, f"{caption}. Groups: {', '.join(words for _, words in keys)}.")
    plot = Plot("First component", "Second component", traces)
    return Figure(f"{caption}; coloured by {by}" if by not in caption else caption, said, keys=keys, plot=plot)
