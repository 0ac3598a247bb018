"""The HDF5 layout of Brain-Semantoks: one file per dataset, for exchange with its published code.

timeseries/<slot>    (recordings, regions, longest recording) float16, one per atlas, NaN at the end of shorter ones
valid/<slot>         (recordings, regions) bool, False where a region is missing; its series is then zero, because the
                     published reader cuts a recording at the first NaN of its first region
long_subject_id      (recordings,) UTF-8 bytes
labels/<name>        (recordings,) float64 (NaN = missing) or UTF-8 bytes
ts_len               (recordings,) int, read where a file has it: valid samples of a file without NaN
t_r                  (recordings,) float64, seconds between samples; files of others have none
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from neuropipe.errors import InputError
from neuropipe.paths import atomic
from neuropipe.signals.regions import Regions

# Catalogue id of an atlas to the name that the published code gives it; other atlases keep their id.
SLOTS = {"schaefer400-7n": "schaefer400", "tian-s3": "tian3", "buckner7": "buckner7"}
NO_LABELS = ("long_subject_id", "ts_len", "t_r")


@dataclass(frozen=True)
class Exchange:
    """What a file holds.

    Attributes
    ----------
    slots : tuple of str
        Names of the atlases in the order in which their regions were joined.
    series : list of float32 array (time, region)
        As stored and as wide: what follows the valid samples is NaN, or zero in files with ``ts_len``.
    lengths : int array (recording,)
        Valid samples: ``ts_len``, or those before the first NaN of the first region.
    valid : bool array (recording, region)
        False where a region is missing.
    subject_ids : list of str
        One per recording; several recordings may share an id.
    labels : dict of str to array (recording,)
        Float or str.
    t_r : float64 array (recording,) or None
        Seconds between samples.
    """

    slots: tuple[str, ...]
    series: list[np.ndarray]
    lengths: np.ndarray
    valid: np.ndarray
    subject_ids: list[str]
    labels: dict[str, np.ndarray]
    t_r: np.ndarray | None = None


def write(
    path: str | Path,
    *,
    series: Iterable[tuple[np.ndarray, np.ndarray]],
    lengths: Sequence[int],
    regions: Regions,
    subject_ids: Sequence[str],
    labels: Mapping[str, np.ndarray],
    slots: Mapping[str, str],
    t_r: Sequence[float] | None = None,
) -> None:
    """Write recordings one by one, atomically; equal input gives equal bytes.

    Parameters
    ----------
    path : path
        The file.
    series : iterable of (array (time, region), bool array (region,))
        Each recording and which of its regions are valid, in the order of `subject_ids`.
    lengths : sequence of int
        Samples of each recording, known before the first one is read.
    regions : Regions
        What the columns are.
    subject_ids : sequence of str
        Person of each recording.
    labels : mapping of str to array (recording,)
        Numbers or strings, written as ``labels/<name>``.
    slots : mapping of str to str
        Atlas id to the name the atlas has in the file.
    t_r : sequence of float, optional
        Seconds between samples of each recording.

    Raises
    ------
    InputError
        Lengths, ids or labels do not match the recordings.
    """
    n, columns = len(subject_ids), {slots[atlas]: regions.of_atlas(atlas) for atlas in regions.atlases}
    for name, values in {"lengths": lengths, "t_r": lengths if t_r is None else t_r, **labels}.items():
        if len(values) != n:
            raise InputError(f"{path}: {n} recordings, but {len(values)} values of {name}; give one per recording.")
    with atomic(path) as temporary, h5py.File(temporary, "w", libver="v110", track_order=False) as file:
        width = max(lengths, default=0)
        stored = {slot: _table(file, f"timeseries/{slot}", (n, len(c), width), "f2") for slot, c in columns.items()}
        valid = {slot: _table(file, f"valid/{slot}", (n, len(c)), "?") for slot, c in columns.items()}
        for i, (recording, present) in enumerate(series):
            if recording.shape != (lengths[i], len(regions)):
                raise InputError(
                    f"{path}: recording {i} ({subject_ids[i]}) should have shape {(lengths[i], len(regions))} "
                    f"(time, region), found {recording.shape}; shard the dataset again."
                )
            clean = np.where(present, recording, 0)
            for slot, c in columns.items():
                row = np.full((len(c), width), np.nan, dtype=np.float16)
                row[:, : lengths[i]] = clean[:, c].T
                stored[slot][i] = row
                valid[slot][i] = present[c]
        _table(file, "long_subject_id", data=_encode(subject_ids))
        if t_r is not None:
            _table(file, "t_r", data=np.asarray(t_r, dtype=float))
        for name, values in labels.items():
            values = np.asarray(values)
            _table(
                file, f"labels/{name}", data=values.astype(float) if values.dtype.kind in "biuf" else _encode(values)
            )


def _table(
    file: h5py.File, name: str, shape: tuple[int, ...] | None = None, dtype: str | None = None, data=None
) -> h5py.Dataset:
    """Create a dataset without a time stamp, so that equal content gives equal bytes."""
    return file.create_dataset(name, shape, dtype, data, track_times=False)


def _encode(values: Iterable[str]) -> np.ndarray:
    encoded = [str(value).encode() for value in values]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")


def read(path: str | Path, atlases: Sequence[str] | None = None) -> Exchange:
    """Read a file of this layout, also one that was written by others.

    Parameters
    ----------
    path : path
        The file.
    atlases : sequence of str, optional
        Names below ``timeseries/`` in the order in which regions are joined; default all, by name.

    Raises
    ------
    InputError
        The file is missing, not HDF5, or lacks a part.
    """
    with opened(path) as file:
        slots = slots_of(file, atlases)
        joined = np.concatenate([file[f"timeseries/{s}"][:].astype(np.float32) for s in slots], axis=1)
        series = [recording.T for recording in joined]  # (time, region)
        valid = [
            file[f"valid/{s}"][:] if f"valid/{s}" in file else np.ones(file[f"timeseries/{s}"].shape[:2], dtype=bool)
            for s in slots
        ]
        return Exchange(
            slots=slots,
            series=series,
            lengths=_lengths(file, series),
            valid=np.concatenate(valid, axis=1),
            subject_ids=subject_ids(file),
            labels=labels_of(file),
            t_r=file["t_r"][:] if "t_r" in file else None,
        )


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises
    ------
    InputError
        It is missing, or not HDF5.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} cannot be read as HDF5 ({error}); copy or write it again.") from error
    with file:
        yield file


def slots_of(file: h5py.File, atlases: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the atlases, given or found.

    Raises
    ------
    InputError
        The file lacks one of them, or the subject ids.
    """
    slots = tuple(atlases or file.get("timeseries", ()))
    missing = [n for n in ("long_subject_id", *(f"timeseries/{s}" for s in slots)) if n not in file]
    if missing or not slots:
        raise InputError(
            f"{file.filename}: expected long_subject_id and timeseries/<atlas>, missing {missing or 'timeseries'}; "
            f"found {list(file)} and timeseries {list(file.get('timeseries', ()))}."
        )
    n = len(file["long_subject_id"])
    for slot in slots:
        shape = file[f"timeseries/{slot}"].shape
        valid = file[f"valid/{slot}"].shape if f"valid/{slot}" in file else shape[:2]
        if len(shape) != 3 or shape[0] != n or valid != shape[:2]:
            raise InputError(
                f"{file.filename}: expected timeseries/{slot} (recordings, regions, time) of {n} recordings, found "
                f"shape {shape}, and valid/{slot} of shape {valid}."
            )
    return slots


def recording(file: h5py.File, slots: Sequence[str], i: int) -> np.ndarray:
    """Return one recording (time, region) in float32, NaN where a region is missing, without what pads its end."""
    parts = []
    for slot in slots:
        part = file[f"timeseries/{slot}"][i].astype(np.float32)  # (region, time)
        if f"valid/{slot}" in file:
            part[~file[f"valid/{slot}"][i]] = np.nan
        parts.append(part)
    series = np.concatenate(parts).T
    if "ts_len" in file:
        return series[: int(file["ts_len"][i])]
    there = np.isfinite(series).any(axis=1)
    return series[: len(there) - int(there[::-1].argmax())] if there.any() else series[:0]


def subject_ids(file: h5py.File) -> list[str]:
    """Return the person of each recording."""
    return [name.decode() if isinstance(name, bytes) else str(name) for name in file["long_subject_id"][:]]


def labels_of(file: h5py.File) -> dict[str, np.ndarray]:
    """Return the labels by name: those below ``labels/``, and those that others keep at the root."""
    tables = {name: table for name, table in file.items() if name not in NO_LABELS} | dict(file.get("labels", {}))
    return {n: _decode(t[:]) for n, t in tables.items() if isinstance(t, h5py.Dataset) and t.ndim == 1}


def _lengths(file: h5py.File, series: list[np.ndarray]) -> np.ndarray:
    if "ts_len" in file:
        return file["ts_len"][:].astype(np.int64)
    ends = [np.isnan(recording[:, 0]) for recording in series]
    return np.array([end.argmax() if end.any() else len(end) for end in ends], dtype=np.int64)


def _decode(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "SO":
        return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values])
    return values.astype(float)
