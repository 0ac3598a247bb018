"""Scans of a CAT12 folder, in its BIDS layout or in its own, told by the prefixes of its files.

    mwp1<scan>.nii[.gz]     grey matter in template space, modulated: sums are this person's volumes
    mwp2<scan>.nii[.gz]     white matter, likewise
    wm<scan>.nii[.gz]       the bias-corrected T1-weighted image in template space (wmi: locally adapted, not taken)
    cat_<scan>.xml          report: volumes and image quality
    catROI_<scan>.xml       volumes of the regions of CAT12's atlases

Maps lie in ``mri/``, reports in ``report/``, regions in ``label/``, or all in one folder; around them
``sub-*/[ses-*/]anat/`` (also below ``derivatives/CAT12.*/``), or anything else. An ``r`` before the
scan's name marks CAT12's longitudinal pipeline.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from neuropipe.bids import cat12_xml, entities, maps
from neuropipe.bids.fmriprep import File
from neuropipe.bids.index import Found, inputs_fingerprint
from neuropipe.bids.ready import Search, settle
from neuropipe.bids.tree import check_fetched
from neuropipe.config import Dataset
from neuropipe.errors import InputError, RunExcluded

log = logging.getLogger("neuropipe")

PREFIXES = {"gm": "mwp1", "wm": "mwp2", "t1w": "wm"}
EXTENSIONS = (".nii.gz", ".nii")
OF_A_SCAN = ("ses", "acq", "rec", "run")  # entities that a file without BIDS name may still have
SAID_OF_IT = re.compile(rf"(?<![^_])({'|'.join(OF_A_SCAN)})-[^_]+")
WORDS = re.compile(r"[^\W_]+")


def find(path: Path, search: Search, section: Dataset) -> Found:
    """Find the maps of a folder and everything below.

    Parameters
    ----------
    path : Path
        CAT12's output folder, or one above.
    search : Search
        What is wanted counts for what the names say; of the people, ``file_id`` (a scan's name) is used where present.
    section : Dataset
        `map` says which maps, `space` which template space.

    Raises
    ------
    InputError
        There is no such folder, or no such map in it.
    """
    prefix = PREFIXES[section.map or "gm"]
    if not path.is_dir():
        raise InputError(f"No folder {path}; expected CAT12's output. Correct datasets.{search.dataset}.path.")
    scans = {place: _scan(place, prefix) for place in maps.files(path, EXTENSIONS)}
    scans = {place: scan for place, scan in scans.items() if scan and not _is_adapted(scan, prefix, search)}
    if not scans:
        raise InputError(
            f"{path} holds no {prefix}*.nii[.gz]; expected CAT12's maps of that name in it or below. Let CAT12 write "
            f"them, or correct path or map of datasets.{search.dataset}."
        )
    found, files = Found(), {}
    candidates: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for place, scan in scans.items():
        try:
            person_id, file = _file(place, scan, search)
        except RunExcluded as reason:
            found.excluded.append(search.exclusion("n/a", "n/a", place, reason))
            continue
        if entities.matches(file.said | {"space": section.space or maps.NEWEST_SPACE}, search.wanted):
            files[place] = file
            candidates[file.key].append((person_id, place))
    space = section.space or maps.NEWEST_SPACE
    settle(found, search, candidates, lambda _, place: _row(search, files[place], scans[place], space))
    _warn_of_old_template(path, found, section)
    return found


def _scan(place: str, prefix: str) -> str | None:
    """Return the name of the scan that a file is a map of: its own without prefix and extension."""
    name = place.rpartition("/")[2]
    if not name.startswith(prefix):
        return None
    return entities.composed(name.removesuffix(".gz").removesuffix(".nii").removeprefix(prefix)) or None


def _is_adapted(scan: str, prefix: str, search: Search) -> bool:
    """Return whether ``wm`` + scan is rather ``wmi`` + the rest: where the rest names a person and the whole does not.

    Parameters
    ----------
    scan : str
        What follows `prefix` in a file name.
    """
    if prefix != "wm" or not scan.startswith("i"):
        return False
    return scan.startswith("isub-") or (not owners(scan, search) and bool(owners(scan[1:], search)))


# --- whose a scan is ----------------------------------------------------------------------------


def _file(place: str, scan: str, search: Search) -> tuple[str, File]:
    """Return whose scan a file shows, and what its name says.

    Raises
    ------
    RunExcluded
        The name holds no id of the participants table, or several.
    """
    name = scan[1:] if scan.startswith("rsub-") else scan
    pairs, suffix, _ = entities.split_name(name)
    if "sub" in pairs and name.startswith("sub-"):
        person_id = f"sub-{pairs['sub']}"
    else:
        person_id = _owner(name, place, search)
        pairs = {"sub": person_id.removeprefix("sub-")} | {key: pairs[key] for key in OF_A_SCAN if key in pairs}
    said = entities.with_long_names(pairs) | {"suffix": suffix, "datatype": "anat"}
    return person_id, File(place, said, entities.key_of(pairs))


def _owner(scan: str, place: str, search: Search) -> str:
    found = owners(scan, search) or (owners(scan[1:], search) if scan.startswith("r") else [])
    if len(found) > 1:
        detail = f"{place} names several people ({', '.join(found)}); add a column file_id to participants.tsv"
        raise RunExcluded("ambiguous", detail)
    if not found:
        raise RunExcluded("no participants row", f"no row of participants.tsv has an id that {place} names")
    return found[0]


def owners(scan: str, search: Search) -> list[str]:
    """Return the people whose id, with or without ``sub-``, stands in a scan's name as whole words.

    ``OAS1_0001_MR1`` is of ``sub-OAS1_0001``, and of ``sub-0001`` only where there is no such longer id.
    A scan's whole name in the column ``file_id`` goes before.
    """
    named = [one for one, person in search.persons.items() if person.get("file_id", "n/a") == scan]
    if named:
        return named
    scan = SAID_OF_IT.sub("", scan)  # run-2 does not name sub-2
    words = [(word.start(), word.end()) for word in WORDS.finditer(scan)]
    spans: dict[tuple[int, int], str] = {}
    for first, (start, _) in enumerate(words):
        for _, end in words[first:]:
            person_id = entities.participant_id(scan[start:end])
            if person_id in search.persons:
                spans[start, end] = person_id
    longest = {
        person
        for (start, end), person in spans.items()
        if not any((a, b) != (start, end) and a <= start and end <= b for a, b in spans)
    }
    return sorted(longest)


# --- rows ---------------------------------------------------------------------------------------


def _row(search: Search, file: File, scan: str, space: str) -> dict[str, str]:
    root = search.root
    maps.check_header(root / file.path)
    beside = _beside(root, file.path, scan)
    row = maps.manifest_row(search, f"sub-{file.said['subject']}", file.run_id, file.path, file.said | {"space": space})
    row["beside"] = ";".join(beside)
    for other in beside:
        check_fetched(root / other)
    return row | {"fingerprint": inputs_fingerprint(root, row)}


def _beside(root: Path, place: str, scan: str) -> list[str]:
    """Return the report and the regional volumes of a scan: beside its map, or in the folders that CAT12 makes."""
    folder, found = PurePosixPath(place).parent, []
    for name, own in ((f"cat_{scan}.xml", "report"), (f"catROI_{scan}.xml", "label")):
        places = [folder / name, folder.parent / own / name, folder / own / name]
        found += [str(place) for place in places if (root / place).is_symlink() or (root / place).is_file()][:1]
    return found


def _warn_of_old_template(path: Path, found: Found, section: Dataset) -> None:
    """Say that the template is not the newest where the first map's grid is that of CAT12 before 12.8."""
    if section.space is None and found.runs:
        shape = maps.check_header(path / found.runs[0]["image"])
        if shape[:3] == maps.OLD_GRID:
            log.warning(
                "%s: maps of %s voxels are of CAT12 before 12.8, whose template is not %s: set space: of the dataset",
                *(path, "x".join(map(str, shape[:3])), maps.NEWEST_SPACE),
            )


def read(root: Path, row: Mapping[str, str], section: Dataset) -> maps.Map:
    """Read one map and what its report states."""
    array, affine = maps.read_map(root / row["image"])
    known: dict[str, float] = {}
    for other in row["beside"].split(";"):
        if other.rpartition("/")[2].startswith("cat_"):
            known |= cat12_xml.report(root / other)
    return maps.Map(array, affine, row["space"], modulated=section.map != "t1w", known=known)
