"""BIDS file names: their entities, the part that names the run, and whether a selection wants them."""

from __future__ import annotations

import fnmatch
import unicodedata
from collections.abc import Mapping
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
ON_SURFACE = (".dtseries.nii", ".func.gii")


# fMRIPrep before 1.2 put the suffix in the middle: sub-01_task-rest_bold_space-T1w_preproc.nii.gz.
OLD_SUFFIXES = {"preproc": ("preproc", None), "brainmask": ("brain", "mask"), "confounds": ("confounds", "timeseries")}
OLD_MIDDLES = ("bold", "T1w")
# How filter files of fMRIPrep and XCP-D write pybids' queries.
QUERIES = {"Query.NONE": None, "Query.ANY": "*", "Query.REQUIRED": "*"}
DATATYPES = ("anat", "func", "fmap", "dwi", "perf")


def composed(text: str) -> str:
    """Return text in Unicode's composed form: macOS writes an accent of a file name as a letter of its own."""
    return unicodedata.normalize("NFC", text)


def parse(path: str) -> dict[str, str]:
    """Return the entities of a file as text, by pybids' names.

    Parameters
    ----------
    path : str
        Path with ``/``; the folder that holds the file gives the datatype.

    Returns
    -------
    dict of str to str
        E.g. ``{"subject": "01", "task": "rest", "run": "1", "suffix": "bold", "extension": ".nii.gz"}``.
        pybids finds the same (tested), a hundred times slower, but turns ``run-01`` into a number and cuts labels at
        the first non-ASCII letter.
    """
    folder, _, name = path.rpartition("/")
    datatype = folder.rpartition("/")[2]
    return of_name(name) | ({"datatype": datatype} if datatype in DATATYPES else {})


def of_name(name: str) -> dict[str, str]:
    """Return what a file name alone says, by pybids' names."""
    pairs, suffix, extension = split_name(name)
    return with_long_names(pairs) | {"suffix": suffix, "extension": extension}


def with_long_names(pairs: Mapping[str, str]) -> dict[str, str]:
    """Return short entities by pybids' names."""
    return {LONG.get(key, key): value for key, value in pairs.items()}


def split_name(name: str) -> tuple[dict[str, str], str, str]:
    """Split ``sub-01_task-rest_bold.nii.gz`` into its short entities, suffix and extension.

    Names of the first fMRIPrep are brought to today's: ``bold_space-T1w_preproc`` is ``space-T1w_desc-preproc_bold``.
    """
    extension = next((e for e in EXTENSIONS if name.endswith(e)), None)
    if extension is None:
        extension = name[dot:] if (dot := name.rfind(".")) > 0 else ""
    *parts, suffix = name.removesuffix(extension).split("_")
    if suffix.startswith("hemi-"):  # fMRIPrep before 20 left the suffix of surface series out
        parts, suffix = [*parts, suffix], "bold"
    split = [part.partition("-") for part in parts]
    pairs = {key: value for key, dash, value in split if dash}
    if suffix in OLD_SUFFIXES and (middle := next((part for part in parts if part in OLD_MIDDLES), None)):
        desc, today = OLD_SUFFIXES[suffix]
        pairs["desc"], suffix = pairs.pop("variant", desc), today or middle
    return pairs, suffix, extension


def run_key(name: str) -> str:
    """Return the part of a file name that says which run it is, e.g. ``sub-01_ses-a_task-rest_run-1``."""
    return key_of(split_name(name)[0])


def key_of(pairs: Mapping[str, str]) -> str:
    """Return the run that short entities name; the magnitude image (``part-mag``) is the run itself."""
    return "_".join(
        f"{key}-{value}" for key, value in pairs.items() if key not in PROCESSING and (key, value) != ("part", "mag")
    )


def on_surface(image: str) -> bool:
    """Return whether an image holds vertices (CIFTI's voxels come with them)."""
    return image.endswith(ON_SURFACE)


def hemispheres(image: str) -> tuple[str, ...]:
    """Return all image files of a run whose manifest names `image`.

    A ``.func.gii`` has one hemisphere. The manifest names the left one; the right one's path is the same but for
    ``hemi-R``. Every other image is the only one of its run.
    """
    folder, slash, name = image.rpartition("/")
    if not name.endswith(".func.gii"):
        return (image,)
    return image, f"{folder}{slash}{name.replace('hemi-L', 'hemi-R')}"


def normalise_select(select: Mapping[str, Any], part: str = "bold") -> dict[str, Any]:
    """Return a selection with pybids' entity names; the bids-filter-file form gives one `part` (``bold``, ``t1w``)."""
    if any(isinstance(value, Mapping) for value in select.values()):
        select = select.get(part, {})
    named = {LONG.get(key, key): value for key, value in select.items()}
    as_lists = {key: value if isinstance(value, list) else [value] for key, value in named.items()}
    wanted = {key: [QUERIES.get(str(one), one) for one in values] for key, values in as_lists.items()}
    return {key: values if len(values) > 1 else values[0] for key, values in wanted.items() if values}


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
