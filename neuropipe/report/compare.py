"""Studies side by side on one page: was the same asked of the same people, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pandas as pd
from markupsafe import Markup

from neuropipe import __version__
from neuropipe.report import forest, page, systems, tables, words
from neuropipe.report.forest import Forest
from neuropipe.report.tables import NAMES, PRIMARY, RUN, Board, Entry, as_text

METHODS = {
    "delong": "DeLong",
    "recovered": "recovered from both intervals",
    "paired_bootstrap": "paired bootstrap",
    "corrected_resampled": "corrected resampled",
}
COLUMNS = ["task", "system", "readout", "seed", "metric", "study", "value", "ci_low", "ci_high", "n_train", "n_test"]


@dataclass(frozen=True)
class Comparison:
    """One task of several studies.

    Attributes
    ----------
    name, metric : str
        Of the task, and its primary metric for people.
    lower : bool
        Whether a smaller value wins.
    verdict : str
        One sentence: comparable or not, and why.
    tone : {"good", "bad"}
        Whether the protocol is the same.
    facts : list of dict
        Rows of the protocol: fact, values by study, same.
    forest : Forest
        All systems of all studies on one axis.
    changes : list of dict
        Differences of shared systems, as text and numbers.
    """

    name: str
    metric: str
    lower: bool
    verdict: str
    tone: str
    facts: list[dict[str, Any]]
    forest: Forest
    changes: list[dict[str, Any]]


def render(
    metrics: Mapping[str, pd.DataFrame], protocol: pd.DataFrame, differences: pd.DataFrame, made_at: datetime
) -> str:
    """Return the page.

    Parameters
    ----------
    metrics : dict of str to DataFrame
        ``metrics.parquet`` by the name of the study, in order.
    protocol, differences : DataFrame
        From `neuropipe.evaluate.across`.
    """
    studies = list(metrics)
    shared = list(dict.fromkeys(protocol["task"]))
    only = {name: sorted(set(table["task"].dropna()) - set(shared)) for name, table in metrics.items()}
    style, script = page.asset("style.css"), page.asset("page.js")
    return (
        page.environment()
        .get_template("compare.html.j2")
        .render(
            studies=studies,
            title=" and ".join(studies) if len(studies) == 2 else ", ".join(studies),
            date=f"{made_at:%d %B %Y}".lstrip("0"),
            version=__version__,
            style=Markup(style),
            script=Markup(script),
            style_hash=page.csp(style),
            script_hash=page.csp(script),
            tasks=[compare(name, metrics, protocol, differences) for name in shared],
            only={name: tasks for name, tasks in only.items() if tasks},
        )
    )


def compare(
    name: str, metrics: Mapping[str, pd.DataFrame], protocol: pd.DataFrame, differences: pd.DataFrame
) -> Comparison:
    """Return the comparison of one task."""
    board = together(name, metrics)
    facts = [
        {"fact": row["fact"], "same": row["same"], "values": [row[study] for study in metrics]}
        for row in protocol[protocol["task"] == name].to_dict("records")
    ]
    changed = [row["fact"] for row in facts if not row["same"]]
    rows = differences[differences["task"] == name].to_dict("records")
    if not changed:
        verdict = "One protocol: every number below answers the same question about the same people."
    elif rows:
        verdict = f"The same people were tested, but {_listed(changed)} differ; read the differences with that in mind."
    else:
        verdict = f"Not the same protocol: {_listed(changed)} differ, so that no difference is tested."
    return Comparison(
        name=name,
        metric=NAMES[board.metric],
        lower=board.lower_is_better,
        verdict=verdict,
        tone="bad" if changed else "good",
        facts=facts,
        forest=forest.draw(board),
        changes=[_change(board, row) for row in rows],
    )


def together(name: str, metrics: Mapping[str, pd.DataFrame]) -> Board:
    """Return one leaderboard with the systems of all studies, grouped by system."""
    parts = {study: _primary(table[table["task"] == name]) for study, table in metrics.items()}
    parts = {study: rows for study, rows in parts.items() if len(rows)}
    first = next(iter(parts.values())).iloc[0]
    content = content_of({system for rows in parts.values() for system in rows["system"]})
    entries = [
        (place, order, _entry(replace(system, label=f"{system.label} · {study}"), rows))
        for order, (study, rows) in enumerate(parts.items())
        for place, system in enumerate(systems.make(rows[RUN].drop_duplicates(), first["target_type"], content))
    ]
    shown = {(e.system.name, e.system.readout, e.system.seed): place for place, _, e in reversed(entries)}
    entries.sort(key=lambda item: (shown[item[2].system.name, item[2].system.readout, item[2].system.seed], item[1]))
    return Board(
        name=name,
        task=SimpleNamespace(kind=first["target_type"], target=first["target"]),
        metric=first["metric"],
        entries=[entry for _, _, entry in entries],
        chance=0.5 if first["target_type"] == "binary" else None,
        others=pd.DataFrame(),
        folds=pd.DataFrame(),
        nulls={},
        content=content,
    )


def content_of(names: set[str]) -> str:
    """Return what the samples of a task are, by the reference that answered it."""
    found = [content for content, name in systems.NAMES_OF.items() if name in names]
    return "clip" if "clip" in found else (found or ["series"])[0]


def _primary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that stand for the split: the primary metric's means over folds, text in text columns."""
    rows = as_text(rows)
    return rows[(rows["fold"] == "mean") & (rows["metric"] == rows["target_type"].map(PRIMARY))]


def _entry(system: systems.System, rows: pd.DataFrame) -> Entry:
    """Return a system of one study; what it differs from there is another question."""
    return replace(tables.entry(system, rows, rows.iloc[:0]), differences={})


def _change(board: Board, row: dict[str, Any]) -> dict[str, Any]:
    """Return one row of the table of differences."""
    low, high = sorted((board.gain(row["low"]), board.gain(row["high"])))
    judged = "open" if not low > 0 and not high < 0 else "better" if low > 0 else "worse"
    seed = "" if pd.isna(row["seed"]) else str(row["seed"])
    kind, metric = board.task.kind, board.metric
    return {
        "system": systems.label_of(row["system"], row["readout"], seed, kind, board.content),
        "pair": f"{row['study']} − {row['other']}",
        "value": words.amount(row["value"], metric),
        "other": words.amount(row["other_value"], metric),
        "delta": row["delta"],
        "difference": words.amount(row["delta"], metric, signed=True),
        "interval": words.interval(row["low"], row["high"], metric, signed=True),
        "method": METHODS[row["method"]],
        "p": words.probability(row["p"]),
        "judged": judged,
    }


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def side_by_side(metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the primary metric of every system of every study as one table, columns `COLUMNS`."""
    parts = [_primary(table).assign(study=study) for study, table in metrics.items()]
    joined = pd.concat(parts, ignore_index=True).drop_duplicates(["study", "run_id", "task"])
    return joined.sort_values(["task", "system", "readout", "seed", "study"], ignore_index=True)[COLUMNS]
