"""Saving and finding training state: tensors and plain containers only, complete or not there at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from neuropipe.errors import CheckpointError
from neuropipe.paths import atomic
from neuropipe.provenance import read_json, write_json

KEPT = 2
PARTS = "accumulate.json"


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps and drop all but this run's last two checkpoints.

    What is further on was not gone on from: it is of another recipe or of other data, or cannot be read. It would
    outlive every checkpoint of this run.
    """
    path = folder / f"step-{step:08d}.pt"
    with atomic(path) as temporary:
        torch.save({"step": step, **state}, temporary)
    found = sorted(folder.glob("step-*.pt"))
    own = [one for one in found if one.name <= path.name]
    for old in set(found) - set(own[-KEPT:]):
        old.unlink()


def latest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Return the newest readable state, or None where there is none.

    A file that cannot be read (a disk that lied about syncing) is passed over for the one before.

    Raises
    ------
    CheckpointError
        There are checkpoints, and none can be read, or there is no memory for the newest.
    """
    paths = sorted(folder.glob("step-*.pt"), reverse=True)
    for path in paths:
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except torch.OutOfMemoryError as error:
            raise CheckpointError(
                f"{path} does not fit into the memory of {device} that is free; see who else uses it (`nvidia-smi`), "
                "then run this again."
            ) from error
        except (RuntimeError, EOFError, pickle.UnpicklingError):
            continue
    if paths:
        raise CheckpointError(
            f"None of the {len(paths)} checkpoints in {folder} can be read; delete the folder to start anew."
        )
    return None


def remember_parts(folder: Path, identity: str, n_parts: int) -> None:
    """Write down in how many parts a batch is to be computed by whoever goes on with this training."""
    write_json(folder / PARTS, {"identity": identity, "accumulate": n_parts})


def parts(folder: Path, identity: str) -> int:
    """Return in how many parts a batch is to be computed, by what an earlier process found; 1 where none did."""
    known = read_json(folder / PARTS) if (folder / PARTS).is_file() else {}
    return known["accumulate"] if known.get("identity") == identity else 1
