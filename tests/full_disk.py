"""Each kind of product written by the function that writes it; run as a script, on a disk with too little room.

``unshare --mount python full_disk.py FOLDER`` mounts a disk of half a megabyte on FOLDER, which ends with the
process, and prints for each kind what was said and what is left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neuropipe.errors import WriteError
from neuropipe.hub import weights
from neuropipe.paths import atomic, write_text
from neuropipe.provenance import write_json
from neuropipe.shards import hdf5, manifest
from neuropipe.shards.sample import Sample
from neuropipe.shards.write import write_tar
from neuropipe.signals.regions import Regions
from neuropipe.train import checkpoint

DISK_KB = 512
N_VALUES = 300_000  # more than the disk holds, as float32
NOISE = np.random.default_rng(0).normal(size=(N_VALUES // 10, 10)).astype(np.float32)


def _npy(path: Path) -> None:
    with atomic(path) as temporary:
        np.save(temporary, NOISE)


def _npz(path: Path) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, noise=NOISE)


def _tar(path: Path) -> None:
    write_tar(path, [Sample(f"toy_{n}", NOISE, facts={"n": n}) for n in range(2)])


def _safetensors(path: Path) -> None:
    assert path.name == weights.FILE
    weights.write(path.parent, torch.nn.Linear(N_VALUES, 1))


def _checkpoint(path: Path) -> None:
    checkpoint.save(path.parent, 3, {"model": torch.from_numpy(NOISE)})


def _hdf5(path: Path) -> None:
    regions = Regions.plain("toy", 10)
    series, lengths = [(NOISE, np.ones(10, dtype=bool))] * 2, [len(NOISE)] * 2
    hdf5.write(
        path,
        series=series,
        lengths=lengths,
        regions=regions,
        subject_ids=["a", "b"],
        labels={},
        slots={regions.atlases[0]: "toy"},
    )


WRITERS: dict[str, Callable[[Path], Any]] = {
    "series.npy": _npy,
    "group.npz": _npz,
    "table.parquet": lambda path: manifest.write_parquet(path, pd.DataFrame(NOISE, columns=list("abcdefghij"))),
    "chunk.tar": _tar,
    "dataset.h5": _hdf5,
    "model.safetensors": _safetensors,
    "step-00000003.pt": _checkpoint,
    "receipt.json": lambda path: write_json(path, {"noise": NOISE.ravel().tolist()}),
    "index.html": lambda path: write_text(path, "<p>" * N_VALUES),
}


def attempt(folder: Path, name: str) -> dict[str, Any]:
    """Write one product over an old one; return what was said, what the product holds, and what else there is."""
    path = folder / name
    path.write_text("old")
    said = ""
    try:
        WRITERS[name](path)
    except WriteError as error:
        said = str(error)
    found = {"said": said, "content": path.read_bytes()[:10].decode("latin1")}
    found["files"] = sorted(file.name for file in folder.iterdir())
    path.unlink()
    return found


if __name__ == "__main__":
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", sys.argv[1]], check=True)
    print(json.dumps({name: attempt(Path(sys.argv[1]), name) for name in WRITERS}))
