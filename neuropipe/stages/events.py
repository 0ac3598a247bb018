"""Find the events.tsv of each run of a dataset."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from neuropipe import config as configuration
from neuropipe.bids import events as event_files
from neuropipe.bids.index import read_tsv, to_tsv
from neuropipe.bids.series import data_root
from neuropipe.bids.tree import check_fetched
from neuropipe.errors import ConfigError, InputError, RunExcluded
from neuropipe.locks import lock
from neuropipe.paths import write_if_changed
from neuropipe.provenance import describe, fingerprint, sha256, write_json

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe events``."""
    parser.add_argument("--config", required=True, metavar="PATH", help="the study's config.yaml")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a dataset with a section events")
    parser.add_argument("--manifest", type=Path, required=True, metavar="PATH", help="runs.tsv of the index")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="events.tsv beside the manifest")


def run(*, config: str, dataset: str, manifest: Path, output: Path) -> None:
    """Write which events.tsv tells of each run of the manifest."""
    study = configuration.load(config)
    events_section(study, dataset, config)
    index_events(study, dataset, manifest, output)


def events_section(study: configuration.StudyConfig, dataset: str, source: str) -> configuration.Events:
    """Return how a dataset's events are used.

    Raises
    ------
    ConfigError
        The dataset is not in the configuration, or has no such section.
    """
    if dataset not in study.datasets:
        raise ConfigError(f"{source} has no dataset {dataset!r}; known: {', '.join(study.datasets)}.")
    found = study.datasets[dataset].events
    if found is None:
        raise ConfigError(
            f"{source}: datasets.{dataset} has no section events; add one, e.g. events: {{labels: hcp7}}."
        )
    return found


def index_events(study: configuration.StudyConfig, name: str, manifest: Path, output: Path) -> None:
    """Write the table of events files where it changed.

    Its columns: run_id, events (path from the dataset's folder), fingerprint, and reason and detail
    where a run's events cannot be used.

    Raises
    ------
    InputError
        `events.path` is no folder.
    """
    rules = events_section(study, name, "the configuration")
    root = data_root(Path(configuration.expand(study.datasets[name].path)))
    rows = read_tsv(manifest).to_dict("records")
    if rules.path is None:
        roots = event_files.likely_roots(root)
    else:
        roots = [Path(configuration.expand(rules.path))]
        if not roots[0].is_dir():
            raise InputError(f"No folder {roots[0]}; expected events.tsv files. Correct datasets.{name}.events.path.")
    folder, found = event_files.find(roots, rows)
    table = [_row(row, found[row["run_id"]], folder, root) for row in rows]
    with lock(output.with_name(".lock-events")):
        text = to_tsv(table, event_files.EVENT_COLUMNS)
        changed = write_if_changed(output, text)
        about = output.with_suffix(".json")
        if changed or not about.is_file():
            facts = {"Folders": [str(one) for one in roots], "Found": str(folder)}
            inputs = {manifest.name: sha256(manifest)}
            write_json(about, describe("events", inputs=inputs, settings={"path": rules.path}, packages=(), **facts))
    known = sum(one["events"] != "" for one in table)
    log.info("%s: events.tsv for %d of %d runs, in %s", name, known, len(rows), folder)


def _row(
    run: Mapping[str, str],
    found: str | RunExcluded | None,
    folder: Path,
    root: Path,
) -> dict[str, str]:
    """Return the table's row of a run."""
    row = {"run_id": run["run_id"], "events": ""}
    try:
        if isinstance(found, RunExcluded):
            raise found
        if found is not None:
            # Whoever follows the path starts at the true folder, even if a link led to it.
            row["events"] = os.path.relpath(folder.resolve() / found, root.resolve()).replace(os.sep, "/")
            check_fetched(folder / found)
            row["fingerprint"] = fingerprint(folder / found)
    except RunExcluded as reason:
        row |= {"reason": reason.reason, "detail": " ".join(reason.detail.split())}
    return row
