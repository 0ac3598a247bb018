"""The audit of a split: nothing may leak from one side to another, and every side must be able to answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from neuropipe.errors import SplitError
from neuropipe.splits.make import SIDES
from neuropipe.splits.people import individuals

REPEATED = "no recording on two sides that repeats another's"
ROLES = (*SIDES, "unused")
CHECKS = [
    "every participant has one role in every fold",
    "no person and no kin on two sides",
    "no recording (by content) on two sides",
    REPEATED,
    "training and test side have people",
    "every class of every task on every side",
]


def audit_split(
    table: pd.DataFrame,
    recordings: pd.DataFrame,
    labels: Mapping[str, pd.Series] | None = None,
    same_people: Mapping[str, str] | None = None,
    twins: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Check a split and return what was checked, with counts.

    Parameters
    ----------
    table : DataFrame
        A split's table.
    recordings : DataFrame
        Columns ``dataset, participant_id, sha256``: the content hash of every recording.
    labels : mapping of task name to Series, optional
        Class labels (text; missing: None) of the tasks that the split judges, indexed by
        ``<dataset>/<participant_id>``.
    same_people : mapping of str to str, optional
        Dataset whose people are those of another, to that other dataset: people are counted once.
    twins : DataFrame, optional
        Pairs of people who look like one, see `duplicates.twins`; None where nobody looked.

    Returns
    -------
    dict
        ``{"split", "scheme", "checks": [...], "folds": [...]}``, JSON-able and the same for the same input.

    Raises
    ------
    SplitError
        With every problem found in one message.
    """
    problems: list[str] = []
    folds = []
    table = table.assign(individual=individuals(table, same_people or {}))
    for (repeat, fold), rows in table.groupby(["repeat", "fold"], sort=False):
        where = f"fold {fold}" if table["fold"].nunique() > 1 else "the split"
        problems += _twice(rows, where) + _divided(rows, where) + _duplicates(rows, recordings, where)
        problems += _repeated(rows, twins, where) + _empty(rows, where)
        for task, values in (labels or {}).items():
            problems += _missing_classes(rows, values, task, where)
        counts = rows.drop_duplicates(["individual", "role"])["role"].value_counts()
        folds.append({"repeat": int(repeat), "fold": str(fold), **{side: int(counts.get(side, 0)) for side in ROLES}})
    name = table["split"].iloc[0]
    if problems:
        shown = problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise SplitError(f"The split {name!r} may not be used:\n" + "\n".join(f"  {line}" for line in shown))
    return {
        "split": name,
        "scheme": table["scheme"].iloc[0],
        "n_people": int(table["individual"].nunique()),
        "n_persons_or_kin": int(table["person"].nunique()),
        "checks": [{"check": check, "passed": True} for check in CHECKS if twins is not None or check != REPEATED],
        "twins_on_one_side": [] if twins is None else twins.to_dict("records"),
        "folds": folds,
    }


def _used(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["role"] != "unused"]


def _names(values: pd.Series | list[str]) -> str:
    names = sorted(set(values))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _twice(rows: pd.DataFrame, where: str) -> list[str]:
    repeated = rows[rows.duplicated(["dataset", "participant_id"])]
    return [f"{where}: listed more than once: {_names(repeated['participant_id'])}"] if len(repeated) else []


def _divided(rows: pd.DataFrame, where: str) -> list[str]:
    sides = _used(rows).groupby("person")["role"].nunique()
    if (divided := sides.index[sides > 1].tolist()) == []:
        return []
    return [f"{where}: on two sides: {_names(divided)}; a person and their kin must stay together"]


def _duplicates(rows: pd.DataFrame, recordings: pd.DataFrame, where: str) -> list[str]:
    keyed = _used(rows)[["dataset", "participant_id", "role"]].drop_duplicates()
    joined = recordings.merge(keyed, on=["dataset", "participant_id"])
    sides = joined.groupby("sha256")["role"].nunique()
    twins = joined[joined["sha256"].isin(sides.index[sides > 1])]
    return [
        f"{where}: one recording on two sides: {_names(twins_of['dataset'] + '/' + twins_of['participant_id'])} have "
        "the same content; leave one out, or give both the same kin id"
        for _, twins_of in twins.groupby("sha256")
    ]


def _repeated(rows: pd.DataFrame, twins: pd.DataFrame | None, where: str) -> list[str]:
    """Name the pairs that look like one person and lie on two sides."""
    if twins is None or twins.empty:
        return []
    used = _used(rows)
    role = pd.Series(used["role"].to_numpy(), index=used["dataset"] + "/" + used["participant_id"])
    sides = [twins[name].map(role) for name in ("first", "second")]
    divided = twins[sides[0].notna() & sides[1].notna() & (sides[0] != sides[1])]
    lines = [f"{where}: {one.first} and {one.second} look like one person, on two sides: {one.why}" for one in
             divided.itertuples()]  # fmt: skip
    hint = ["say people_of where datasets have the same people, leave one recording out, or give both the same kin id"]
    return lines + hint * bool(lines)


def _empty(rows: pd.DataFrame, where: str) -> list[str]:
    return [f"{where}: nobody on the {side} side" for side in ("train", "test") if not (rows["role"] == side).any()]


def _missing_classes(rows: pd.DataFrame, labels: pd.Series, task: str, where: str) -> list[str]:
    """Name the classes that a side lacks; people without a label, or of other datasets, do not count."""
    ids = rows["dataset"] + "/" + rows["participant_id"]
    known = rows.assign(label=ids.map(labels)).dropna(subset=["label"])
    classes = set(labels.dropna())
    lines = []
    for side in SIDES:
        if not (rows["role"] == side).any():
            continue
        missing = classes - set(known.loc[known["role"] == side, "label"])
        if missing:
            lines.append(
                f"{where}: nobody with {task} = {_names(list(missing))} on the {side} side; merge or leave out "
                "small groups, or divide people in another way"
            )
    return lines
