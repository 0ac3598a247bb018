"""Use shards that lie at a store or in another folder: the tables are copied, tars come when they are read."""

from __future__ import annotations

import argparse
import io
import logging
from pathlib import Path

import pandas as pd

from neuropipe.bids import participants as people_tables
from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import Study, atomic, write_if_changed
from neuropipe.provenance import describe, read_json, sha256, write_json
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
    table = bring(url, Study.of(output, "shards/<dataset>"), output.absolute().name, participants)
    log.info("fetch %s: %d samples in %d tars", url, len(table), table["shard"].nunique())
    if check:
        from neuropipe.data.stream import stream

        n = sum(1 for _ in stream(Shards(output)))
        log.info("fetch %s: %d samples were read, every one as its manifest says", url, n)


def bring(url: str, study: Study, dataset: str, participants: Path | None) -> pd.DataFrame:
    """Copy the tables of published shards into a study, where they changed, and return the manifest.

    Parameters
    ----------
    url : str
        Of one dataset's shards.
    study : Study
    dataset : str
        Its name in the study.
    participants : path, optional
        Table of people; default: the published one.

    Raises
    ------
    InputError
        Nothing was published there, its tables disagree, or no table of people is known.
    """
    store, output = _store(url), study.shards(dataset)  # before anything here is replaced
    with lock(output / ".lock-manifest"):
        if any(output.glob("*.tar")):
            raise InputError(f"{output} holds tars of its own; fetch into another dataset's name.")
        _people(store, participants, study.participants(dataset))
        for name in BESIDE:
            _copy(store, name, output / name)
        _copy(store, QUALITY, study.qc(dataset) / "runs.parquet")
        _copy(store, COVERAGE, study.qc(dataset) / "regions.parquet")
        _write_json_if_changed(output / remote.REMOTE, {"url": store.url})
        for name in NEEDED:  # the manifest last, here as there
            if not _copy(store, name, output / name):
                raise InputError(f"{store.path(name)} is not there; run `neuropipe publish` for that folder first.")
        table = manifest.read(output / MANIFEST)
        if lacking := sorted(set(table["shard"]) - set(remote.read_tars(output / remote.TARS).index)):
            raise InputError(f"{store.path(remote.TARS)} lacks {lacking[0]} of the manifest; publish or fetch again.")
        if (named := table["dataset"].iloc[0]) != dataset:  # keys, clips and labels go by this name
            raise InputError(f"{store.url} holds the dataset {named}; call it so here too, found {dataset}.")
        inputs = {store.path(MANIFEST): sha256(output / MANIFEST)}
        write_json(output / "fetch.json", describe("fetch", inputs=inputs, Samples=len(table)))
    return table


def published(url: str) -> pd.DataFrame:
    """Return the manifest of the shards at an address.

    Raises
    ------
    InputError
        There are none.
    """
    return pd.read_parquet(io.BytesIO(_store(url).read(MANIFEST)))


def _store(url: str) -> Store:
    """Return the store of published shards; raise where none are to be seen."""
    store = Store(str(Path(url.removeprefix("file://")).resolve()) if is_local(url) else url)
    if store.size(MANIFEST) is None:
        raise InputError(
            f"{store.path(MANIFEST)} is not there, or may not be read with these credentials; check both, or "
            "run `neuropipe publish` for that folder first."
        )
    return store


def _copy(store: Store, name: str, path: Path) -> bool:
    """Copy a small file, where it is there and not the same already; return whether it is there.

    What did not change keeps its time of change, so that nothing that was made of it is made again.
    """
    content = store.read(name)
    if content is None:
        path.unlink(missing_ok=True)
        return False
    if not (path.is_file() and path.read_bytes() == content):
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    return True


def _write_json_if_changed(path: Path, content: dict[str, str]) -> None:
    if not (path.is_file() and read_json(path) == content):
        write_json(path, content)


def _people(store: Store, own: Path | None, path: Path) -> None:
    if own is not None:
        if not own.is_file():
            raise InputError(f"No participants table at {own}.")
        table = people_tables.load(own)
        write_if_changed(path, table.to_csv(sep="\t", index=False, lineterminator="\n"))
    elif not _copy(store, PEOPLE, path):
        raise InputError(
            f"{store.url} was published without people's labels; name a table with the column participant_id: "
            "--participants TABLE, or participants: of the dataset in the configuration."
        )
