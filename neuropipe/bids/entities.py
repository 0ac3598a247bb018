"""BIDS file names: their entities, the part that names the run, and whether a selection wants them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

# How pybids calls the entities that file names abbreviate; a selection may use either.
LONG = {
    "sub": "subject",
    "ses": "session",
    "acq": "acquisition",
    "ce": "ceagent",
    "rec": "reconstruction",
    "dir": "direction",
    "seg": "segmentation",
}
# These say how a run was processed, not which run it is.
PROCESSING = {"space", "cohort", "res", "den", "hemi", "label", "seg", "atlas", "stat", "desc", "hash"}
EXTENSIONS = (".nii.gz", ".dtseries.nii", ".ptseries.nii", ".func.gii", ".tsv.gz")


@cache
def _pybids_entities() -> tuple[Any, ...]:
    """Return pybids' entity patterns; importing it costs half a second, so only an index does."""
    from bids.layout.models import Config

    patterns: dict[str, Any] = {}
    for name in ("bids", "derivatives"):
        patterns.update(Config.load(name).entities)
    return tuple(patterns.values())


def parse(path: str) -> dict[str, str]:
    """Return the entities of a file as text, by pybids' names.

    Parameters
    ----------
    path : str
        Path with ``/``; folders count (``func`` gives the datatype).

    Returns
    -------
    dict of str to str
        E.g. ``{"subject": "01", "task": "rest", "run": "1", "suffix": "bold", "extension": ".nii.gz"}``.
        Labels are taken whole from the name: pybids' patterns cut them at the first non-ASCII letter.
    """
    from bids.layout import parse_file_entities

    found = {key: str(value) for key, value in parse_file_entities(f"/{path}", entities=_pybids_entities()).items()}
    return found | of_name(PurePosixPath(path).name)


def of_name(name: str) -> dict[str, str]:
    """Return what a file name alone says, by pybids' names: a hundred times faster than asking pybids."""
    pairs, suffix, extension = split_name(name)
    return {LONG.get(key, key): value for key, value in pairs.items()} | {"suffix": suffix, "extension": extension}


def split_name(name: str) -> tuple[dict[str, str], str, str]:
    """Split ``sub-01_task-rest_bold.nii.gz`` into its short entities, suffix and extension."""
    extension = next((e for e in EXTENSIONS if name.endswith(e)), PurePosixPath(name).suffix)
    *pairs, suffix = name.removesuffix(extension).split("_")
    split = (pair.partition("-") for pair in pairs)
    return {key: value for key, dash, value in split if dash}, suffix, extension


def run_key(name: str) -> str:
    """Return the part of a file name that says which run it is, e.g. ``sub-01_ses-a_task-rest_run-1``."""
    return "_".join(f"{key}-{value}" for key, value in split_name(name)[0].items() if key not in PROCESSING)


def normalise_select(select: Mapping[str, Any]) -> dict[str, Any]:
    """Return a selection with pybids' entity names; the bids-filter-file form gives its ``bold`` part."""
    if any(isinstance(value, Mapping) for value in select.values()):
        select = select.get("bold", {})
    return {LONG.get(key, key): value for key, value in select.items()}


def _agrees(entity: str, value: str | None, wanted: Any) -> bool:
    if wanted is None:
        return value is None
    if value is None:
        return False
    if wanted == "*" or value == str(wanted):
        return True
    # run-01 is run 1 and res-02 is res 2, but the labels 01 and 1 are two people.
    if entity in ("run", "echo", "res") and value.isdigit() and str(wanted).isdigit():
        return int(value) == int(wanted)
    return any(c in str(wanted) for c in "*?[") and fnmatch.fnmatchcase(value, str(wanted))


def matches(entities: Mapping[str, str], select: Mapping[str, Any]) -> bool:
    """Return whether a file's entities agree with a selection.

    A selection value is a label, a list of labels (any of them), null (the entity must be absent)
    or a pattern with ``*``; ``run``, ``echo`` and ``res`` compare as numbers where both are.
    """
    return all(
        any(_agrees(key, entities.get(key), one) for one in (wanted if isinstance(wanted, list) else [wanted]))
        for key, wanted in select.items()
    )


def participant_id(label: str) -> str:
    """Return a subject label with the prefix ``sub-``; the label itself is text and never changed."""
    return label if label.startswith("sub-") else f"sub-{label}"
