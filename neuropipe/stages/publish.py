"""Copy a dataset's shards to a store or folder: tars first, the manifest last, so that no reader sees half of them.

People's labels (``participants.tsv``) go along only when asked.
"""

from __future__ import annotations

import argparse
import io
import logging
import shutil
from pathlib import Path

import pandas as pd

from neuropipe.errors import InputError
from neuropipe.paths import Study, atomic
from neuropipe.provenance import sha256
from neuropipe.shards import manifest as manifests
from neuropipe.shards import remote
from neuropipe.shards.stores import Store

log = logging.getLogger("neuropipe")

MANIFEST = "manifest.parquet"
BESIDE = ("manifest.json", "regions.tsv", "grid.json", "regional.parquet", "clips.parquet")  # where they are there
QUALITY, COVERAGE, PEOPLE = "quality.parquet", "coverage.parquet", "participants.tsv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe publish``."""
    parser.add_argument("--shards", type=Path, required=True, help="results/<study>/shards/<dataset>")
    parser.add_argument("--url", required=True, help="s3://bucket/prefix/<dataset>, gs://..., or a folder")
    parser.add_argument("--participants", action="store_true", help="people's labels too; think of who may read them")
    parser.add_argument("--manifest", type=Path, help="write the manifest to this file and let the caller send it")


def run(*, shards: Path, url: str, participants: bool, manifest: Path | None) -> None:
    """Copy tars that are not there yet, then the small files, ``shards.tsv``, and at last the manifest.

    Raises
    ------
    InputError
        A tar is not what its receipt says, or the store fails again and again.
    """
    table, store = manifests.read(shards / MANIFEST), Store(url)
    if (shards / remote.REMOTE).is_file():
        raise InputError(f"{shards} holds no tars, they lie at another store; publish from where they were made.")
    names = sorted(table["shard"].unique())
    listed = shards / remote.TARS
    tars = remote.read_tars(listed) if listed.is_file() else remote.write_tars(shards, names)
    there = _there(store)
    whole = [name for name in names if there.get(name) == tars.at[name, "sha256"] and _whole(store, name, tars)]
    new = [name for name in names if name not in whole]
    for name in new:
        if (found := sha256(shards / name)) != tars.at[name, "sha256"]:
            raise InputError(f"{shards / name}: expected sha256 {tars.at[name, 'sha256']}, found {found}; shard again.")
        # What is listed there is there, also where this process ends now: the next one goes on behind it.
        store.write_text(remote.TARS, remote.tars_text(tars.loc[whole]))
        store.write(name, shards / name)
        whole.append(name)
    for name, path in _small(shards, participants).items():
        store.write(name, path)
    store.write(remote.TARS, listed)
    if manifest is None:
        store.write(MANIFEST, shards / MANIFEST)
    else:
        with atomic(manifest) as temporary:
            shutil.copyfile(shards / MANIFEST, temporary)
    log.info("publish %s: %d samples in %d tars, %d of them new", url, len(table), len(names), len(new))


def _small(shards: Path, participants: bool) -> dict[str, Path]:
    """Return the files beside the tars that are there, by their names at the store."""
    study, dataset = Study(shards.absolute().parent.parent), shards.absolute().name
    files = {name: shards / name for name in BESIDE}
    files |= {QUALITY: study.qc(dataset) / "runs.parquet", COVERAGE: study.qc(dataset) / "regions.parquet"}
    if participants:
        files[PEOPLE] = study.participants(dataset)
    return {name: path for name, path in files.items() if path.is_file()}


def _there(store: Store) -> dict[str, str]:
    """Return the hashes of the tars that were published before, by name."""
    content = store.read(remote.TARS)
    if content is None:
        return {}
    return pd.read_csv(io.BytesIO(content), sep="\t", dtype=str).set_index("shard")["sha256"].to_dict()


def _whole(store: Store, name: str, tars: pd.DataFrame) -> bool:
    return store.size(name) == tars.at[name, "bytes"]
