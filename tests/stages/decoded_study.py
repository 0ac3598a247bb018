"""A small study of labelled clips with planted states, from shards on: what split, decode and evaluate read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from neuropipe.hub import export
from neuropipe.models import semantoks
from neuropipe.paths import Study
from neuropipe.provenance import sha256, write_json
from neuropipe.shards.manifest import from_rows, write_parquet
from neuropipe.shards.sample import CLIP_COLUMNS, Sample, pack
from neuropipe.shards.write import write_tar
from neuropipe.signals.regions import Regions

N_PEOPLE, N_REGIONS, N_CLIPS, N_SAMPLES = 20, 10, 16, 10
STATES = ("face", "house", "tool", "rest")  # the first three raise two regions each
STEP = 1.2  # of a raised region, where its noise has variance one


def config(scheme: dict[str, Any] | None = None, **task: Any) -> dict[str, Any]:
    """Return the study's configuration; `scheme` replaces that of its one split."""
    state = {"target": "state", "kind": "decoding", "datasets": ["toy"], "split": "main"}
    return {
        "study": "decoded",
        "seed": 3,
        "datasets": {"toy": {"kind": "series", "path": "nowhere", "atlas": "toy", "events": {"labels": [*STATES]}}},
        "splits": {"main": scheme or {"scheme": "holdout", "test": 0.4}},
        "tasks": {"state": state | {"training_people": [1, 3, 6], "training_draws": 2} | task},
        "pretrain": {"tiny": {"datasets": ["toy"], "recipe": "tiny.yaml"}},
        "evaluate": {"bootstrap": 300, "permutations": 100},
    }


def write_study(root: Path, content: dict[str, Any] | None = None, step: float = STEP, labels=STATES) -> Path:
    """Write shards, clips, participants and ``config.yaml`` below `root`; return the path of the configuration.

    Nobody has the clips in the same order; the last person has a recording, but no clip.
    """
    rng, study = np.random.default_rng(0), Study(root)
    samples, clips = [], []
    for person in range(N_PEOPLE):
        order = rng.permutation(np.arange(N_CLIPS) % len(labels))
        values = rng.standard_normal((N_CLIPS * N_SAMPLES, N_REGIONS))
        for clip, state in enumerate(order):
            if state < 3:
                values[clip * N_SAMPLES : (clip + 1) * N_SAMPLES, 2 * state : 2 * state + 2] += step
        name, run_id = f"sub-{person:02d}", f"sub-{person:02d}_task-loc"
        stored, valid = pack(values, "float16")
        facts = {"dataset": "toy", "participant_id": name, "run_id": run_id, "t_r": 2.0, "task": "loc"}
        facts["quality"] = {"mean_fd_mm": rng.uniform(0, 1)}
        samples.append(Sample(f"toy_{run_id}", stored, valid, facts))
        if person < N_PEOPLE - 1:
            clips += [_clip(name, run_id, number, labels[state], int(state)) for number, state in enumerate(order)]
    folder = study.shards("toy")
    folder.mkdir(parents=True)
    write_parquet(folder / "manifest.parquet", from_rows(write_tar(folder / "chunk-00-000.tar", samples)))
    table = pd.DataFrame(clips, columns=list(CLIP_COLUMNS)).astype(CLIP_COLUMNS).sort_values("key", ignore_index=True)
    write_parquet(folder / "clips.parquet", table)
    Regions.plain("toy", N_REGIONS).write(folder / "regions.tsv")
    people = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(N_PEOPLE)], "site": "A"})
    study.participants("toy").parent.mkdir(parents=True)
    people.to_csv(study.participants("toy"), sep="\t", index=False)
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(content or config()))
    return path


def _clip(name: str, run_id: str, number: int, label: str, state: int) -> dict[str, Any]:
    first = number * N_SAMPLES
    key = f"toy_{run_id}"
    row = {"key": f"{key}_clip-{number:03d}", "sample": key, "dataset": "toy", "participant_id": name, "task": "loc"}
    row |= {"condition": label, "label": label, "label_id": state, "onset_s": 2.0 * first, "duration_s": 20.0}
    return row | {"first_sample": first, "n_samples": N_SAMPLES, "censored_share": 0.0}


def write_models(root: Path, split: pd.DataFrame, extra: list[str] | None = None) -> Path:
    """Write an untrained network as if each fold had trained it; return the receipt. `extra` people were seen too."""
    study, models = Study(root), []
    settings = semantoks.Config.model_validate(
        {"spatial_unit": "brain", "n_samples": 12, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
        | {"branches": [{"kind": "dense", "out_channels": 8, "kernel_size": 3}], "mask_probability": 0.0}
        | {"head_hidden_dim": 8, "head_dim": 4}
    )
    regions = Regions.read(study.shards("toy") / "regions.tsv")
    for fold, rows in split.groupby("fold"):
        torch.manual_seed(5)
        model = semantoks.Model(settings, regions)
        folder = study.model("tiny", 0) / "main" / str(fold)
        facts = {"seed": 0, "recipe": {"n_clips": 4}, "training": {}}
        export.save(folder, family="semantoks", config=settings, model=model, regions=regions, facts=facts)
        seen = rows[rows["role"] == "train"][["dataset", "participant_id"]]
        more = pd.DataFrame({"dataset": "toy", "participant_id": extra or []})
        pd.concat([seen, more]).to_parquet(folder / "people.parquet", index=False)
        entry = {"split": "main", "fold": str(fold), "folder": str(folder.relative_to(root))}
        models.append(entry | {"checkpoint_sha256": sha256(folder / "model.safetensors")})
    receipt = study.model("tiny", 0) / "receipt.json"
    about = {"stage": "pretrain", "recipe": "tiny", "seed": 0, "mode": "train_side", "models": models}
    write_json(receipt, about)
    return receipt
