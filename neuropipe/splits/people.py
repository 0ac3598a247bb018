"""The people of one or more datasets: who they are, what is known of them, and which recordings they gave."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pandas as pd

from neuropipe.config import StudyConfig
from neuropipe.errors import InputError
from neuropipe.shards.read import Shards

ROLES = ("site", "kin", "age", "sex")


class RoleNames(Protocol):
    """Which column of the participants table plays which part; None where there is none."""

    site: str | None
    kin: str | None
    age: str | None
    sex: str | None


class Source(Protocol):
    """What this module reads of a dataset's shards."""

    dataset: str
    manifest: pd.DataFrame
    participants: pd.DataFrame


@dataclass(frozen=True, eq=False)
class People:
    """Everyone with at least one recording, in an order that depends on the ids alone.

    Attributes
    ----------
    table : DataFrame
        One row per participant of a dataset, sorted by ``dataset, participant_id``; further columns
        ``person`` (the unit that is never divided: the kin id where one is given, else the
        individual's name), ``site`` and ``sex`` (text, empty where unknown).
    recordings : DataFrame
        The manifests' rows with ``source`` (position of the dataset in what `gather` was given),
        ``position`` (row of its manifest) and ``row`` (row of `table`).
    participants : dict of str to DataFrame
        Each dataset's participants table, indexed by participant_id.
    roles : dict of str to roles
        Each dataset's columns for site, kin, age and sex.
    same_people : dict of str to str
        For every dataset of the study whose people are those of another: that other dataset.
    families : dict of str to str
        The person of every individual who is known to have kin, with or without a recording.
    """

    table: pd.DataFrame
    recordings: pd.DataFrame
    participants: Mapping[str, pd.DataFrame]
    roles: Mapping[str, RoleNames]
    same_people: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def ids(self) -> pd.Series:
        """``<dataset>/<participant_id>`` of every row."""
        return self.table["dataset"] + "/" + self.table["participant_id"]

    @property
    def individuals(self) -> pd.Series:
        """Who each row is: equal for rows of linked datasets that are one and the same human being."""
        return individuals(self.table, self.same_people)

    @property
    def content(self) -> str:
        """What the recordings are: series, volume or image."""
        return str(self.recordings["content"].iloc[0]) if "content" in self.recordings else "series"

    def persons(self, ids: Iterable[str]) -> set[str]:
        """Return the persons of some ``<dataset>/<participant_id>``, of any dataset of the study."""
        pairs = [name.partition("/")[::2] for name in ids]
        names = {f"{self.same_people.get(dataset, dataset)}/{participant}" for dataset, participant in pairs}
        return {self.families.get(name, name) for name in names}

    def column(self, name: str) -> pd.Series:
        """Return what is known under `name` (a role, or a column of the participants tables), as text.

        A dataset without the column contributes missing values (None).

        Raises
        ------
        InputError
            No dataset has the column.
        """
        parts, found = [], False
        for dataset, rows in self.table.groupby("dataset", sort=False):
            source, known = self.resolve(dataset, name), self.participants[dataset]
            found |= source in known
            values = known[source].reindex(rows["participant_id"]) if source in known else [None] * len(rows)
            parts.append(pd.Series([as_text(value) for value in values], index=rows.index, dtype=object))
        if not found:
            raise InputError(self._unknown(name))
        return pd.concat(parts).reindex(self.table.index).rename(name)

    def numbers(self, name: str) -> pd.Series:
        """Return a column as float64; NaN where missing.

        Raises
        ------
        InputError
            A value is not a number; the first few are named.
        """
        text = self.column(name)
        values = pd.to_numeric(text, errors="coerce")
        if (wrong := text[values.isna() & text.notna()]).size:
            raise InputError(
                f"Expected numbers in the participants column {name!r}, found {sorted(set(wrong))[:5]} "
                f"(of {self.ids[wrong.index[0]]} and others). Mend the table, or write n/a where a value is missing."
            )
        return values.astype(float)

    def resolve(self, dataset: str, name: str) -> str:
        """Return the column of a dataset's participants table that `name` (a role or a column) means."""
        return (getattr(self.roles[dataset], name) or name) if name in ROLES else name

    def _unknown(self, name: str) -> str:
        columns = sorted({str(c) for table in self.participants.values() for c in table.columns})
        near = difflib.get_close_matches(name, columns, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return (
            f"No participants column {name!r} in {', '.join(self.participants)}; found {', '.join(columns) or 'none'}."
            f"{hint} Name one of these, or add the column to participants.tsv and index again."
        )


def as_text(value: object) -> str | None:
    """Return a label as text, whole numbers without a decimal point; None where missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    text = str(value).strip()
    return None if text in ("", "n/a") else text


def individuals(table: pd.DataFrame, same_people: Mapping[str, str]) -> pd.Series:
    """Return who each row of a table with ``dataset`` and ``participant_id`` is.

    ``<dataset>/<participant_id>``, where datasets that share their people bear the name of one of them.
    """
    dataset = table["dataset"].astype(object)
    return dataset.map(lambda name: same_people.get(name, name)) + "/" + table["participant_id"].astype(object)


def _optional(people: People, name: str) -> pd.Series:
    """Return a role's values; empty text where a dataset has no such column."""
    has = [people.resolve(d, name) in people.participants[d] for d in people.participants]
    if not any(has):
        return pd.Series("", index=people.table.index, dtype=object)
    return people.column(name).fillna("")


def gather(
    sources: Sequence[Source],
    roles: Mapping[str, RoleNames],
    same_people: Mapping[str, str] | None = None,
    beside: Mapping[str, pd.DataFrame] | None = None,
) -> People:
    """Return the people with at least one recording in `sources` (readers of shards).

    Parameters
    ----------
    sources : sequence of readers
        Datasets, each once.
    roles : dict of str to roles
        Of every dataset in `sources` and `beside`.
    same_people : dict of str to str, optional
        Dataset whose people are those of another, to that other dataset (`StudyConfig.same_people`):
        equal ids are then one person.
    beside : dict of str to DataFrame, optional
        Participants tables of datasets that are none of the sources, asked for kin only.

    Raises
    ------
    InputError
        A recording's participant has no row in the participants table, a table names one twice, or
        there is no recording at all.
    """
    names = [source.dataset for source in sources]
    if len(set(names)) != len(names):
        raise InputError(f"Each dataset is given once; found {', '.join(names)}.")
    parts = []
    for number, source in enumerate(sources):
        rows = source.manifest.assign(source=number, position=np.arange(len(source.manifest)), dataset=source.dataset)
        _check_known(source.dataset, rows, source.participants)
        parts.append(rows)
    recordings = pd.concat(parts, ignore_index=True)
    if recordings.empty:
        raise InputError(f"No recording in {', '.join(names)}; see excluded.tsv for what was left out and why.")
    for column in ("dataset", "participant_id", "sha256"):
        recordings[column] = recordings[column].astype(object)
    table = recordings[["dataset", "participant_id"]].drop_duplicates()
    table = table.sort_values(["dataset", "participant_id"], ignore_index=True)
    row = {key: i for i, key in enumerate(table.itertuples(index=False, name=None))}
    pairs = zip(recordings["dataset"], recordings["participant_id"], strict=True)
    recordings["row"] = [row[pair] for pair in pairs]

    known = {source.dataset: source.participants for source in sources}
    links = dict(same_people or {})
    families = _families(known | dict(beside or {}), roles, links)
    bare = People(table, recordings, known, {name: roles[name] for name in names}, links, families)
    person = bare.individuals.map(lambda name: families.get(name, name))
    table = table.assign(person=person, site=_optional(bare, "site"), sex=_optional(bare, "sex"))
    return replace(bare, table=table)


def of_study(study: StudyConfig, sources: Sequence[Shards]) -> People:
    """Return the people of some datasets of a study, with the kin that the datasets know which name them."""
    links = study.same_people()
    given = {source.dataset for source in sources}
    naming = sorted({links[name] for name in given if name in links} - given)
    beside = {name: Shards(sources[0].folder.with_name(name)).participants for name in naming}
    return gather(sources, {name: item.roles for name, item in study.datasets.items()}, links, beside)


def _families(
    tables: Mapping[str, pd.DataFrame], roles: Mapping[str, RoleNames], same_people: Mapping[str, str]
) -> dict[str, str]:
    """Return the person of every individual with kin; the dataset that names the people knows best."""
    families: dict[str, str] = {}
    for dataset in sorted(tables, key=lambda name: (name in same_people, name)):
        column = roles[dataset].kin or "kin"
        if column not in tables[dataset]:
            continue
        for participant, value in tables[dataset][column].items():
            if (kin := as_text(value)) is not None:
                families.setdefault(f"{same_people.get(dataset, dataset)}/{participant}", f"kin/{kin}")
    return families


def _check_known(dataset: str, recordings: pd.DataFrame, participants: pd.DataFrame) -> None:
    twice = participants.index[participants.index.duplicated()].unique()
    if len(twice):
        raise InputError(
            f"The participants table of {dataset} has several rows for {', '.join(twice[:5])}; keep one each."
        )
    unknown = sorted(set(recordings["participant_id"]) - set(participants.index))
    if unknown:
        raise InputError(
            f"{len(unknown)} participants of {dataset} have recordings but no row in the participants table: "
            f"{', '.join(unknown[:5])}. Add them to participants.tsv, then index again."
        )
