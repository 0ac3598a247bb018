"""Tell the labels of clips of new people: every baseline and every frozen network on the same folds, one task."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from neuropipe.errors import ConfigError
from neuropipe.locks import lock
from neuropipe.paths import MODELS, Study
from neuropipe.provenance import describe, read_json, sha256, write_json

if TYPE_CHECKING:
    from neuropipe.evaluate.answers import Posed
    from neuropipe.evaluate.decoding import Decoded
    from neuropipe.evaluate.trials import Trials

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe decode``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--task", required=True, help="name of a task of kind decoding in the config")
    parser.add_argument("--split-dir", type=Path, required=True, help="folder of the split that judges the task")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="folders of the datasets' shards")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="receipts of pretrain")
    parser.add_argument("--threads", type=int, help="processor threads; default: torch's own choice")
    parser.add_argument("--output", type=Path, required=True, help="folder for decoding.parquet and efficiency.parquet")


def run(
    *,
    config: Path,
    task: str,
    split_dir: Path,
    shards: list[Path],
    models: list[Path],
    threads: int | None,
    output: Path,
) -> None:
    """Write ``decoding.parquet`` (every clip's label and probabilities), ``efficiency.parquet`` and what goes with it.

    Raises
    ------
    ConfigError
        The task is of another kind.
    SplitError
        Pretraining saw test people although the study did not ask for that.
    """
    from neuropipe.evaluate import answers, trials
    from neuropipe.train import devices

    posed = answers.pose(config, task, split_dir, shards)
    if posed.question.target.kind != "decoding":
        raise ConfigError(
            f"tasks.{task} in {config} is no decoding task; `neuropipe probe` and `baselines` are for it."
        )
    asked = trials.gather(posed.question, posed.sources)
    with lock(output / ".lock"), devices.claim(threads) as device:
        found = _decode(posed, asked, models, device)
        write(posed, asked, found, models, output)


def _decode(posed: Posed, asked: Trials, models: list[Path], device) -> Decoded:
    """Let all baselines and networks answer."""
    from neuropipe.evaluate.decoding import Decoded, Decoder, Networks, baseline

    task, found = posed.question.target.task, Decoded()
    settings, wanted = posed.study.tasks[task], posed.study.baselines(task)
    decoder = Decoder(asked, settings.training_people, settings.training_draws)
    for name in wanted:
        if name != "random_weights":
            found.add(baseline(decoder, name, settings.confounds))
            log.info("decode %s: %s", task, name)
    for path in models:
        networks = Networks(Study.of(path, MODELS).root, read_json(path), device)
        found.add(decoder.readout(networks.system(asked), networks.features(asked, trained=True)))
        if "random_weights" in wanted:
            found.add(decoder.readout(networks.untrained(), networks.features(asked, trained=False)))
        log.info("decode %s: %s seed %s", task, networks.made["recipe"], networks.made["seed"])
    return found


def write(posed: Posed, asked: Trials, found: Decoded, models: list[Path], output: Path) -> None:
    """Write the tables of decoders, who could not be asked, and the sidecar."""
    from neuropipe.evaluate import answers, tables

    predictions = found.table("predictions").sort_values(["run_id", "repeat", "fold", "clip"], ignore_index=True)
    tables.write(output / "decoding.parquet", predictions, tables.DECODING)
    tables.write(output / "efficiency.parquet", found.table("efficiency"), tables.EFFICIENCY)
    tables.write(output / "choices.parquet", found.table("choices"), tables.CHOICES)
    tables.write(output / "costs.parquet", found.table("costs"), tables.COSTS)
    answers.write_excluded("decode", posed.question, output / "excluded.tsv", {})
    task = posed.question.target.task
    inputs = posed.inputs | {Study.of(path, MODELS).relative(path): sha256(path) for path in models}
    settings = posed.study.tasks[task].model_dump(mode="json")
    facts = {"task": task, "Labels": asked.labels, "Clips": len(asked)}
    packages = ("numpy", "scipy", "pandas", "torch")
    write_json(output / "decode.json", describe("decode", inputs=inputs, settings=settings, packages=packages, **facts))
