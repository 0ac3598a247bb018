"""Ready-made series: what a door hands over, and the rows and rules that all doors share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.bids import entities
from neuropipe.bids.index import Found, chunk_of, exclusion
from neuropipe.errors import RunExcluded

T_R_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Ready:
    """One run of ready-made series.

    Attributes
    ----------
    series : float64 array (time, column)
        On the run's whole time axis; rows of NaN where the source dropped a volume, columns of NaN
        where it lacks a region.
    names : list of str
        Names of the columns; empty where only their order is known.
    named : bool
        A column whose name no region has excludes the run, rather than being trusted by its position.
    censored : bool array (time,) or None
        Volumes that the source dropped or replaced.
    fd_mm : float64 array (time,) or None
        Framewise displacement, NaN where unknown.
    coverage : float64 array (column,) or None
        Share of each region inside the brain mask.
    known : dict
        Numbers of quality that the source states itself, by our names (``mean_fd_mm``).
    done : dict
        What the source did to the series, for the sidecar.
    region_order_hash : str or None
        Order of the columns, where the source states it.
    """

    series: np.ndarray
    names: list[str] = field(default_factory=list)
    named: bool = False
    censored: np.ndarray | None = None
    fd_mm: np.ndarray | None = None
    coverage: np.ndarray | None = None
    known: dict[str, float] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    region_order_hash: str | None = None


@dataclass(frozen=True, eq=False)
class Search:
    """What a door is asked for, by a dataset's part of the configuration.

    Attributes
    ----------
    root : Path
        Folder that paths of the manifest start from.
    dataset : str
        Name of the dataset, for the excluded rows.
    wanted : dict
        BIDS entities to keep, by pybids' names.
    persons : dict of str to dict
        Rows of the participants table by participant_id.
    t_r : float or None
        Repetition time in s where nothing else gives one.
    n_chunks : int
        Number of chunks.
    """

    root: Path
    dataset: str
    wanted: dict[str, Any]
    persons: dict[str, dict[str, str]]
    t_r: float | None
    n_chunks: int

    @classmethod
    def of(
        cls,
        root: Path,
        dataset: str,
        select: Mapping[str, Any],
        people: pd.DataFrame,
        t_r: float | None,
        n_chunks: int,
    ) -> Search:
        """Bring selection and people to the form in which they are used."""
        return cls(root, dataset, entities.normalise_select(select), by_id(people), t_r, n_chunks)

    def row(
        self, participant_id: str, run_id: str, image: str, stated: Any, n_volumes: int, *, resampled: bool = False
    ) -> dict[str, str]:
        """Return the manifest row of one run, without its fingerprint.

        Parameters
        ----------
        participant_id, run_id, image, n_volumes
            As in the manifest.
        stated : float or None
            What the data say is their repetition time in s.
        resampled : bool
            The series may have been resampled, so that a column ``t_r`` of the participants, which is that of
            the scanner, may be another one.

        Raises
        ------
        RunExcluded
            The person has no row in the participants table, or the repetition time is unknown or contradicted.
        """
        person = owner(self.persons, participant_id, image) | ({"t_r": "n/a"} if resampled else {})
        t_r = repetition_time(person, stated, self.t_r, f"{run_id} ({image})")
        return manifest_row(person, self.n_chunks, run_id, image, t_r, n_volumes)

    def exclusion(self, participant_id: str, run_id: str, path: str, reason: RunExcluded) -> dict[str, str]:
        """Return the row of something that is left out."""
        return exclusion("index", self.dataset, participant_id, run_id, path, reason.reason, reason.detail)


def manifest_row(
    person: Mapping[str, str], n_chunks: int, run_id: str, image: str, t_r: float, n_volumes: int
) -> dict[str, str]:
    """Return the manifest row of one run, without its fingerprint."""
    timing = {"t_r": repr(t_r), "n_volumes": str(n_volumes)}
    return identity(person, n_chunks, run_id, image) | timing


def identity(person: Mapping[str, str], n_chunks: int, run_id: str, image: str) -> dict[str, str]:
    """Return what the manifest says of any run: whose it is, what it is called and where it lies."""
    subject = person["participant_id"].removeprefix("sub-")
    return {
        "run_id": run_id,
        "chunk": f"{chunk_of(subject, n_chunks):02d}",
        "participant_id": person["participant_id"],
        "subject": subject,
        "image": image,
    }


def repetition_time(person: Mapping[str, str], stated: Any, fallback: float | None, what: str) -> float:
    """Return the repetition time in s from the data, the participants table or the configuration, in this order.

    Raises
    ------
    RunExcluded
        Nothing gives one, or data and participants table differ by more than 1 %.
    """
    column = pd.to_numeric(person.get("t_r", "n/a"), errors="coerce")
    given = [float(value) for value in (stated, column) if is_positive(value)]
    if len(given) == 2 and abs(given[0] - given[1]) > T_R_TOLERANCE * given[0]:
        raise RunExcluded(
            "repetition time mismatch", f"{what}: its metadata say {given[0]} s, participants.tsv {given[1]} s"
        )
    if not given and fallback is None:
        raise RunExcluded(
            "no repetition time",
            f"{what}: neither its metadata, nor a column t_r of participants.tsv, nor t_r of the dataset in "
            "config.yaml gives the repetition time in seconds",
        )
    return given[0] if given else float(fallback)


def is_positive(value: Any) -> bool:
    """Return whether `value` is a number above zero (and not text that says one)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def by_id(people: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the rows of a participants table by participant_id."""
    return {person["participant_id"]: person for person in people.to_dict("records")}


def owner(people: Mapping[str, dict[str, str]], participant_id: str, what: str) -> dict[str, str]:
    """Return a person's row; a person without one is excluded."""
    if participant_id not in people:
        raise RunExcluded(
            "no participants row",
            f"{what}: {participant_id} has no row in participants.tsv; add one (ids are compared letter by letter)",
        )
    return people[participant_id]


def settle(
    found: Found,
    search: Search,
    candidates: Mapping[str, list[tuple[str, str]]],
    row: Callable[[str, str], dict[str, str]],
) -> None:
    """Turn candidates into runs; a run with several files, or with a reason against it, is left out.

    Parameters
    ----------
    found : Found
        Added to.
    search : Search
        What is searched for.
    candidates : mapping of run id to list of (participant_id, path)
        What may be the file of each run.
    row : function of (run id, path)
        Returns the manifest row, or raises `RunExcluded`.
    """
    for run_id, files in candidates.items():
        try:
            if len(files) > 1:
                names = ", ".join(path for _, path in files)
                raise RunExcluded("ambiguous", f"{len(files)} files for one run: {names}; narrow select, or remove one")
            found.runs.append(row(run_id, files[0][1]))
        except RunExcluded as reason:
            for person, path in files:
                found.excluded.append(search.exclusion(person, run_id, path, reason))
