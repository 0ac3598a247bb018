"""The grid of a dataset, told from the headers of its maps: most of them decide, the others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from neuropipe.bids.index import Found, exclusion
from neuropipe.config import Volumes
from neuropipe.errors import RunExcluded
from neuropipe.signals import images
from neuropipe.volumes import grids


@lru_cache(maxsize=1024)
def shape_and_affine(path: Path) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Return the shape of a NIfTI image or .npy array, and the affine (mm) of an image, from its header alone.

    Raises
    ------
    RunExcluded
        The file is missing, truncated or damaged.
    """
    with images.damage_excludes(path.name):
        if path.suffix != ".npy":
            with images.open_stream(path, whole=False) as stream:
                layout = images.read_layout(stream, path)
            return layout.shape, layout.affine
        with open(path, "rb") as handle:
            try:
                read = npy.read_array_header_1_0 if npy.read_magic(handle) == (1, 0) else npy.read_array_header_2_0
                return read(handle)[0], None
            except ValueError as error:
                raise RunExcluded("damaged image", f"{path.name} is not a .npy array: {error}") from error


def keep_common_grid(found: Found, root: Path, dataset: str, settings: Volumes) -> Found:
    """Return the runs whose maps end up on the grid on which most of them do; the others are left out.

    A map whose affine has lost the sign of an axis lands elsewhere in the template and is found here too.

    Parameters
    ----------
    found : Found
        Runs of maps of one dataset.
    root : Path
        Folder that their paths start from.
    dataset : str
        Its name.
    settings : Volumes
        What decides where a map ends up.
    """
    seen: list[tuple] = []  # (space, shape, affine), each once
    of_run, excluded = {}, list(found.excluded)
    for row in sorted(found.runs, key=lambda row: row["run_id"]):
        try:
            of_run[row["run_id"]] = _number(_grid_of(root / row["image"], row, settings), seen)
        except RunExcluded as reason:
            excluded.append(_left_out(dataset, row, reason.reason, reason.detail))
    if not of_run:
        return Found([], excluded)
    common = Counter(of_run.values()).most_common(1)[0][0]  # of two as common ones, that of the first run
    for row in found.runs:
        number = of_run.get(row["run_id"], common)
        if number != common:
            detail = (
                f"expected the grid of most maps, {_words(*seen[common])}, found {_words(*seen[number])}; bring all to "
                "one grid with volumes.voxel_mm and volumes.size, correct the image, or leave it out (exclude.runs)"
            )
            excluded.append(_left_out(dataset, row, "wrong grid", detail))
    return Found([row for row in found.runs if of_run.get(row["run_id"]) == common], excluded)


def _grid_of(path: Path, row: Mapping[str, str], settings: Volumes) -> tuple:
    shape, affine = shape_and_affine(path)
    if affine is None:  # of arrays only the shape is known here; a bank has the same for all of its rows
        return row.get("space"), tuple(shape[-3:]), None
    return row.get("space"), *grids.planned(shape, affine, settings)


def _number(grid: tuple, seen: list[tuple]) -> int:
    """Return the place of a grid in `seen`, to which a new one is appended."""
    for n, other in enumerate(seen):
        if _same(grid, other):
            return n
    seen.append(grid)
    return len(seen) - 1


def _same(one: tuple, other: tuple) -> bool:
    if one[0] != other[0] or (one[2] is None) != (other[2] is None):
        return False
    return one[1] == other[1] if one[2] is None else images.same_grid(*one[1:], *other[1:])


def _words(space: str | None, shape: Sequence[int], affine: np.ndarray | None) -> str:
    size = "x".join(map(str, shape))
    where = f" in {space}" if space else ""
    if affine is None:
        return f"{size}{where}"
    edges = "x".join(f"{edge:.4g}" for edge in np.linalg.norm(affine[:3, :3], axis=0))
    origin = ", ".join(f"{value:.4g}" for value in affine[:3, 3])
    return f"{size} voxels of {edges} mm from ({origin}) mm{where}"


def _left_out(dataset: str, row: Mapping[str, str], reason: str, detail: str) -> dict[str, str]:
    return exclusion("index", dataset, row["participant_id"], row["run_id"], row["image"], reason, detail)
