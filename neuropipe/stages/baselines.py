"""Answer one task with what every model must beat: majority, confounds, a linear model of the data, random weights."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from neuropipe.locks import lock

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe baselines``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--task", required=True, help="name of the task in the config")
    parser.add_argument("--split-dir", type=Path, required=True, help="folder of the split that judges the task")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="folders of the datasets' shards")
    parser.add_argument(
        "--embeddings",
        type=Path,
        nargs="*",
        default=[],
        help="folders embeddings/<recipe>/seed-<k>, for random weights",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for predictions, nulls, choices and costs")


def run(*, config: Path, task: str, split_dir: Path, shards: list[Path], embeddings: list[Path], output: Path) -> None:
    """Write ``predictions.parquet``, ``nulls.parquet``, ``choices.parquet``, ``costs.parquet`` and ``excluded.tsv``.

    Beside them lies what features show besides the target, see `evaluate.looks`, and
    ``confounds.parquet``, where the task names confounds.
    """
    from neuropipe.evaluate import answers, systems
    from neuropipe.evaluate.looks import looks_of
    from neuropipe.evaluate.protocol import Answer

    with lock(output / ".lock"):
        posed = answers.pose(config, task, split_dir, shards)
        readouts = posed.study.evaluate.readouts
        confounds = posed.study.tasks[task].confounds
        looks = looks_of(posed.question, posed.study.evaluate)
        joined = posed.study.combined(task) if embeddings else []
        beside = systems.features_beside(joined, posed.question, posed.sources)
        parts: list[Answer] = []
        for name in posed.study.baselines(task):
            if name == "majority":
                parts += systems.majority(posed.question)
            elif name == "confounds":
                parts += systems.confounds_only(posed.question, confounds, readouts)
            elif name in systems.OF_DATA:
                parts += systems.linear_model(name, posed.question, posed.sources, readouts, looks, beside)
            else:
                for folder in embeddings:
                    opened = systems.Embeddings.open(folder)
                    parts += systems.probe(posed.question, opened, readouts, "random", beside, looks)
            log.info("baselines %s: %s", task, name)
        looks.write(output)
        answers.write("baselines", posed, Answer.join(parts), output)
        answers.write_confounds(posed, output / "confounds.parquet")
