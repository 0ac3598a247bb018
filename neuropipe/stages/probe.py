"""Answer one task with linear readouts of frozen embeddings, every recipe and seed on the same folds."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from neuropipe.locks import lock

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe probe``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--task", required=True, help="name of the task in the config")
    parser.add_argument("--split-dir", type=Path, required=True, help="folder of the split that judges the task")
    parser.add_argument(
        "--embeddings", type=Path, nargs="+", required=True, help="folders embeddings/<recipe>/seed-<k>"
    )
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="folders of the datasets' shards")
    parser.add_argument("--output", type=Path, required=True, help="folder for predictions, nulls, choices and costs")


def run(*, config: Path, task: str, split_dir: Path, embeddings: list[Path], shards: list[Path], output: Path) -> None:
    """Write ``predictions.parquet``, ``nulls.parquet``, ``choices.parquet``, ``costs.parquet`` and ``excluded.tsv``.

    Beside them lies what features show besides the target, see `evaluate.looks`.
    """
    from neuropipe.evaluate import answers
    from neuropipe.evaluate.looks import looks_of
    from neuropipe.evaluate.protocol import Answer
    from neuropipe.evaluate.systems import Embeddings, features_beside, probe, regional, without_embedding

    with lock(output / ".lock"):
        posed = answers.pose(config, task, split_dir, shards)
        beside = features_beside(posed.study.combined(task), posed.question, posed.sources)
        looks = looks_of(posed.question, posed.study.evaluate)
        regions = regional(posed.question, posed.sources, beside)
        parts, unseen = [], {}
        for folder in embeddings:
            opened = Embeddings.open(folder)
            unseen[f"{folder.parent.name}/{folder.name}"] = without_embedding(posed.question, opened)
            parts += probe(
                posed.question,
                opened,
                posed.study.evaluate.readouts,
                beside=beside,
                looks=looks,
                regional=regions,
            )
            log.info("probe %s: %s seed %s", task, opened.receipt["recipe"], opened.receipt["seed"])
        looks.write(output)
        answers.write("probe", posed, Answer.join(parts), output, unseen)
