"""What made a product, from what, with what and when: fingerprints and sidecars."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from neuropipe import __version__
from neuropipe.errors import InputError
from neuropipe.paths import write_text

# Bumped when a stage's output changes meaning; part of every rule's params, so that its jobs rerun.
STAGE_VERSIONS = {
    "index": 2,
    "parcellate": 3,
    "volumes": 1,
    "shard": 2,
    "collect": 2,
    "publish": 1,
    "fetch": 1,
    "qc": 1,
    "hdf5": 2,
    "tars": 1,
    "events": 1,
    "clips": 1,
    "split": 4,
    "pretrain": 1,
    "import": 1,
    "embed": 2,
    "finetune": 1,
    "predict": 1,
    "probe": 4,
    "baselines": 6,
    "decode": 1,
    "evaluate": 7,
    "openbhb": 1,
    "semantoks-probe": 1,
    "report": 2,
}

SMALL_FILE = 4 * 2**20  # bytes; up to this size a fingerprint covers every byte


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Return a short hash of any JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(path: str | Path) -> str:
    """Return ``<size>-<crc32>`` of an input without reading a large file twice.

    Gzip files carry the CRC-32 of their content in the last eight bytes, and the read itself checks
    it; small files are summed whole; of other large files the first and last MiB are.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as handle:
        if path.suffix == ".gz" and size >= 18:
            handle.seek(-8, 2)
            return f"{size}-{int.from_bytes(handle.read(4), 'little'):08x}"
        if size <= SMALL_FILE:
            return f"{size}-{zlib.crc32(handle.read()):08x}"
        crc = zlib.crc32(handle.read(1 << 20))
        handle.seek(-(1 << 20), 2)
        return f"{size}-{zlib.crc32(handle.read(), crc):08x}"


@cache
def _version(package: str) -> str | None:
    """Return a package's installed version; looking it up costs milliseconds, and sidecars ask often."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, neuropipe and `packages` (those that are installed)."""
    found = {"python": platform.python_version(), "neuropipe": __version__}
    found |= {name: version for name in packages if (version := _version(name))}
    return found


def describe(
    stage: str,
    *,
    inputs: Mapping[str, str] | None = None,
    settings: Any = None,
    packages: Iterable[str] = ("numpy",),
    **extra: Any,
) -> dict[str, Any]:
    """Return the content of a sidecar.

    Parameters
    ----------
    stage : str
        Name of the stage, a key of `STAGE_VERSIONS`.
    inputs : mapping of str to str, optional
        Path (relative to the study or the dataset) to hash or fingerprint.
    settings : JSON-able, optional
        The resolved part of the configuration that the product depends on.
    packages : iterable of str
        Packages whose versions are recorded; they never decide a rerun.
    **extra
        Facts of the product itself, e.g. ``t_r=2.0``.
    """
    return {
        **extra,
        "GeneratedBy": {
            "Name": "neuropipe",
            "Command": f"neuropipe {stage}",
            "Arguments": sys.argv[1:],
            "StageVersion": STAGE_VERSIONS[stage],
            "Versions": versions(packages),
        },
        "Inputs": dict(inputs or {}),
        "Settings": settings,
        "SettingsHash": hash_json(settings),
        "GeneratedAt": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; one that is damaged is named."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}. Mend it, or delete it and run again.") from error
