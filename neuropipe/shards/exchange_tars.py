"""Recordings as tars of learning-from-brains, for exchange with its published code: one tar per run.

<key>.bold.pyd (float32 array (time, region)), <key>.t_r.pyd (float32, seconds) [, <key>.task_label.pyd, ...]

A key is ``ds-<dataset>_sub-<label>[_ses-..][_task-..]..[_run-<number>]``, of a trial with ``_sample_001`` behind it.
``.pyd`` members are pickles under the names of numpy 1, which numpy 2 reads too. What is text has no ending.
"""

from __future__ import annotations

import pickle
import pickletools
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuropipe.errors import InputError
from neuropipe.paths import atomic
from neuropipe.shards.sample import npy
from neuropipe.shards.write import add_member

# The entities of a key in their order; a file name has no others.
ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "echo", "part", "run")
PROTOCOL = 3  # names are lines of text in it, and no later protocol's frames have to be counted again
NUMPY_2, NUMPY_1 = "numpy._core.", "numpy.core."
Members = Literal["pyd", "npy"]


def key(dataset: str, run_id: str) -> str:
    """Return the key of a run from its BIDS entities; the number of a run loses its leading zeros.

    Parameters
    ----------
    dataset : str
        Without underscores, which would end it.
    run_id : str
        E.g. ``sub-01_task-rest_run-01``.
    """
    pairs = dict(part.split("-", 1) for part in run_id.split("_") if "-" in part)
    if "_" in dataset or "sub" not in pairs:
        raise InputError(
            f"A tar of learning-from-brains needs a dataset without underscores and a subject; found dataset "
            f"{dataset!r} and run {run_id!r}. Rename the dataset in the configuration."
        )
    if pairs.get("run", "").isdigit():
        pairs["run"] = str(int(pairs["run"]))
    return "_".join([f"ds-{dataset}", *(f"{name}-{pairs[name]}" for name in ENTITIES if name in pairs)])


def fields(series: np.ndarray, t_r: float, labels: Mapping[str, int | str] | None = None) -> dict[str, Any]:
    """Return what a sample consists of, by field: series (time, region), seconds between samples, labels."""
    found: dict[str, Any] = {"bold": np.asarray(series, np.float32), "t_r": np.float32(t_r)}
    return found | dict(labels or {})


def write(path: str | Path, samples: Iterable[tuple[str, Mapping[str, Any]]], members: Members = "pyd") -> None:
    """Write samples into one tar, atomically; equal input gives equal bytes.

    Parameters
    ----------
    path : path
    samples : iterable of (key, fields)
        See `key` and `fields`; of a sample's fields, text is written as it is.
    members : {"pyd", "npy"}
        Pickles, which alone the published code decodes, or arrays, which nothing can hide in.
    """
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        for name, content in samples:
            for part, value in sorted(content.items()):
                if isinstance(value, str):
                    add_member(handle, f"{name}.{part}", value.encode())
                elif members == "pyd":
                    add_member(handle, f"{name}.{part}.pyd", pickled(value))
                else:
                    add_member(handle, f"{name}.{part}.npy", npy(np.asarray(value)))
        handle.write(b"\0" * (2 * tarfile.BLOCKSIZE))


def pickled(value: Any) -> bytes:
    """Return a pickle of an array or a number that numpy 1 can read: numpy 2 has renamed its modules."""
    content = pickle.dumps(value, PROTOCOL)
    pieces, done = [], 0
    for instruction, argument, place in pickletools.genops(content):
        if instruction.name == "GLOBAL" and argument.startswith(NUMPY_2):
            line = place + 1  # the module's name follows the instruction
            pieces += [content[done:line], NUMPY_1.encode()]
            done = line + len(NUMPY_2)
    return b"".join([*pieces, content[done:]])
