"""CIFTI files: dense series (``.dtseries.nii``) summed by region in bounded memory, and dense labels (``.dlabel.nii``).

In the file the whole series of one grayordinate (a vertex or a voxel) lies together. So blocks of
grayordinates are read, not blocks of volumes: each byte is read once, and whether a vertex has signal
in every volume is known as soon as it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.cifti2 import BrainModelAxis, LabelAxis, SeriesAxis
from nibabel.cifti2.parse_cifti2 import Cifti2Parser
from scipy.sparse import csr_array

from neuropipe.errors import RunExcluded
from neuropipe.signals import images

BLOCK_BYTES = 1 << 23  # of stored numbers; three times as much is in memory
NIFTI2_BYTES = 540
XML_CODE = 32  # of the header extension that holds CIFTI's own header


class Dense:
    """An open dense series.

    Parameters
    ----------
    path : Path
        ``.dtseries.nii``.

    Attributes
    ----------
    n_volumes : int
        Length of the series.
    columns : BrainModelAxis
        Which vertex or voxel each column is.

    Raises
    ------
    RunExcluded
        The file is missing, truncated, damaged, or no dense series.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data, (series, columns) = _load(path)
        if not isinstance(series, SeriesAxis) or not isinstance(columns, BrainModelAxis):
            raise RunExcluded("not a series", f"{path.name}: expected a dense series, found {_kinds(series, columns)}")
        self.n_volumes, self.columns = len(series), columns

    def sums(self, labels: np.ndarray, n_regions: int) -> tuple[np.ndarray, np.ndarray]:
        """Add up the columns of each region.

        Parameters
        ----------
        labels : int array (column,)
            Position of the column's region plus one; 0 outside.
        n_regions : int
            Number of regions.

        Returns
        -------
        sums : float64 array (time, region)
            Over the usable columns.
        usable : bool array (column,)
            Columns with signal throughout; columns outside every region are not looked at.
        """
        sums = np.zeros((n_regions, self.n_volumes))
        usable = np.zeros(len(labels), dtype=bool)
        width = max(1, BLOCK_BYTES // (self._data.dtype.itemsize * self.n_volumes))
        for first in range(0, len(labels), width):
            block = slice(first, first + width)
            if not labels[block].any():
                continue
            with damage_excludes(self.path.name):
                values = np.asarray(self._data[:, block]).T  # (column, time), as it lies in the file
            usable[block] = has_signal(values.min(axis=1), values.max(axis=1)) & (labels[block] > 0)
            taken = np.flatnonzero(usable[block])
            where = (labels[block][taken] - 1, np.arange(len(taken)))
            members = csr_array((np.ones(len(taken)), where), shape=(n_regions, len(taken)))
            sums += members @ values[taken].astype(np.float64)
        return sums.T, usable


def has_signal(lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Return which series are finite throughout and never fall to zero, from their extremes.

    As for voxels: what is zero in some volumes only left the field of view there, and would put jumps
    into its region. Series around zero (denoised ones) are not meant.
    """
    return np.isfinite(lowest) & np.isfinite(highest) & (lowest != 0)


def read_labels(path: Path) -> tuple[BrainModelAxis, np.ndarray, dict[int, str]]:
    """Read a ``.dlabel.nii``.

    Returns
    -------
    columns : BrainModelAxis
        Which vertex or voxel each column is.
    values : float array (column,)
        Integers of the labels.
    names : dict of int to str
        The file's own label table.

    Raises
    ------
    RunExcluded
        The file is damaged, or not one map of labels.
    """
    data, (maps, columns) = _load(path)
    if not isinstance(maps, LabelAxis) or not isinstance(columns, BrainModelAxis):
        raise RunExcluded("not labels", f"{path.name}: expected dense labels, found {_kinds(maps, columns)}")
    if len(maps) != 1:
        found = ", ".join(map(str, maps.name[:5]))
        raise RunExcluded(
            "not labels", f"{path.name}: expected one map of labels, found {len(maps)} ({found}); keep one"
        )
    with damage_excludes(path.name):
        values = np.asarray(data[0])
    return columns, values, {int(key): str(name) for key, (name, _) in maps.label[0].items()}


def _load(path: Path) -> tuple[ArrayProxy, tuple[Any, Any]]:
    """Return the numbers of a file, not yet read, and what its rows and columns are."""
    header, xml = _start(path)
    with damage_excludes(path.name):
        axes, shape = _axes(xml), header.get_data_shape()[4:]
        slope, intercept = header.get_slope_inter()
        scaling = (1.0, 0.0) if slope is None else (slope, intercept)
        data = ArrayProxy(path, (shape, header.get_data_dtype(), int(header["vox_offset"]), *scaling))
    lengths = tuple(map(len, axes))
    if lengths != shape:
        raise RunExcluded("damaged image", f"{path.name} holds {shape} numbers, its header describes {lengths}")
    return data, axes


@lru_cache(maxsize=4)
def _axes(xml: bytes) -> tuple[Any, Any]:
    """Parse CIFTI's header; it takes longer than summing the series, and the runs of a study share a few."""
    if b"<!ENTITY" in xml:
        raise ValueError("its header declares XML entities")
    parser = Cifti2Parser()
    parser.parse(string=xml)
    return parser.header.get_axis(0), parser.header.get_axis(1)


def _start(path: Path) -> tuple[nib.Nifti2Header, bytes]:
    """Return NIfTI's and CIFTI's headers of a file, and check that its numbers are all there."""
    with damage_excludes(path.name), open(path, "rb") as stream:
        start = stream.read(NIFTI2_BYTES)
        if len(start) < NIFTI2_BYTES:
            raise RunExcluded("truncated image", f"{path.name} ends in its header; copy it again")
        header = nib.Nifti2Header(start, check=False)
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        if bytes(header["magic"])[:3] != b"n+2" or len(shape) != 6 or dtype.kind not in "iuf":
            raise ValueError(f"expected a CIFTI-2 file of two dimensions, found {dtype} of shape {shape}")
        _check_size(path, int(header["vox_offset"]) + int(np.prod(shape, dtype=np.float64)) * dtype.itemsize)
        return header, _xml_of(stream, header)


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size
    if found < expected:
        raise RunExcluded("truncated image", f"{path.name}: expected {expected} bytes, found {found}; copy it again")
    if found > expected:
        raise RunExcluded("damaged image", f"{path.name} holds {found - expected} bytes more than its header says")


def _kinds(*axes: Any) -> str:
    return " x ".join(type(axis).__name__.removesuffix("Axis") for axis in axes)


@contextmanager
def damage_excludes(name: str) -> Iterator[None]:
    """Turn whatever a parser of foreign bytes raises into the exclusion of the run.

    Parsers of XML stumble over damage in every way (KeyError, AssertionError, AttributeError, ...), so
    nothing but a parser may stand in the body.
    """
    try:
        with images.damage_excludes(name):
            yield
    except RunExcluded:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise RunExcluded("damaged image", f"{name} cannot be read ({what}); copy it again") from error


# --- the start of a file -------------------------------------------------------------------------


def read_length(path: Path) -> tuple[int, tuple[float, ...]]:
    """Return the number of volumes, and the repetition time in s (none where the file says 0).

    The list of all vertices, which fills the rest of CIFTI's header, is not read: an index opens
    thousands of files.

    Raises
    ------
    RunExcluded
        The file is no dense series, or too short for what its header says.
    """
    header, xml = _start(path)
    with damage_excludes(path.name):
        shape, series = header.get_data_shape(), _series_map(xml)
        if series is None:
            raise RunExcluded("not a series", f"{path.name}: expected a dense series, found no time axis")
        n_volumes = int(series["NumberOfSeriesPoints"])
        step = float(series["SeriesStep"]) * 10.0 ** int(series.get("SeriesExponent", 0))
        unit = series.get("SeriesUnit", "SECOND")
    if unit != "SECOND" or n_volumes != shape[4]:
        raise RunExcluded(
            "damaged image", f"{path.name}: expected {shape[4]} volumes in SECOND, found {n_volumes} in {unit}"
        )
    return n_volumes, (step,) if step > 0 else ()


def _xml_of(stream: BinaryIO, header: nib.Nifti2Header) -> bytes:
    """Return CIFTI's header out of the extensions that follow NIfTI's."""
    end = int(header["vox_offset"])
    stream.seek(NIFTI2_BYTES + 4)
    while stream.tell() + 8 <= end:
        size, code = struct.unpack(f"{header.endianness}ii", stream.read(8))
        if code == XML_CODE or size < 8:
            return stream.read(max(size - 8, 0)).rstrip(b"\0")
        stream.seek(size - 8, 1)
    return b""


def _series_map(xml: bytes) -> dict[str, str] | None:
    """Return the attributes of the series in CIFTI's header, or None where it has none before the brain models."""
    found: list[dict[str, str]] = []

    def note(name: str, attributes: dict[str, str]) -> None:
        if attributes.get("IndicesMapToDataType") == "CIFTI_INDEX_TYPE_SERIES":
            found.append(attributes)

    parser = expat.ParserCreate()
    parser.StartElementHandler = note
    for first in range(0, len(xml), 1 << 12):
        parser.Parse(xml[first : first + (1 << 12)], False)
        if found:
            return found[0]
    return None
