"""Use shards that lie at a store or in another folder: the tables are copied, tars come when they are read."""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import Study, atomic
from neuropipe.provenance import describe, sha256, write_json
from neuropipe.shards import manifest, remote
from neuropipe.shards.read import Shards
from neuropipe.shards.stores import Store, is_local
from neuropipe.stages.publish import BESIDE, COVERAGE, MANIFEST, PEOPLE, QUALITY

log = logging.getLogger("neuropipe")

NEEDED = (remote.TARS, "regions.tsv", MANIFEST)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe fetch``."""
    parser.add_argument(
        "--url", required=True, help="what `neuropipe publish` filled: s3://, gs://, https:// or a path"
    )
    parser.add_argument("--output", type=Path, required=True, help="results/<study>/shards/<dataset>")
    parser.add_argument("--participants", type=Path, help="people's table; default: the published one, where it is")
    parser.add_argument("--check", action="store_true", help="read every sample once and check it, keeping nothing")


def run(*, url: str, output: Path, participants: Path | None, check: bool) -> None:
    """Make a folder of shards whose tars lie elsewhere, its people's table, and its tables of quality.

    Raises
    ------
    InputError
        Nothing was published at `url`, no table of people is known, or (with `check`) a sample is damaged.
    """
    url = str(Path(url.removeprefix("file://")).resolve()) if is_local(url) else url
    store, study, dataset = Store(url), Study(output.parent.parent), output.name
    if store.size(MANIFEST) is None:  # before anything here is replaced
        raise InputError(
            f"{store.path(MANIFEST)} is not there, or may not be read with these credentials; check both, or "
            "run `neuropipe publish` for that folder first."
        )
    with lock(output / ".lock-manifest"):
        if any(output.glob("*.tar")):
            raise InputError(f"{output} holds tars of its own; fetch into another dataset's name.")
        study.participants(dataset).parent.mkdir(parents=True, exist_ok=True)
        _people(store, participants, study.participants(dataset))
        for name in BESIDE:
            _copy(store, name, output / name)
        _quality(store, study, dataset)
        write_json(output / remote.REMOTE, {"url": url})
        for name in NEEDED:  # the manifest last, here as there
            if not _copy(store, name, output / name):
                raise InputError(f"{store.path(name)} is not there; run `neuropipe publish` for that folder first.")
        table = manifest.read(output / MANIFEST)
        if lacking := sorted(set(table["shard"]) - set(remote.read_tars(output / remote.TARS).index)):
            raise InputError(f"{store.path(remote.TARS)} lacks {lacking[0]} of the manifest; publish or fetch again.")
        about = describe("fetch", inputs={store.path(MANIFEST): sha256(output / MANIFEST)}, Samples=len(table))
        write_json(output / "fetch.json", about)
    log.info("fetch %s: %d samples in %d tars", url, len(table), table["shard"].nunique())
    if check:
        from neuropipe.data.stream import stream

        n = sum(1 for _ in stream(Shards(output)))
        log.info("fetch %s: %d samples were read, every one as its manifest says", url, n)


def _copy(store: Store, name: str, path: Path) -> bool:
    """Copy a small file, where it is there; return whether it is."""
    content = store.read(name)
    if content is None:
        path.unlink(missing_ok=True)
        return False
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return True


def _people(store: Store, own: Path | None, path: Path) -> None:
    if own is not None:
        if not own.is_file():
            raise InputError(f"No participants table at {own}.")
        with atomic(path) as temporary:
            shutil.copyfile(own, temporary)
    elif not _copy(store, PEOPLE, path):
        raise InputError(
            f"{store.url} was published without people's labels; name a table with the column participant_id: "
            "--participants TABLE."
        )


def _quality(store: Store, study: Study, dataset: str) -> None:
    """Copy the tables of quality, where they are there."""
    _copy(store, QUALITY, study.qc(dataset) / "runs.parquet")
    _copy(store, COVERAGE, study.qc(dataset) / "regions.parquet")
