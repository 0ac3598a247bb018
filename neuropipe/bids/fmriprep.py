"""Runs of an fMRIPrep derivatives folder: images, masks, confounds and repetition times that belong together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuropipe.bids import entities, headers, participants, surface
from neuropipe.bids.index import Found, chunk_of, exclusion, inputs_fingerprint
from neuropipe.bids.sidecars import Sidecars
from neuropipe.bids.timing import T_R_TOLERANCE, repetition_time, start_time
from neuropipe.bids.tree import Folder, check_fetched, folders_of, functional_folders, subjects
from neuropipe.errors import RunExcluded

__all__ = ["T_R_TOLERANCE", "Folder", "check_fetched", "find", "functional_folders"]

IMAGE_EXTENSIONS = (".nii.gz", ".nii")
# Newest name first; fMRIPrep before 20.2 wrote the second.
CONFOUNDS = ("timeseries", "regressors")
# What makes a file one part of a run (an echo, a phase image, a surface) rather than the run itself.
PARTS = ("echo", "hemi", "den")
GRID = ("space", "cohort", "res")
PADDED = re.compile(r"(_run-|_echo-)0+(?=\d)")
Runs = Mapping[str, Sequence["File"]]  # key of a run -> its files
MAX_NAMED = 3  # files in a message


@dataclass(frozen=True)
class File:
    """One file of a ``func`` folder.

    Attributes
    ----------
    path : str
        Path in the dataset.
    said : dict
        What its name says, by pybids' names.
    run_id : str
        The run it belongs to, as its name has it.
    """

    path: str
    said: dict[str, str]
    run_id: str

    @property
    def key(self) -> str:
        """The run with numbers as numbers: ``run-1`` and ``run-01`` are one."""
        return PADDED.sub(r"\1", self.run_id)

    @property
    def name(self) -> str:
        """The path's last part."""
        return self.path.rpartition("/")[2]


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

    Raises
    ------
    InputError
        `root` is no folder of subjects.
    """
    wanted = entities.normalise_select(select)
    if space is not None:
        wanted = {"space": space} | wanted
    found, sidecars, alike = Found(), Sidecars(root), participants.alike(people)
    for subject in subjects(sidecars.tree, dataset):
        if not wants_subject(subject, wanted):
            continue
        person_id = entities.composed(subject)
        person = _find_person(sidecars, dataset, subject, wanted)
        found.excluded += person.excluded
        for row in person.runs:
            if person_id in people:
                found.runs.append(row | {"chunk": f"{chunk_of(row['subject'], n_chunks):02d}"})
            else:
                where, detail = (dataset, person_id, row["run_id"], row["image"]), participants.no_row(person_id, alike)
                found.excluded.append(exclusion("index", *where, "no participants row", detail))
    return found


def wants_subject(folder: str, wanted: Mapping[str, Any]) -> bool:
    """Return whether a selection leaves the subject of a folder in."""
    select = {"subject": wanted["subject"]} if "subject" in wanted else {}
    return entities.matches({"subject": entities.composed(folder).removeprefix("sub-")}, select)


def describe(wanted: Mapping[str, Any]) -> str:
    """Return a selection in words."""
    return ", ".join(f"{key} {value}" for key, value in wanted.items()) or "any kind"


def unreadable(error: OSError, dataset: str, subject: str) -> dict[str, str]:
    """Return the row of a subject whose folder cannot be listed."""
    reason = "not fetched" if isinstance(error, FileNotFoundError) else "not readable"
    detail = f"{error.filename}: {error.strerror}; fetch the folder, or change its permissions"
    return exclusion("index", dataset, entities.composed(subject), "n/a", subject, reason, detail)


def _find_person(sidecars: Sidecars, dataset: str, subject: str, wanted: Mapping[str, Any]) -> Found:
    """Return the runs of one subject; one without any is left out as a whole."""
    person, runs, person_id = Found(), defaultdict(list), entities.composed(subject)
    try:
        for folder in folders_of(sidecars.tree, subject):
            for file in files_of(folder):
                runs[file.key].append(file)
        _find_runs(sidecars, runs, dataset, person_id, wanted, person)
    except OSError as error:
        person.excluded.append(unreadable(error, dataset, subject))
    if not person.runs and not person.excluded:
        suffix = wanted.get("suffix", "bold")
        seen = [file.name for files in runs.values() for file in files if file.said["suffix"] == suffix]
        others = f"; found {', '.join(seen[:MAX_NAMED])}{' ...' if len(seen) > MAX_NAMED else ''}" if seen else ""
        derived = any(part in name for name in seen for part in ("_desc-", "_space-"))
        raw = " (raw images: name the derivatives)" if seen and not derived else ""
        what = "surface series" if surface.wants(wanted) else "*_desc-preproc_bold image"
        detail = f"no {what} of {describe(wanted)} in {subject}{others}{raw}; correct select"
        person.excluded.append(
            exclusion("index", dataset, person_id, "n/a", subject, "no matching run", f"{detail}, or leave it")
        )
    return person


# --- files --------------------------------------------------------------------------------------


def files_of(folder: Folder, datatype: str = "func") -> list[File]:
    """Return the images and tables of a folder with what their names say."""
    files = []
    for name in folder.names:
        if name.endswith((*IMAGE_EXTENSIONS, ".func.gii", ".tsv")):
            pairs, suffix, extension = entities.split_name(entities.composed(name))
            said = entities.with_long_names(pairs) | {"suffix": suffix, "extension": extension, "datatype": datatype}
            files.append(File(f"{folder.path}/{name}", said, entities.key_of(pairs)))
    return files


def _find_runs(
    sidecars: Sidecars, runs: Runs, dataset: str, person_id: str, wanted: Mapping[str, Any], found: Found
) -> None:
    """Add the runs of one person; a run with several files, or none in the wanted space, is left out."""
    candidates_of = surface.candidates if surface.wants(wanted) else _candidates
    for files in runs.values():
        candidates = candidates_of(files, wanted)
        fitting = [file for file in candidates if entities.matches(file.said, wanted)]
        try:
            if candidates:
                found.runs.append(_run(sidecars, runs, one_of(fitting, candidates, wanted), person_id))
        except RunExcluded as reason:
            for file in fitting or candidates:
                where = (dataset, person_id, file.run_id, file.path)
                found.excluded.append(exclusion("index", *where, reason.reason, reason.detail))


def _candidates(files: Sequence[File], wanted: Mapping[str, Any]) -> list[File]:
    """Return the images of a run that fit `wanted` in all but space and resolution."""
    elsewhere = {key: value for key, value in wanted.items() if key not in GRID}
    elsewhere = {"desc": "preproc", "suffix": "bold", "part": [None, "mag"]} | elsewhere
    elsewhere = dict.fromkeys(PARTS) | elsewhere
    images = [file for file in files if file.said["extension"] in IMAGE_EXTENSIONS]
    return [file for file in images if entities.matches(file.said, elsewhere)]


def one_of(fitting: Sequence[File], candidates: Sequence[File], wanted: Mapping[str, Any]) -> File:
    """Return the one image of a run that `wanted` leaves."""
    if not fitting:
        spaces = sorted({file.said.get("space", "native") for file in candidates})
        raise RunExcluded(
            "wrong space",
            f"expected {describe({key: wanted[key] for key in (*GRID, 'den') if key in wanted})}, found "
            f"{', '.join(file.name for file in candidates)} (space {', '.join(spaces)}); choose an atlas in that "
            "space, select that space and set warp: true, or run fMRIPrep with --output-spaces for the atlas",
        )
    if len(fitting) > 1:
        names = ", ".join(file.path for file in fitting)
        raise RunExcluded(
            "ambiguous", f"{len(fitting)} files for one run: {names}; narrow select (e.g. res: 2, den: 91k)"
        )
    return fitting[0]


def _run(sidecars: Sidecars, runs: Runs, image: File, person_id: str) -> dict[str, str]:
    """Return the manifest row of one image; raise `RunExcluded` where something that belongs to it is missing."""
    root, said = sidecars.tree.root, image.said
    check_place(image)
    on_surface = entities.on_surface(image.name)
    images = surface.images(image, runs[image.key]) if on_surface else [image.path]
    mask = "n/a" if on_surface else _mask_of(image, runs).path
    confounds = _confounds_of(image, runs).path
    try:
        for path in (*images, mask, confounds):
            if path != "n/a":
                check_fetched(root / path)
        header = surface.length(root / path for path in images) if on_surface else headers.read(root / image.path)
        metadata = sidecars.of(image.path)
        start = start_time(metadata)
        row = {
            "run_id": image.run_id,
            "participant_id": person_id,
            "subject": person_id.removeprefix("sub-"),
            **{key: said.get(key, "") for key in ("session", "task", "run", "space")},
            "t_r": repr(repetition_time(metadata, header, image.name)),
            "start_time_s": "" if start is None else repr(start),
            "n_volumes": str(header.n_volumes),
            "image": image.path,
            "mask": mask,
            "confounds": confounds,
        }
        return row | {"fingerprint": inputs_fingerprint(root, row)}
    except PermissionError as error:
        raise RunExcluded("not readable", f"{error.filename} may not be read; change its permissions") from error


def check_place(image: File) -> None:
    """Refuse an image that lies in another person's or session's folder: whose it is cannot be known."""
    folders = entities.composed(image.path).split("/")[:-2]  # without func and the name
    levels = (("sub", "subject"), ("ses", "session"))
    named = [f"{short}-{image.said[level]}" for short, level in levels if level in image.said]
    if folders not in (named, named[:1]):
        raise RunExcluded("misplaced file", f"{image.name} lies in {'/'.join(folders)}; move or rename it")


def of_same_run(image: File, runs: Runs, **said: str) -> list[File]:
    """Return the files of an image's run that say `said`; those of the whole run belong to each of its echoes."""
    whole = re.sub(r"_echo-[^_]+", "", image.key)
    for key in (image.key, whole):
        found = [file for file in runs.get(key, ()) if said.items() <= file.said.items()]
        if found:
            return found
    return []


def _mask_of(image: File, runs: Runs) -> File:
    """Return the brain mask of the same run on the same grid."""
    grid = [image.said.get(key) for key in GRID]
    masks = of_same_run(image, runs, desc="brain", suffix="mask")
    fitting = [file for file in masks if [file.said.get(key) for key in GRID] == grid]
    if len(fitting) != 1:
        found = ", ".join(file.name for file in fitting) or "none"
        raise RunExcluded(
            "missing mask",
            f"expected one *_desc-brain_mask.nii.gz of the same space beside {image.name}, found {found}",
        )
    return fitting[0]


def _confounds_of(image: File, runs: Runs) -> File:
    for suffix in CONFOUNDS:
        tables = of_same_run(image, runs, desc="confounds", suffix=suffix, extension=".tsv")
        if tables:
            return tables[0]
    raise RunExcluded(
        "missing confounds", f"expected {image.run_id}_desc-confounds_timeseries.tsv beside {image.name}; found none"
    )
