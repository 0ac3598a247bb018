"""Maps of anatomy in an fMRIPrep folder: tissue probabilities and the T1-weighted image in template space.

*_space-*[_res-*]_label-GM_probseg.nii[.gz]     grey matter: a share of each voxel, not modulated
*_space-*[_res-*]_label-WM_probseg.nii[.gz]     white matter, likewise
*_space-*[_res-*]_desc-preproc_T1w.nii[.gz]     with *_desc-brain_mask of the same grid, where there is one
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuropipe.bids import entities, fmriprep, maps
from neuropipe.bids.index import Found, inputs_fingerprint
from neuropipe.bids.ready import Search
from neuropipe.bids.tree import Tree, check_fetched, folders_of, subjects
from neuropipe.config import Dataset
from neuropipe.errors import RunExcluded
from neuropipe.signals import images

MAPS: dict[str, dict[str, Any]] = {
    "gm": {"label": "GM", "desc": None, "suffix": "probseg"},
    "wm": {"label": "WM", "desc": None, "suffix": "probseg"},
    "t1w": {"label": None, "desc": "preproc", "suffix": "T1w"},
}
DATATYPE = "anat"
MASK_THRESHOLD = 0.5  # a mask stored with a slope has values near 1, not 1


def find(path: Path, search: Search, section: Dataset) -> Found:
    """Find the maps of a derivatives folder.

    Parameters
    ----------
    path : Path
        Folder with the ``sub-*`` folders.
    search : Search
        What is wanted; without a space it is fMRIPrep's own default, MNI152NLin2009cAsym.
    section : Dataset
        `map` says which maps.

    Raises
    ------
    InputError
        `path` is no folder of subjects.
    """
    found, tree = Found(), Tree(path)
    wanted = {"space": maps.NEWEST_SPACE} | search.wanted | MAPS[section.map or "gm"]
    for subject in subjects(tree, search.dataset):
        if fmriprep.wants_subject(subject, wanted):
            _find_person(tree, search, subject, wanted, found)
    return found


def _find_person(tree: Tree, search: Search, subject: str, wanted: Mapping[str, Any], found: Found) -> None:
    """Add the scans of one subject; one without any is left out as a whole."""
    scans: dict[str, list[fmriprep.File]] = defaultdict(list)
    try:
        for folder in folders_of(tree, subject, DATATYPE):
            for file in fmriprep.files_of(folder, DATATYPE):
                scans[file.key].append(file)
    except OSError as error:
        found.excluded.append(fmriprep.unreadable(error, search.dataset, subject))
        return
    n_before = len(found.runs) + len(found.excluded)
    for key in scans:
        _find_scan(search, scans, key, wanted, found)
    if len(found.runs) + len(found.excluded) == n_before:
        asked = fmriprep.describe({key: value for key, value in wanted.items() if value is not None})
        detail = f"no map of {asked} in {subject}/[ses-*/]anat; correct select, or leave it"
        reason = RunExcluded("no matching run", detail)
        found.excluded.append(search.exclusion(entities.composed(subject), "n/a", subject, reason))


def _find_scan(
    search: Search, scans: Mapping[str, list[fmriprep.File]], key: str, wanted: Mapping[str, Any], found: Found
) -> None:
    """Add one scan; with several maps, or none in the wanted space, it is left out."""
    elsewhere = {name: value for name, value in wanted.items() if name not in fmriprep.GRID}
    files = [file for file in scans[key] if file.said["extension"] in fmriprep.IMAGE_EXTENSIONS]
    candidates = [file for file in files if entities.matches(file.said, elsewhere)]
    fitting = [file for file in candidates if entities.matches(file.said, wanted)]
    try:
        if candidates:
            image = fmriprep.one_of(fitting, candidates, wanted)
            found.runs.append(_row(search, image, scans))
    except RunExcluded as reason:
        for file in fitting or candidates:
            found.excluded.append(search.exclusion(f"sub-{file.said['subject']}", file.run_id, file.path, reason))


def _row(search: Search, image: fmriprep.File, scans: Mapping[str, list[fmriprep.File]]) -> dict[str, str]:
    root, masks = search.root, []
    fmriprep.check_place(image)
    maps.check_header(root / image.path)
    if image.said["suffix"] == "T1w":
        grid = [image.said.get(key) for key in fmriprep.GRID]
        masks = fmriprep.of_same_run(image, scans, desc="brain", suffix="mask")
        masks = [file.path for file in masks if [file.said.get(key) for key in fmriprep.GRID] == grid]
    row = maps.manifest_row(search, f"sub-{image.said['subject']}", image.run_id, image.path, image.said)
    if masks:
        check_fetched(root / masks[0])
        row["mask"] = masks[0]
    return row | {"fingerprint": inputs_fingerprint(root, row)}


def read(root: Path, row: Mapping[str, str], section: Dataset) -> maps.Map:
    """Read one map; a T1-weighted image is 0 outside its brain mask."""
    array, affine = images.read_volume(root / row["image"])
    if row["mask"] != "n/a":
        mask, mask_affine = images.read_volume(root / row["mask"])
        if not images.same_grid(array.shape, affine, mask.shape, mask_affine):
            detail = f"{row['mask']} has shape {mask.shape}, {row['image']} {array.shape}, or their affines differ"
            raise RunExcluded("mask mismatch", detail)
        array[mask <= MASK_THRESHOLD] = 0
    return maps.Map(maps.checked(array, row["image"]), affine, row["space"])
