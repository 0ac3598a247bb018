"""Surface series of a derivatives folder: CIFTI files, and GIFTI files whose two hemispheres are one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropipe.bids import entities
from neuropipe.config import SURFACE_SPACE
from neuropipe.errors import RunExcluded
from neuropipe.signals import cifti
from neuropipe.signals.gifti import Hemispheres

if TYPE_CHECKING:
    from neuropipe.bids.fmriprep import File

# Which mesh, which half and which kind of file: none of them says which run it is.
GRID = ("space", "res", "den", "hemi", "extension")


@dataclass(frozen=True)
class Length:
    """Volumes of a run, and the repetition times in s that its files may mean; none where they say 0."""

    n_volumes: int
    t_r: tuple[float, ...]


def wants(select: Mapping[str, Any]) -> bool:
    """Return whether a selection asks for surfaces: by its space."""
    spaces = select.get("space")
    spaces = spaces if isinstance(spaces, list) else [spaces]
    return all(isinstance(s, str) and (s == "fsnative" or SURFACE_SPACE.fullmatch(s)) for s in spaces)


def candidates(files: Sequence[File], wanted: Mapping[str, Any]) -> list[File]:
    """Return the series of a run that fit `wanted` in all but space and density.

    Of two hemispheres the left one stands for both, and the right one where it is alone.
    """
    elsewhere = {key: value for key, value in wanted.items() if key not in GRID}
    elsewhere = {"desc": None, "suffix": "bold", "part": [None, "mag"], "echo": None} | elsewhere
    names = {file.name for file in files}
    return [
        file
        for file in files
        if entities.on_surface(file.name)
        and entities.matches(file.said, elsewhere)
        and not (file.said.get("hemi") == "R" and file.name.replace("hemi-R", "hemi-L") in names)
    ]


def images(image: File, files: Sequence[File]) -> tuple[str, ...]:
    """Return the paths of a run's images, left hemisphere first, out of the files of the run.

    Raises
    ------
    RunExcluded
        One hemisphere is missing.
    """
    both = entities.hemispheres(image.path)
    if image.said["extension"] == ".func.gii" and (
        image.said.get("hemi") != "L" or not {file.path for file in files}.issuperset(both)
    ):
        raise RunExcluded("missing hemisphere", f"expected hemi-L and hemi-R of one run, found {image.name} alone")
    return both


def length(files: Iterable[Path]) -> Length:
    """Read the start of a run's files.

    Raises
    ------
    RunExcluded
        The start of a file is damaged, it is no series, or the hemispheres differ.
    """
    paths = list(files)
    if len(paths) == 1:
        return Length(*cifti.read_length(paths[0]))
    both = Hemispheres(paths)
    return Length(both.n_volumes, both.t_r)
