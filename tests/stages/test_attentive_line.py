"""The attentive readout from models to predictions: tokens are kept where a study asks for them."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import yaml
from judged_study import CONFIG, write_study

from neuropipe.data.source import open_source
from neuropipe.evaluate import tables
from neuropipe.hub import export
from neuropipe.paths import Study
from neuropipe.shards.read import Shards
from neuropipe.stages import embed, pretrain, probe, split

SEMANTOKS = {
    "family": "semantoks",
    "n_networks": 4,
    "model": {"n_samples": 60, "patch_size": 20, "embed_dim": 8, "depth": 1, "num_heads": 2}
    | {"branches": [{"kind": "dense", "out_channels": 8}], "head_hidden_dim": 8, "head_dim": 8},
    "train": {"n_steps": 2, "batch_size": 8, "lr": 0.001},
    "n_clips": 2,
}
TOY = {"family": "toys.correlations", "train": {"n_steps": 2, "batch_size": 8, "lr": 0.001}, "n_clips": 2}


def embedded(root, recipe, readouts):
    content = copy.deepcopy(CONFIG) | {"study": root.name}
    content["evaluate"] = content["evaluate"] | {"readouts": readouts, "permutations": 4}
    content["pretrain"] = {"tiny": {"datasets": ["toy"], "recipe": str(root / "tiny.yaml"), "splits": ["main"]}}
    root.mkdir(parents=True)
    (root / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    config, study = write_study(root, config=content), Study(root)
    shards, receipt = [study.shards("toy")], study.model("tiny", 0) / "receipt.json"
    split.run(config=config, split="main", shards=shards, output=study.split("main"))
    of = {"config": config, "shards": shards, "threads": 1}
    pretrain.run(**of, recipe="tiny", seed=0, splits=[study.split("main")], output=receipt)
    embed.run(**of, models=receipt, output=study.embeddings("tiny", 0) / "receipt.json")
    return config, study


def answered(config, study) -> pd.DataFrame:
    folder = study.task("diagnosis", "probe")
    probe.run(
        config=config,
        task="diagnosis",
        split_dir=study.split("main"),
        embeddings=[study.embeddings("tiny", 0)],
        shards=[study.shards("toy")],
        output=folder,
    )
    return tables.read([folder / "predictions.parquet"], tables.PREDICTIONS, "predictions")


def test_tokens_are_kept_and_read_beside_the_linear_readout(tmp_path):
    config, study = embedded(tmp_path / "s", SEMANTOKS, ["linear", "attentive"])
    folder = study.embeddings("tiny", 0) / "main" / "0"
    people = pd.read_parquet(folder / "trained.parquet")
    tokens = np.load(folder / "trained-tokens.npy")
    assert tokens.shape == (60, 4 * 3, 8) and np.isfinite(tokens).all()
    assert (folder / "random-tokens.npy").is_file()
    mean = people.filter(regex=r"^e[0-7]$").to_numpy()  # cls_avg begins with the mean of the tokens
    np.testing.assert_allclose(tokens.mean(1), mean, atol=2e-3)
    predictions = answered(config, study)
    assert sorted(predictions["readout"].unique()) == ["attentive", "logistic"]
    for _, rows in predictions.groupby("readout"):
        assert len(rows) == 24 and rows["score"].between(0, 1).all()
        assert rows["checkpoint_sha256"].notna().all()
    nulls = tables.read([study.task("diagnosis", "probe") / "nulls.parquet"], tables.NULLS, "nulls")
    assert set(nulls["run_id"]) == set(predictions["run_id"])


def test_recordings_of_a_person_weigh_the_same(tmp_path):
    _, study = embedded(tmp_path / "s", SEMANTOKS, ["attentive"])
    saved = export.load(study.model("tiny", 0) / "main" / "0")
    source = open_source([Shards(study.shards("toy"))])
    rows = np.flatnonzero(source.table["participant_id"] == "sub-0000")
    assert len(rows) == 2
    clips = [saved.model.tokens(source.evaluation_batch(int(i), saved.model.config.reads(), 2))[0] for i in rows]
    expected = np.mean([one.detach().numpy().mean(0) for one in clips], axis=0)
    kept = np.load(study.embeddings("tiny", 0) / "main" / "0" / "trained-tokens.npy")[0]
    np.testing.assert_allclose(kept, expected, atol=2e-3)


@pytest.mark.parametrize(("recipe", "readouts"), [(TOY, ["linear", "attentive"]), (SEMANTOKS, ["linear"])])
def test_without_tokens_or_the_wish_for_them_there_is_the_linear_readout_alone(tmp_path, recipe, readouts):
    config, study = embedded(tmp_path / "s", recipe, readouts)
    assert not list(study.embeddings("tiny", 0).rglob("*.npy"))
    assert answered(config, study)["readout"].unique().tolist() == ["logistic"]
