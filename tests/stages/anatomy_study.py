"""A study of small maps, whole and in slices, from shards on: configuration, recipes and the stages of a model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml
from volume_shards import toy_maps, toy_people, write_volume_shards

from neuropipe.paths import Study
from neuropipe.shards.manifest import write_parquet
from neuropipe.stages import embed, pretrain

TRAIN = {"n_steps": 6, "batch_size": 4, "lr": 0.001, "log_every": 2, "checkpoint_every": 2}
RECIPES = {
    "whole": {
        "family": "yaware",
        "model": {
            "growth_rate": 2,
            "block_config": [1, 1],
            "n_init_features": 4,
            "bn_size": 2,
            "head_hidden_dim": 8,
            "head_dim": 4,
            "proxies": [{"column": "age"}, {"column": "sex", "kernel": "category"}],
        },
        "train": TRAIN,
        "n_clips": 1,
    },
    "slices": {
        "family": "multiscale_vit",
        "model": {
            "img_size": [16, 16],
            "patch_size": [4, 4],
            "embed_dim": 8,
            "depth": 2,
            "num_heads": 2,
            "decoder_dim": 8,
            "decoder_depth": 1,
            "decoder_num_heads": 1,
        },
        "slices": {"plane": "coronal", "range": [0.2, 0.8], "step": 2},
        "train": TRAIN,
        "n_clips": 3,
    },
}


def write_study(tmp_path: Path) -> Path:
    """Write a study of eight people, the last two of whom are the test side, with both recipes."""
    root = tmp_path / "results" / "tiny"
    write_volume_shards(root, toy_maps(), toy_people())
    table = toy_people()[["participant_id"]].assign(split="main", fold="0", dataset="vbm")
    table["role"] = ["train"] * 6 + ["test"] * 2
    write_parquet(Study(root).split("main") / "splits.parquet", table)
    for name, content in RECIPES.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content))
    write_config(root)
    return root


def write_config(root: Path, pretrain: dict | None = None, **changes) -> None:
    """Write ``config.yaml``; `pretrain` chooses recipes and adds to their sections, `changes` are of the dataset."""
    pretrain = pretrain or {name: {} for name in RECIPES}
    pretrained = {n: {"datasets": ["vbm"], "recipe": str(root / f"{n}.yaml")} | item for n, item in pretrain.items()}
    content = {
        "study": "tiny",
        "datasets": {"vbm": {"kind": "cat12", "path": "nowhere"} | changes},
        "splits": {"main": {"scheme": "holdout", "test": 2}},
        "tasks": {"age": {"target": "age", "kind": "regression", "datasets": ["vbm"], "split": "main"}},
        "pretrain": pretrained,
    }
    (root / "config.yaml").write_text(yaml.safe_dump(content))


def train(root: Path, recipe: str) -> Path:
    """Run the stage; return the folder of the one model."""
    seed = Study(root).model(recipe, 0)
    pretrain.run(
        config=root / "config.yaml",
        recipe=recipe,
        seed=0,
        shards=[Study(root).shards("vbm")],
        splits=[Study(root).split("main")],
        threads=1,
        output=seed / "receipt.json",
    )
    return seed / "main" / "0"


def embedded(root: Path, recipe: str, place: str = "main/0") -> dict[str, pd.DataFrame]:
    """Run the stage; return both tables of the one model."""
    output = Study(root).embeddings(recipe, 0) / "receipt.json"
    embed.run(
        config=root / "config.yaml",
        models=Study(root).model(recipe, 0) / "receipt.json",
        shards=[Study(root).shards("vbm")],
        threads=1,
        output=output,
    )
    return {name: pd.read_parquet(output.parent / place / f"{name}.parquet") for name in ("trained", "random")}
