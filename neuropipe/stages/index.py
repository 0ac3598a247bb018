"""Stage index: find a dataset's runs and people, and write the manifests that every later job starts from."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from neuropipe import config as configuration
from neuropipe.bids import anatomy, doors, fmriprep
from neuropipe.bids.index import EXCLUDED_COLUMNS, RUN_COLUMNS, Found, exclusion, read_tsv, summary, to_tsv
from neuropipe.errors import ConfigError, InputError
from neuropipe.locks import lock
from neuropipe.paths import Study, write_if_changed
from neuropipe.provenance import describe, sha256, write_json
from neuropipe.signals.atlases import common_space
from neuropipe.stages.events import index_events
from neuropipe.stages.fetch import bring
from neuropipe.volumes.headers import keep_common_grid

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", required=True, metavar="PATH", help="the study's config.yaml")
    parser.add_argument("--dataset", metavar="NAME", help="one dataset; default: all, each in a folder of its name")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the manifests")


def run(*, config: str, dataset: str | None, output: str) -> None:
    """Index one dataset into `output`, or every dataset of the study into ``output/<dataset>``."""
    study = configuration.load(config)
    if dataset is None:
        for name in study.datasets:
            index_dataset(study, name, Path(output) / name)
            if study.datasets[name].events is not None:
                index_events(study, name, Path(output) / name / "runs.tsv", Path(output) / name / "events.tsv")
    else:
        if dataset not in study.datasets:
            raise ConfigError(f"{config} has no dataset {dataset!r}; known: {', '.join(study.datasets)}.")
        index_dataset(study, dataset, Path(output))


def index_dataset(study: configuration.StudyConfig, name: str, output: Path) -> None:
    """Write ``runs.tsv``, ``chunk-NN.tsv``, ``participants.tsv`` and ``excluded.tsv`` of one dataset.

    A file is rewritten only when its content changed, so that only those chunks run again whose
    runs did; the sidecar ``runs.json`` then says by what.

    Raises
    ------
    InputError
        Nothing can be used; the message sums up why.
    """
    dataset = study.datasets[name]
    if dataset.fetched:
        index_shards(dataset, name, output)
        return
    path = Path(configuration.expand(dataset.path))
    people, table = doors.people(dataset)
    found = _find(study, name, path, people)
    if dataset.content == "volume":
        found = keep_common_grid(found, anatomy.data_root(path), name, study.volumes)
    seen = {row["participant_id"] for row in (*found.runs, *found.excluded)}
    found.excluded += _people_without_runs(seen, name, people["participant_id"])
    if not found.runs:
        raise InputError(
            f"Dataset {name}: nothing in {path} can be used.\n{summary(found.excluded)}\n"
            f"Correct datasets.{name} in the configuration, or the data."
        )
    found.runs.sort(key=lambda row: row["run_id"])
    found.excluded.sort(key=lambda row: [row[column] for column in EXCLUDED_COLUMNS])
    with lock(output / ".lock"):
        changed = _write(found, people, dataset.n_chunks, output)
        if changed or not (output / "runs.json").is_file():
            write_json(output / "runs.json", _sidecar(study, name, table, found))
    log.info(
        "%s: %d runs of %d people in %d chunks, %d left out; %s",
        *(name, len(found.runs), _n_people(found), dataset.n_chunks, len(found.excluded)),
        f"{changed} files changed" if changed else "nothing changed",
    )


def _find(study: configuration.StudyConfig, name: str, path: Path, people: pd.DataFrame) -> Found:
    dataset = study.datasets[name]
    if dataset.ready_made or dataset.stage == "volumes":
        return doors.find(dataset, name, path, people)
    space = common_space(study.atlases, study.warp)
    return fmriprep.find(path, name, dataset.select, space, set(people["participant_id"]), dataset.n_chunks)


def index_shards(section: configuration.Dataset, name: str, output: Path) -> None:
    """Bring the tables of shards that were made elsewhere, and write who of the people has no sample.

    Raises
    ------
    InputError
        They are not there, or lack what the study needs of them.
    """
    study, own = Study(output.absolute().parents[1]), section.participants
    table = bring(
        configuration.expand(section.path), study, name, Path(configuration.expand(own)) if own is not None else None
    )
    _check_shards(section, name, study, table)
    people = read_tsv(study.participants(name))["participant_id"]
    seen = set(table["participant_id"])
    excluded = _people_without_runs(seen, name, people)
    write_if_changed(study.index_excluded(name), to_tsv(excluded, EXCLUDED_COLUMNS))
    log.info("%s: %d samples of %d people, made elsewhere", name, len(table), len(seen))


def _check_shards(section: configuration.Dataset, name: str, study: Study, table: pd.DataFrame) -> None:
    """Raise where published shards are not what the configuration says."""
    if (found := table["content"].iloc[0]) != section.content:
        raise InputError(f"Dataset {name}: expected shards of {section.content}, found {found}; write holds: {found}.")
    lacking = {
        "tables of quality": not (study.qc(name) / "runs.parquet").is_file(),
        "labelled clips": section.clips and not study.clips(name).is_file(),
    }
    for what, is_lacking in lacking.items():
        if is_lacking:
            raise InputError(f"Dataset {name}: {section.path} was published without {what}; publish them again.")


def _people_without_runs(seen: Container[str], name: str, people: Iterable[str]) -> list[dict[str, str]]:
    """Return a row for each person of the table of whom nothing was found, usable or not."""
    detail = "a row in participants.tsv, but no file; nothing to do if that is meant"
    return [
        exclusion("index", name, person, "n/a", "n/a", "no data", detail) for person in people if person not in seen
    ]


def _n_people(found: Found) -> int:
    return len({row["participant_id"] for row in found.runs})


def _sidecar(study: configuration.StudyConfig, name: str, table: Path | None, found: Found) -> dict[str, Any]:
    """Return what made the manifests; of the runs' own files they hold the fingerprints themselves."""
    settings = {"dataset": study.datasets[name].model_dump(mode="json")}
    settings["atlases"] = study.model_dump(mode="json", include={"atlases"})["atlases"]
    facts = {"n_runs": len(found.runs), "n_people": _n_people(found), "n_excluded": len(found.excluded)}
    inputs = {table.name: sha256(table)} if table else {}
    return describe("index", inputs=inputs, settings=settings, packages=("pandas", "nibabel"), **facts)


def _write(found: Found, people: pd.DataFrame, n_chunks: int, output: Path) -> int:
    """Write the tables where their content changed; return how many did."""
    tables = {
        "runs.tsv": to_tsv(found.runs, RUN_COLUMNS),
        "participants.tsv": people.to_csv(sep="\t", index=False, lineterminator="\n"),
        "excluded.tsv": to_tsv(found.excluded, EXCLUDED_COLUMNS),
    }
    chunks: dict[str, list[dict[str, str]]] = {f"{chunk:02d}": [] for chunk in range(n_chunks)}
    for row in found.runs:
        chunks[row["chunk"]].append(row)
    tables |= {f"chunk-{chunk}.tsv": to_tsv(rows, RUN_COLUMNS) for chunk, rows in chunks.items()}
    changed = sum(write_if_changed(output / file, text) for file, text in tables.items())
    for stale in output.glob("chunk-*.tsv"):
        if stale.name not in tables:
            stale.unlink()
    return changed
