"""WebDataset tars with deterministic bytes, written so that every array can be memory-mapped later."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from neuropipe.paths import atomic
from neuropipe.shards.sample import Sample, content_hash


def add_member(handle: BinaryIO, name: str, content: bytes) -> int:
    """Append one member and return the offset of its first content byte."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = 0o644  # time, owner and group stay 0: equal content gives equal bytes
    handle.write(header.tobuf(format=tarfile.GNU_FORMAT))
    offset = handle.tell()
    handle.write(content)
    handle.write(b"\0" * (-len(content) % tarfile.BLOCKSIZE))
    return offset


def _row(sample: Sample, shard: str, offsets: dict[str, int]) -> dict[str, Any]:
    """Return the manifest row of a sample; `offsets` holds where each member's values start."""
    facts = sample.facts
    return {
        "key": sample.key,
        "shard": shard,
        "member": sample.member,
        "content": sample.content,
        "offset": offsets[sample.content],
        "nbytes": sample.array.nbytes,
        "shape": list(sample.array.shape),
        **{"n_timepoints": 0, "n_regions": 0, **sample.lengths},
        "dtype": str(sample.array.dtype),
        "scale": facts.get("scale", 1.0),
        "shift": facts.get("shift", 0.0),
        "sha256": content_hash(sample.array),
        "valid_offset": offsets.get("valid", -1),
        "n_valid_regions": 0 if sample.valid is None else int(sample.valid.sum()),
        "censored": list(facts.get("censored", [])),
        **{name: facts.get(name) for name in ("dataset", "participant_id", "session", "task", "run", "run_id", "t_r")},
        "mean_fd": facts.get("quality", {}).get("mean_fd_mm"),
        "tiv_ml": facts.get("quality", {}).get("tiv_ml"),
    }


def write_tar(path: str | Path, samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Write samples into one tar and return their manifest rows.

    Members are uncompressed and in the order of `samples`; the values of an array start at
    ``offset`` of its row, so the same file is streamed by webdataset and mapped by `read`.
    """
    rows = []
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        for sample in samples:
            offsets = {}
            for name, content in sample.members():
                start = add_member(handle, name, content)
                part = name.removeprefix(f"{sample.key}.").partition(".")[0]
                array = {sample.content: sample.array, "valid": sample.valid}.get(part)
                if array is not None:
                    offsets[part] = start + len(content) - array.nbytes
            rows.append(_row(sample, Path(path).name, offsets))
        handle.write(b"\0" * (2 * tarfile.BLOCKSIZE))
    return rows
