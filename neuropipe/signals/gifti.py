"""GIFTI files: functional series (``.func.gii``, one per hemisphere) summed by region volume by volume, and labels.

A file is parsed piece by piece, by nibabel's parser, and a volume is forgotten as soon as it is summed,
so that memory does not grow with the length of a run. Nothing outside the file is ever read: neither
external entities nor GIFTI's external data files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import nibabel as nib
import numpy as np
from nibabel.cifti2 import BrainModelAxis
from nibabel.gifti import GiftiDataArray

from neuropipe.errors import RunExcluded
from neuropipe.signals.cifti import damage_excludes, has_signal

PIECE = 1 << 16  # bytes of XML parsed at a time
STRUCTURES = ("CORTEX_LEFT", "CORTEX_RIGHT")
MESH = ("NIFTI_INTENT_POINTSET", "NIFTI_INTENT_TRIANGLE")
NO_SERIES = (*MESH, "NIFTI_INTENT_LABEL")


class _Reader(nib.GiftiImage.parser):
    """nibabel's parser, which hands out each array when it is complete instead of keeping it."""

    def __init__(self, name: str) -> None:
        super().__init__(buffer_size=PIECE, mmap=False)
        self.name = name
        self.complete: list[GiftiDataArray] = []
        self.n_declared: int | None = None

    def start(self) -> Any:
        """Return an expat parser that reports to this object."""
        parser = self._create_parser()
        for name in self.HANDLER_NAMES:
            setattr(parser, name, getattr(self, name))
        parser.EntityDeclHandler = self._refuse_entity
        return parser

    def StartElementHandler(self, name: str, attrs: dict[str, str]) -> None:
        if name == "DataArray" and "External" in attrs.get("Encoding", ""):
            raise RunExcluded(
                "external data",
                f"{self.name} keeps its numbers in another file, {attrs.get('ExternalFileName')!r}; write them into it "
                "(wb_command -gifti-convert)",
            )
        if name == "GIFTI":  # counted by `_arrays`, because complete arrays leave the image
            self.n_declared = int(attrs.pop("NumberOfDataArrays", "0")) or None
        super().StartElementHandler(name, attrs)

    def EndElementHandler(self, name: str) -> None:
        super().EndElementHandler(name)
        if name == "DataArray":
            self.complete.append(self.img.darrays.pop())

    @staticmethod
    def _refuse_entity(name: str, *_: Any) -> None:
        raise ValueError(f"it declares the XML entity {name}")


def _arrays(path: Path, reader: _Reader) -> Iterator[GiftiDataArray]:
    """Yield the data arrays of a file, one by one."""
    parser, n_arrays = reader.start(), 0
    with damage_excludes(path.name):
        stream = open(path, "rb")  # noqa: SIM115  (closed below; the body of a parser's guard must not yield)
    with stream:
        while True:
            with damage_excludes(path.name):
                piece = stream.read(PIECE)
                try:
                    parser.Parse(piece, not piece)
                except ExpatError as error:
                    if piece:
                        raise
                    raise _truncated(path, reader, n_arrays) from error
            complete, reader.complete = reader.complete, []
            n_arrays += len(complete)
            yield from complete
            if not piece:
                break
    if not n_arrays or n_arrays != (reader.n_declared or n_arrays):
        expected = reader.n_declared or "some"
        raise RunExcluded("damaged image", f"{path.name}: expected {expected} GIFTI data arrays, found {n_arrays}")


def _truncated(path: Path, reader: _Reader, n_arrays: int) -> RunExcluded:
    expected = f"{reader.n_declared} data arrays" if reader.n_declared else "the end of the XML"
    return RunExcluded(
        "truncated image", f"{path.name}: expected {expected}, found {n_arrays} whole ones; copy it again"
    )


def _volumes(path: Path, n_vertices: int | None = None) -> Iterator[np.ndarray]:
    """Yield the volumes of a series (vertex,); all must have the same vertices."""
    for array in _arrays(path, _Reader(path.name)):
        for volume in _columns(path, array):
            if len(volume) != (n_vertices or len(volume)):
                raise RunExcluded(
                    "damaged image", f"{path.name}: expected {n_vertices} vertices in every volume, found {len(volume)}"
                )
            n_vertices = len(volume)
            yield volume


def _columns(path: Path, array: GiftiDataArray, labels: bool = False) -> np.ndarray:
    """Return the volumes of one data array: it is one, or (nilearn writes so) all of them, one per column."""
    intent, data = nib.nifti1.intent_codes.niistring[array.intent], array.data
    if (
        intent in (MESH if labels else NO_SERIES)
        or data is None
        or data.dtype.kind not in "iuf"
        or data.ndim not in (1, 2)
        or not data.size
    ):
        raise RunExcluded("not a series", f"{path.name}: expected one value per vertex, found {intent}")
    return data.reshape(len(data), -1).T


class Hemispheres:
    """An open functional series of both hemispheres.

    Parameters
    ----------
    paths : sequence of two Path
        ``.func.gii`` of the left and of the right hemisphere.

    Attributes
    ----------
    n_volumes : int
        Length of the series, as declared at the start of the files.
    t_r : tuple of float
        The repetition times in s that the files may mean: ``TimeStep`` is in ms, but some programs write s.
    columns : BrainModelAxis
        Vertices of the left hemisphere, then of the right one.

    Raises
    ------
    RunExcluded
        A file is missing, damaged, of the other hemisphere, or the two do not belong together.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        starts = [_start(path, structure) for path, structure in zip(paths, STRUCTURES, strict=True)]
        (n_left, *left), (n_right, *right) = starts
        if left != right:
            raise RunExcluded(
                "hemispheres differ",
                f"expected as many volumes of the same repetition time in {paths[0].name} and {paths[1].name}, found "
                f"{left[0]} and {right[0]} volumes, {left[1]} and {right[1]} s",
            )
        self.n_vertices = (n_left, n_right)
        self.n_volumes, self.t_r = left
        self.columns = whole_surface(n_left, STRUCTURES[0]) + whole_surface(n_right, STRUCTURES[1])

    def sums(self, labels: np.ndarray, n_regions: int) -> tuple[np.ndarray, np.ndarray]:
        """Add up the vertices of each region; as `neuropipe.signals.cifti.Dense.sums`."""
        halves = np.split(labels, [self.n_vertices[0]])
        found = [_sum(path, half, n_regions) for path, half in zip(self.paths, halves, strict=True)]
        (left, left_usable), (right, right_usable) = found
        if len(left) != len(right):
            raise RunExcluded("hemispheres differ", f"{len(left)} volumes on the left, {len(right)} on the right")
        return left + right, np.concatenate([left_usable, right_usable])


def whole_surface(n_vertices: int, structure: str) -> BrainModelAxis:
    """Return the columns of a file that has every vertex of a mesh."""
    return BrainModelAxis.from_surface(np.arange(n_vertices), n_vertices, structure)


def _start(path: Path, structure: str) -> tuple[int, int, tuple[float, ...]]:
    """Return vertices, volumes and repetition times of a series from its first array."""
    reader = _Reader(path.name)
    first = next(_arrays(path, reader))
    volumes = _columns(path, first)
    check_structure(path, reader, first, structure)
    n_volumes = len(volumes) if len(volumes) > 1 else reader.n_declared or 1
    step = first.meta.get("TimeStep") or reader.img.meta.get("TimeStep") or "0"
    try:
        step = float(step)
    except ValueError:
        step = 0.0
    return volumes.shape[1], n_volumes, (step / 1000, step) if 0 < step < np.inf else ()


def check_structure(path: Path, reader: _Reader, array: GiftiDataArray, structure: str) -> None:
    """Raise where a file says that it belongs to the other hemisphere."""
    found = reader.img.meta.get("AnatomicalStructurePrimary") or array.meta.get("AnatomicalStructurePrimary")
    if found and found.replace("_", "").lower() != structure.replace("_", "").lower():
        raise RunExcluded("wrong hemisphere", f"{path.name}: expected {structure}, the file says that it is {found}")


def _sum(path: Path, labels: np.ndarray, n_regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum one hemisphere; where vertices have signal in some volumes only, once more without them."""
    inside = np.flatnonzero(labels)
    sums, usable, empty = _pass(path, len(labels), inside, labels[inside] - 1, n_regions)
    kept = inside[usable]
    if not (usable | empty).all():
        sums, _, _ = _pass(path, len(labels), kept, labels[kept] - 1, n_regions)
    everywhere = np.zeros(len(labels), dtype=bool)
    everywhere[kept] = True
    return sums, everywhere


def _pass(
    path: Path, n_vertices: int, vertices: np.ndarray, region: np.ndarray, n_regions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sums (time, region) over `vertices`, which of them have signal throughout, and which never."""
    sums: list[np.ndarray] = []
    finite = np.ones(len(vertices), dtype=bool)
    lowest, highest = np.full(len(vertices), np.inf), np.full(len(vertices), -np.inf)
    for volume in _volumes(path, n_vertices):
        values = volume[vertices].astype(np.float64)
        bad = ~np.isfinite(values)
        finite &= ~bad
        values[bad] = 0
        sums.append(np.bincount(region, weights=values, minlength=n_regions))
        np.minimum(lowest, values, out=lowest)
        np.maximum(highest, values, out=highest)
    return np.stack(sums), finite & has_signal(lowest, highest), (lowest == 0) & (highest == 0)


def read_labels(path: Path, structure: str) -> tuple[np.ndarray, dict[int, str]]:
    """Read a ``.label.gii``.

    Returns
    -------
    values : array (vertex,)
        Integers of the labels.
    names : dict of int to str
        The file's own label table.

    Raises
    ------
    RunExcluded
        The file is damaged, of the other hemisphere, or not one map of labels.
    """
    reader = _Reader(path.name)
    arrays = list(_arrays(path, reader))
    maps = [values for array in arrays for values in _columns(path, array, labels=True)]
    if len(maps) != 1:
        raise RunExcluded("not labels", f"{path.name}: expected one map of labels, found {len(maps)}")
    check_structure(path, reader, arrays[0], structure)
    return maps[0], {label.key: label.label or "" for label in reader.img.labeltable.labels}
