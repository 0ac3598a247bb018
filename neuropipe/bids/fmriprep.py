"""Runs of an fMRIPrep derivatives folder: images, masks, confounds and repetition times that belong together."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuropipe.bids import entities, headers
from neuropipe.bids.index import Found, chunk_of, exclusion, inputs_fingerprint
from neuropipe.bids.sidecars import Sidecars
from neuropipe.errors import InputError, RunExcluded
from neuropipe.signals.images import Layout

IMAGE_EXTENSIONS = (".nii.gz", ".nii")
# Newest name first; fMRIPrep before 20.2 wrote the second.
CONFOUNDS = (("confounds", "timeseries"), ("confounds", "regressors"))
T_R_TOLERANCE = 0.01
# What makes a file one part of a run (an echo, a phase image, a surface) rather than the run itself.
PARTS = ("echo", "hemi", "den")


@dataclass(frozen=True)
class Folder:
    """One ``func`` folder: its path relative to the dataset and its file names."""

    path: str
    names: tuple[str, ...]


def functional_folders(root: Path) -> Iterator[tuple[str, list[Folder]]]:
    """Yield each subject folder's name with its ``func`` folders; nothing else of the tree is entered."""
    for subject in sorted(_folders(root, "sub-")):
        levels = [subject, *(f"{subject}/{session}" for session in sorted(_folders(root / subject, "ses-")))]
        found = []
        for level in levels:
            path = root / level / "func"
            if path.is_dir():
                found.append(Folder(f"{level}/func", tuple(sorted(entry.name for entry in os.scandir(path)))))
        yield subject, found


def _folders(root: Path, prefix: str) -> list[str]:
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if entry.name.startswith(prefix) and entry.is_dir()]


def find(
    root: Path, dataset: str, select: Mapping[str, Any], space: str | None, people: set[str], n_chunks: int
) -> Found:
    """Find the usable runs of a derivatives folder.

    Parameters
    ----------
    root : Path
        Folder with the ``sub-*`` folders.
    dataset : str
        Name of the dataset, for the excluded rows.
    select : mapping
        BIDS entities to keep, or the bids-filter-file form.
    space : str or None
        Space of the study's atlases: the space of the images where `select` names none.
    people : set of str
        Ids of participants.tsv, with ``sub-``.
    n_chunks : int
        Number of chunks.

    Returns
    -------
    Found
        Every image that the selection asks for is in one of its two lists, and so is every subject.
    """
    if not root.is_dir():
        raise InputError(
            f"No folder {root}; expected fMRIPrep derivatives (sub-*/func). Correct datasets.{dataset}.path."
        )
    wanted = entities.normalise_select(select)
    if space is not None:
        wanted = {"space": space} | wanted
    found, sidecars = Found(), Sidecars(root)
    for subject, folders in functional_folders(root):
        if not _wants_subject(subject, wanted):
            continue
        person = Found()
        for folder in folders:
            _find_in_folder(sidecars, folder, dataset, subject, wanted, person)
        if not person.runs and not person.excluded:
            detail = f"no *_desc-preproc_bold image of {_describe(wanted)} in {subject}; correct select, or leave it"
            person.excluded.append(exclusion("index", dataset, subject, "n/a", subject, "no matching run", detail))
        found.excluded += person.excluded
        for row in person.runs:
            if subject not in people:
                detail = f"{subject} has no row in participants.tsv; add one (ids are compared letter by letter)"
                reason = "no participants row"
                found.excluded.append(exclusion("index", dataset, subject, row["run_id"], row["image"], reason, detail))
            else:
                found.runs.append(row | {"chunk": f"{chunk_of(row['subject'], n_chunks):02d}"})
    return found


def _wants_subject(folder: str, wanted: Mapping[str, Any]) -> bool:
    select = {"subject": wanted["subject"]} if "subject" in wanted else {}
    return entities.matches({"subject": folder.removeprefix("sub-")}, select)


def _describe(wanted: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in wanted.items()) or "any kind"


def _find_in_folder(
    sidecars: Sidecars, folder: Folder, dataset: str, subject: str, wanted: Mapping[str, Any], found: Found
) -> None:
    """Add the runs of one folder; a run with several files, or none in the wanted space, is left out."""
    candidates = _candidates(folder, wanted)
    for run_id, files in candidates.items():
        fitting = {name: parsed for name, parsed in files.items() if entities.matches(parsed, wanted)}
        try:
            if not fitting:
                spaces = sorted({parsed.get("space", "native") for parsed in files.values()})
                raise RunExcluded(
                    "wrong space",
                    f"expected {_describe({k: wanted[k] for k in ('space', 'res') if k in wanted})}, found "
                    f"{', '.join(files)} (space {', '.join(spaces)}); choose an atlas in that space, select that "
                    "space and set warp: true, or run fMRIPrep with --output-spaces for the atlas",
                )
            if len(fitting) > 1:
                raise RunExcluded(
                    "ambiguous", f"{len(fitting)} files for one run: {', '.join(fitting)}; narrow select (e.g. res: 2)"
                )
            found.runs.append(_run(sidecars, folder, next(iter(fitting)), run_id))
        except RunExcluded as reason:
            for name in fitting or files:
                path = f"{folder.path}/{name}"
                found.excluded.append(exclusion("index", dataset, subject, run_id, path, reason.reason, reason.detail))


def _candidates(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """Return run id -> file name -> entities of the images that fit `wanted` in all but space and resolution."""
    elsewhere = {k: v for k, v in wanted.items() if k not in ("space", "res")}
    elsewhere = {"desc": "preproc", "suffix": "bold", "part": [None, "mag"]} | elsewhere
    elsewhere = dict.fromkeys(PARTS) | elsewhere
    runs: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for name in folder.names:
        if name.endswith(IMAGE_EXTENSIONS):
            # Of a dozen images per run one is meant: the name alone tells, before pybids takes its time.
            said = entities.of_name(name) | {"datatype": "func"}
            if entities.matches(said, elsewhere):
                runs[entities.run_key(name)][name] = said
    return runs


def _run(sidecars: Sidecars, folder: Folder, name: str, run_id: str) -> dict[str, str]:
    """Return the manifest row of one image; raise `RunExcluded` where something that belongs to it is missing."""
    root, image = sidecars.root, f"{folder.path}/{name}"
    mask = f"{folder.path}/{_companion_mask(folder, name, run_id)}"
    confounds = f"{folder.path}/{_companion_confounds(folder, run_id)}"
    for path in (image, mask, confounds):
        check_fetched(root / path)
    header, parsed = headers.read(root / image), entities.parse(image)
    row = {
        "run_id": run_id,
        "participant_id": f"sub-{parsed['subject']}",
        "subject": parsed["subject"],
        "session": parsed.get("session", ""),
        "task": parsed.get("task", ""),
        "run": parsed.get("run", ""),
        "space": parsed.get("space", ""),
        "t_r": repr(repetition_time(sidecars.of(image), header, name)),
        "n_volumes": str(header.n_volumes),
        "image": image,
        "mask": mask,
        "confounds": confounds,
    }
    return row | {"fingerprint": inputs_fingerprint(root, row)}


def _companion_mask(folder: Folder, image: str, run_id: str) -> str:
    """Return the brain mask of the same run on the same grid."""
    pairs, _, _ = entities.split_name(image)
    grid = [pairs.get(key) for key in ("space", "cohort", "res")]
    fitting = []
    for name in folder.names:
        if not name.endswith(("_desc-brain_mask.nii.gz", "_desc-brain_mask.nii")):
            continue
        other = entities.split_name(name)[0]
        if entities.run_key(name) == run_id and [other.get(key) for key in ("space", "cohort", "res")] == grid:
            fitting.append(name)
    if len(fitting) != 1:
        what = f"found {', '.join(fitting)}" if fitting else "found none"
        raise RunExcluded(
            "missing mask", f"expected one *_desc-brain_mask.nii.gz of the same space beside {image}, {what}"
        )
    return fitting[0]


def _companion_confounds(folder: Folder, run_id: str) -> str:
    for desc, suffix in CONFOUNDS:
        name = f"{run_id}_desc-{desc}_{suffix}.tsv"
        if name in folder.names:
            return name
    raise RunExcluded(
        "missing confounds", f"expected {run_id}_desc-confounds_timeseries.tsv in {folder.path}; found no such file"
    )


def check_fetched(path: Path) -> None:
    """Raise `RunExcluded` where a file is a link whose content was never fetched (DataLad, git-annex)."""
    if path.is_symlink() and not path.exists():
        raise RunExcluded("not fetched", f"{path.name} is a link without content; fetch it (datalad get {path.name})")
    if not path.is_file():
        raise RunExcluded("missing file", f"{path.name} is not a file; copy it again")


def repetition_time(metadata: Mapping[str, Any], header: Layout, name: str) -> float:
    """Return the repetition time in s from the sidecars, checked against the header.

    Raises
    ------
    RunExcluded
        No sidecar gives one, or the header says another (it differs by more than 1 %).
    """
    found = metadata.get("RepetitionTime")
    if not isinstance(found, int | float) or isinstance(found, bool) or found <= 0:
        raise RunExcluded(
            "no repetition time",
            f"no JSON sidecar of {name} gives a RepetitionTime in seconds (found {found!r}); add it to the sidecar, or "
            "to a task-<label>_bold.json at the top of the dataset",
        )
    if header.t_r and all(abs(one - found) > T_R_TOLERANCE * found for one in header.t_r):
        raise RunExcluded(
            "repetition time mismatch",
            f"{name}: the sidecar says {found} s, the header {' or '.join(f'{one:g}' for one in header.t_r)} s; "
            "find out which is right and correct the other",
        )
    return float(found)
