"""Embed every person with each fold's model, and with the same network before training."""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path
from typing import Any

from neuropipe import config as configuration
from neuropipe.locks import lock
from neuropipe.paths import Study, atomic
from neuropipe.provenance import describe, read_json, sha256, write_json

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe embed``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--models", type=Path, required=True, help="receipt.json of pretrain")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="folders shards/<dataset> to embed")
    parser.add_argument("--threads", type=int, help="processor threads; default: torch's own choice")
    parser.add_argument("--output", type=Path, required=True, help="receipt.json in embeddings/<recipe>/seed-<seed>")


def _embed(folder: Path, target: Path, shards: list[Path], study: configuration.StudyConfig, device) -> dict[str, Any]:
    """Write ``trained.parquet`` and ``random.parquet`` of one model; return what the receipt says of it.

    Beside them, where the study reads tokens, ``trained-tokens.npy`` and ``random-tokens.npy`` with rows in their
    order, and where people have several recordings ``trained-recordings.parquet`` and ``random-recordings.parquet``.
    """
    import numpy as np

    from neuropipe.data.source import open_source
    from neuropipe.evaluate.embed import embed_recordings, mean_of_people, tokens_of_people, with_several
    from neuropipe.hub import export
    from neuropipe.shards.manifest import write_parquet
    from neuropipe.shards.read import Shards

    saved = export.load(folder)
    source = open_source([Shards(path) for path in shards], device=device, residence="mapped", slices=saved.slicing)
    saved.check_reads(source, f"{folder} and {shards[0]}")
    saved.check_map(study.map_of(path.name for path in shards), str(folder))
    spec, n_clips = saved.model.config.reads(), saved.about["recipe"]["n_clips"]
    begun = time.perf_counter()
    trained = embed_recordings(saved.model.to(device), source, spec, n_clips)
    seconds = time.perf_counter() - begun
    untrained = export.build(saved.about["family"], saved.model.config, saved.regions, saved.about["seed"]).to(device)
    each = {"trained": trained, "random": embed_recordings(untrained, source, spec, n_clips)}
    for name, model in (("trained", saved.model), ("random", untrained)):
        write_parquet(target / f"{name}.parquet", mean_of_people(each[name]))
        single = target / f"{name}-recordings.parquet"
        single.unlink(missing_ok=True)
        if len(several := with_several(each[name])):
            write_parquet(single, several)
        path = target / f"{name}-tokens.npy"
        path.unlink(missing_ok=True)
        if "attentive" in study.evaluate.readouts and hasattr(model, "tokens"):
            with atomic(path) as temporary, open(temporary, "wb") as handle:
                np.save(handle, tokens_of_people(model, source, spec, n_clips))
    regions = {} if saved.regions is None else {"roi_order_hash": saved.regions.order_hash}
    return {
        "family": saved.about["family"],
        "embed_dim": trained.shape[1] - 3,
        **regions,
        "atlases": [] if saved.regions is None else saved.regions.atlases,
        "recordings_per_s": len(source) / seconds,
    }


def run(*, config: Path, models: Path, shards: list[Path], threads: int | None, output: Path) -> None:
    """Embed everyone in `shards` with every model of a pretraining receipt.

    Beside the receipt, ``about.json`` says what made the tables; the receipt itself has no times of day, since
    later jobs depend on it.
    """
    import pandas as pd

    from neuropipe.train import devices

    study_config = configuration.load(config)
    study, made = Study.of(output, "embeddings/<recipe>/seed-<seed>/receipt.json"), read_json(models)
    facts: dict[str, dict[str, Any]] = {}
    with lock(output.parent / ".lock"), devices.claim(threads) as device:
        checkpoints = []
        for model in made["models"]:
            folder = study.root / model["folder"]
            target = output.parent / os.path.relpath(folder, models.parent)
            if model["folder"] not in facts:
                facts[model["folder"]] = _embed(folder, target, shards, study_config, device)
            people = pd.read_parquet(folder / "people.parquet")
            checkpoints.append(
                {
                    **model,
                    "folder": study.relative(target),
                    "mode": made["mode"],
                    "people": (people["dataset"] + "/" + people["participant_id"]).tolist(),
                    "recordings_per_s": facts[model["folder"]]["recordings_per_s"],
                }
            )
        shared = {key: value for key, value in next(iter(facts.values())).items() if key != "recordings_per_s"}
        receipt = {
            "stage": "embed",
            "recipe": made["recipe"],
            "seed": made["seed"],
            **shared,
            "checkpoints": checkpoints,
        }
        inputs = {study.relative(models): sha256(models)}
        inputs |= {f"shards/{path.name}/manifest.parquet": sha256(path / "manifest.parquet") for path in shards}
        about = {"recipe": made["recipe"], "seed": made["seed"]}
        sidecar = describe("embed", inputs=inputs, settings=about, packages=("torch", "numpy"), device=str(device))
        write_json(output.with_name("about.json"), sidecar)
        write_json(output, receipt)
