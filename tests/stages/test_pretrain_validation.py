"""``neuropipe pretrain`` with people held out: they are not learned from, and their losses are written."""

from __future__ import annotations

import copy

import pandas as pd
import yaml
from judged_study import CONFIG, write_study

from neuropipe.paths import Study
from neuropipe.stages import pretrain, split

RECIPE = {
    "family": "autoencoder",
    "model": {"n_samples": 12, "min_samples": 6, "embed_dim": 4, "depth": 1},
    "train": {"n_steps": 4, "batch_size": 8, "lr": 0.001, "log_every": 2, "validation": 0.2, "validate_every": 3}
    | {"mixture": "balanced"},
}


def test_who_is_held_out_is_not_learned_from_and_shows_the_loss(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    content = copy.deepcopy(CONFIG) | {"study": tmp_path.name}
    content["pretrain"] = {"tiny": {"datasets": ["toy"], "recipe": str(tmp_path / "tiny.yaml"), "splits": ["main"]}}
    config, study = write_study(tmp_path, config=content), Study(tmp_path)
    shards, sides = [study.shards("toy")], study.split("main")
    split.run(config=config, split="main", shards=shards, output=sides)
    output = study.model("tiny", 0) / "receipt.json"
    pretrain.run(config=config, recipe="tiny", seed=0, shards=shards, splits=[sides], threads=1, output=output)
    (folder,) = [path.parent for path in output.parent.rglob("model.safetensors")]
    learned = set(pd.read_parquet(folder / "people.parquet")["participant_id"])
    table = pd.read_parquet(sides / "splits.parquet")
    training = set(table[table["role"] == "train"]["participant_id"])
    assert learned < training and len(training - learned) == round(0.2 * len(training))
    curve = pd.read_parquet(folder / "metrics.parquet").set_index("step")
    assert curve["validation_loss"].dropna().index.tolist() == [3, 4]
    for part in ("loss", "error", "zero", "persistence", "ar1"):
        assert curve[f"validation_{part}_toy"].dropna().between(0.05, 2).all()
    assert curve["loss"].dropna().index.tolist() == [2, 4]
