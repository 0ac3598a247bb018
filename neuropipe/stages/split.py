"""Freeze who is on which side of a split, audit it, and write it only when nothing leaks."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from neuropipe import config as configuration
from neuropipe.errors import ConfigError
from neuropipe.locks import lock
from neuropipe.paths import atomic
from neuropipe.provenance import describe, sha256, write_json

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe split``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--split", required=True, help="name of the split in the config")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="folders of the datasets' shards")
    parser.add_argument("--output", type=Path, required=True, help="folder for splits.parquet and audit.json")


def run(*, config: Path, split: str, shards: list[Path], output: Path) -> None:
    """Write ``splits.parquet`` and ``audit.json``.

    Raises
    ------
    ConfigError
        The split is not in the configuration.
    SplitError
        The split cannot be made, or leaks; nothing is written.
    """
    from neuropipe.evaluate.targets import class_labels
    from neuropipe.shards.read import Shards
    from neuropipe.splits.audit import audit_split
    from neuropipe.splits.duplicates import twins
    from neuropipe.splits.make import make_split
    from neuropipe.splits.people import of_study

    study = configuration.load(config)
    if split not in study.splits:
        raise ConfigError(f"No split {split!r} in {config}; known are {', '.join(study.splits) or 'none'}.")
    settings = study.stratified(split)
    sources = [Shards(folder) for folder in shards]
    people = of_study(study, sources)
    labels = {
        name: class_labels(name, task, people)
        for name, task in study.tasks.items()
        if task.split == split and task.kind in ("binary", "multiclass")
    }
    with lock(output / ".lock"):
        table = make_split(split, settings, people)
        hashes = people.recordings[["dataset", "participant_id", "sha256"]]
        audit = audit_split(table, hashes, labels, people.same_people, twins(people, sources))
        with atomic(output / "splits.parquet") as temporary:
            table.to_parquet(temporary, index=False)
        inputs = {f"{folder.name}/manifest.parquet": sha256(folder / "manifest.parquet") for folder in shards}
        sidecar = describe(
            "split", inputs=inputs, settings=settings.model_dump(mode="json"), packages=["numpy", "pandas"]
        )
        write_json(output / "audit.json", audit | sidecar)
    log.info("split %s: %d people, %d folds, no leak found", split, audit["n_people"], len(audit["folds"]))
