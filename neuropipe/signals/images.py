"""Reading NIfTI images as a stream that is checked to its last byte."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from neuropipe.errors import RunExcluded

try:
    from isal import igzip, igzip_threaded, isal_zlib
except ImportError:  # an accelerator only: the standard library reads the same bytes, 2.5 times slower
    igzip = igzip_threaded = isal_zlib = None

GZIP_MAGIC = b"\x1f\x8b"
# A NIfTI file opens with the size of its header, which tells version and byte order.
KINDS = {
    b"\x5c\x01\x00\x00": (nib.Nifti1Header, "<"),
    b"\x00\x00\x01\x5c": (nib.Nifti1Header, ">"),
    b"\x1c\x02\x00\x00": (nib.Nifti2Header, "<"),
    b"\x00\x00\x02\x1c": (nib.Nifti2Header, ">"),
}
MAGIC = (b"n+1", b"n+2")
SECONDS_PER_UNIT = {8: (1.0,), 16: (1e-3,), 24: (1e-6,), 0: (1.0, 1e-3)}  # codes of xyzt_units
# Below this size a second thread costs more to start than it saves.
THREADED_FROM_BYTES = 1 << 24
# Deflate cannot do better: an image that should inflate to more does not end where its header says.
MAX_INFLATION = 1032
DAMAGE = (OSError, EOFError, zlib.error, *(() if isal_zlib is None else (isal_zlib.error,)))


@dataclass(frozen=True)
class Layout:
    """How the numbers of an image lie in its file.

    Attributes
    ----------
    shape : tuple of int
        (x, y, z) or (x, y, z, time), fastest axis first in the file.
    dtype : dtype
        As stored, with its byte order.
    offset : int
        Bytes before the first voxel.
    slope, intercept : float
        ``value = slope * stored + intercept``.
    affine : float64 array (4, 4)
        Voxel indices to mm.
    t_r : tuple of float
        The repetition times in s that the header may mean: none where it says 0, two where it does
        not name the unit (s or ms).
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    t_r: tuple[float, ...]

    @property
    def n_voxels(self) -> int:
        """Voxels of one volume."""
        return int(np.prod(self.shape[:3]))

    @property
    def n_volumes(self) -> int:
        """Length of the time axis; 1 for a volume."""
        return int(np.prod(self.shape[3:]))

    @property
    def volume_bytes(self) -> int:
        """Stored size of one volume."""
        return self.n_voxels * self.dtype.itemsize

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return stored values in their unit, as float64."""
        return values * self.slope + self.intercept


@contextmanager
def open_stream(path: Path, whole: bool = True) -> Iterator[BinaryIO]:
    """Open a file for reading; gzip is inflated on the way, by isal where it is installed.

    Large files that are to be read as a `whole` are inflated by a second thread.
    """
    with open(path, "rb") as handle:
        compressed = handle.read(2) == GZIP_MAGIC
    threaded = whole and igzip is not None and path.stat().st_size >= THREADED_FROM_BYTES
    inflate = partial(igzip_threaded.open, threads=1) if threaded else (igzip or gzip).open
    opener = inflate if compressed else open
    with opener(path, "rb") as stream:
        yield stream


def read_exactly(stream: BinaryIO, buffer: memoryview) -> int:
    """Fill `buffer` from `stream`; return the number of bytes read, which is less at the end of the file only."""
    done = 0
    while done < len(buffer):
        n = stream.readinto(buffer[done:])
        if not n:
            break
        done += n
    return done


def read_layout(stream: BinaryIO, path: Path) -> Layout:
    """Read the header of the open file at `path` and leave the stream at the first voxel.

    Raises
    ------
    RunExcluded
        The file is not a NIfTI image of plain numbers, ends within its header, or is too small for
        what the header says (a damaged header must not make us ask for all the memory there is).
    """
    start = stream.read(348)
    kind, byte_order = KINDS.get(start[:4], (nib.Nifti1Header, "<"))
    start += stream.read(kind.template_dtype.itemsize - 348)
    if len(start) < kind.template_dtype.itemsize:
        raise RunExcluded("truncated image", f"{path.name} ends in its header, after {len(start)} bytes; copy it again")
    try:
        layout = _layout(start, kind, byte_order)
    except (nib.spatialimages.HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise RunExcluded("damaged image", f"{path.name} is not a NIfTI image: {error}") from error
    if layout.offset + layout.n_volumes * layout.volume_bytes > MAX_INFLATION * path.stat().st_size:
        raise RunExcluded("truncated image", f"{path.name} is too small for an image of shape {layout.shape}")
    stream.read(layout.offset - len(start))
    return layout


def _layout(start: bytes, kind: type[nib.Nifti1Header], byte_order: str) -> Layout:
    """Return what a header says; raise ValueError where it makes no sense.

    nibabel would mend a damaged header in silence, so that its own check is not asked.
    """
    header = kind(start, endianness=byte_order, check=False)
    if start[:4] not in KINDS or bytes(header["magic"])[:3] not in MAGIC:
        raise ValueError(f"it opens with {start[:4]!r}")
    dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
    offset, affine = int(header["vox_offset"]), np.asarray(header.get_best_affine(), dtype=np.float64)
    if dtype.kind not in "iuf" or not 3 <= len(shape) <= 7 or min(shape) < 1 or offset < len(start):
        raise ValueError(f"expected an image of real numbers, found {dtype} of shape {shape} at byte {offset}")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9:
        raise ValueError(f"its affine has no inverse: {affine.tolist()}")
    slope, intercept = header.get_slope_inter()
    scaling = (1.0, 0.0) if slope is None else (float(slope), float(intercept))
    step = float(header["pixdim"][4])
    units = SECONDS_PER_UNIT.get(int(header["xyzt_units"]) & 56, ()) if 0 < step < np.inf else ()
    return Layout(shape, dtype, offset, *scaling, affine, tuple(step * unit for unit in units))


def check_end(stream: BinaryIO, name: str) -> None:
    """Read to the end, which makes the reader check the CRC, and refuse bytes after the last volume."""
    extra = 0
    while block := stream.read(1 << 20):
        extra += len(block)
    if extra:
        raise RunExcluded("damaged image", f"{name} holds {extra} bytes more than its header says")


@contextmanager
def damage_excludes(name: str) -> Iterator[None]:
    """Turn a reader's errors into the exclusion of the run."""
    try:
        yield
    except EOFError as error:
        raise RunExcluded("truncated image", f"{name} ends early ({error}); copy it again") from error
    except FileNotFoundError as error:
        raise RunExcluded("missing file", f"{name} is not there (any more); index again") from error
    except PermissionError as error:
        raise RunExcluded("not readable", f"{name} may not be read by this user; change its permissions") from error
    except DAMAGE as error:
        raise RunExcluded("damaged image", f"{name} cannot be read ({error}); copy it again") from error


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a 3-D image whole.

    Returns
    -------
    data : float64 array (x, y, z)
        Scaled values.
    affine : float64 array (4, 4)
        Voxel indices to mm.

    Raises
    ------
    RunExcluded
        The file is missing, truncated, damaged, or not a 3-D image.
    """
    with damage_excludes(path.name), open_stream(path) as stream:
        layout = read_layout(stream, path)
        if len(layout.shape) != 3 and layout.n_volumes != 1:
            raise RunExcluded("damaged image", f"{path.name}: expected a 3-D image, found shape {layout.shape}")
        buffer = bytearray(layout.volume_bytes)
        if read_exactly(stream, memoryview(buffer)) < len(buffer):
            raise RunExcluded("truncated image", f"{path.name} ends before its last voxel; copy it again")
        check_end(stream, path.name)
    stored = np.frombuffer(buffer, dtype=layout.dtype)
    return layout.scaled(stored.astype(np.float64)).reshape(layout.shape[:3], order="F"), layout.affine


def same_grid(shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other: np.ndarray) -> bool:
    """Return whether two images have the same voxels: equal shape, and corners within a hundredth of a mm."""
    corners = np.array([[x, y, z, 1.0] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])])
    return tuple(shape[:3]) == tuple(other_shape[:3]) and bool(np.abs(corners @ (affine - other).T).max() < 0.01)
