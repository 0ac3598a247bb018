"""``neuropipe finetune`` on maps of anatomy, whole or in slices, and on stored slices: a planted effect is found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score
from test_anatomy_models import RECIPES
from volume_shards import write_volume_shards

from neuropipe.data.source import open_source
from neuropipe.errors import CheckpointError
from neuropipe.evaluate import tables
from neuropipe.hub import finetuned
from neuropipe.paths import Study
from neuropipe.shards.read import Shards
from neuropipe.stages import evaluate, finetune, pretrain, split

N_PEOPLE = 40
TUNE = {"n_steps": 50, "batch_size": 8, "lr": 0.01, "evaluate_every": 10, "n_clips": 3, "n_passes": 3}
TUNE |= {"from_scratch": False}
CONTENTS = {"whole": "volume", "slices": "volume", "stacks": "image"}


def cohort() -> tuple[pd.DataFrame, dict[tuple[str, str], np.ndarray]]:
    """People and maps in a box with an empty rim; patients lack tissue in one half, and one person has two scans."""
    rng = np.random.default_rng(0)
    people = pd.DataFrame({"participant_id": [f"sub-{k:02d}" for k in range(N_PEOPLE)], "site": "A", "sex": "F"})
    people["age"] = 20.0 + np.arange(N_PEOPLE)
    people["diagnosis"] = np.where(np.arange(N_PEOPLE) % 2, "patient", "control")
    maps = {}
    for k, row in people.iterrows():
        for session in range(1 + (k == 0)):
            values = np.zeros((14, 16, 14))
            values[2:-2, 2:-2, 2:-2] = rng.uniform(0.4, 1, (10, 12, 10))
            if row["diagnosis"] == "patient":
                values[2:7, 2:-2, 2:-2] *= 0.6
            maps[row["participant_id"], f"{row['participant_id']}_ses-{session + 1}"] = values
    return people, maps


def prepared(root, name: str):
    """Write shards, split and pretrained model of one recipe; return the configuration and the tree."""
    study, (people, maps) = Study(root), cohort()
    content = CONTENTS[name]
    if content == "image":
        maps = {key: np.moveaxis(values[:, :, 4:10], 2, 0) for key, values in maps.items()}  # (slice, row, column)
    write_volume_shards(root, maps, people, content=content)
    recipe = RECIPES["whole" if name == "whole" else "slices"]
    (root / "tiny.yaml").write_text(yaml.safe_dump(recipe | {"finetune": TUNE}))
    dataset = {"kind": "images" if content == "image" else "cat12", "path": "nowhere"}
    asked = {"datasets": ["vbm"], "split": "main"}
    config = {
        "study": "tiny",
        "datasets": {"vbm": dataset},
        "splits": {"main": {"scheme": "holdout", "test": 0.4, "stratify": ["diagnosis"]}},
        "tasks": {"diagnosis": {"target": "diagnosis", "kind": "binary", "positive": "patient"} | asked},
        "pretrain": {"tiny": {"datasets": ["vbm"], "recipe": str(root / "tiny.yaml"), "finetune": ["diagnosis"]}},
        "evaluate": {"bootstrap": 100, "permutations": 0},
    }
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    shards, output = [study.shards("vbm")], study.model("tiny", 0) / "receipt.json"
    split.run(config=path, split="main", shards=shards, output=study.split("main"))
    splits = [study.split("main")]
    pretrain.run(config=path, recipe="tiny", seed=0, shards=shards, splits=splits, threads=1, output=output)
    return path, study


def run(config, study):
    folder = study.task("diagnosis", "finetune/tiny_seed-0")
    models = study.model("tiny", 0) / "receipt.json"
    given = {"config": config, "task": "diagnosis", "recipe": "tiny", "seed": 0, "threads": 1, "output": folder}
    finetune.run(**given, shards=[study.shards("vbm")], split_dir=study.split("main"), models=models)
    return folder


@pytest.mark.parametrize("name", CONTENTS)
def test_a_planted_effect_is_found_and_the_folder_says_all_that_a_new_scan_needs(tmp_path, name):
    config, study = prepared(tmp_path / "tiny", name)
    folder = run(config, study)
    predictions = tables.read([folder / "predictions.parquet"], tables.PREDICTIONS, "predictions")
    own = predictions[predictions["system"] == "tiny"]
    assert roc_auc_score(own["y"], own["score"]) > 0.9
    assert len(own) == own["participant_id"].nunique() == 16
    saved = finetuned.load(study.finetuned("diagnosis", "tiny", 0) / "main" / "0")
    about = saved.about
    assert about["content"] == {"whole": "volume"}.get(name, "image")
    if name == "stacks":
        assert about["grid"] is None and about["map"] is None and about["slices"] is None
    else:
        assert about["grid"]["shape"] == [14, 16, 14] and about["map"] == "gm"
    assert (about["slices"] is not None) == (name == "slices") and about["volumes"]["scale"] == "none"
    source = open_source([Shards(study.shards("vbm"))], own[["dataset", "participant_id"]], slices=saved.slicing)
    scans = np.flatnonzero(source.table["participant_id"] == own["participant_id"].iloc[0])
    said = saved.predict([source.evaluation_batch(int(i), saved.spec, about["n_clips"]) for i in scans])
    assert said.logit == pytest.approx(own["logit"].iloc[0], abs=1e-5)
    evaluate.run(predictions=[folder / "predictions.parquet"], config=config, output=tmp_path / "metrics.parquet")
    check_rollouts(folder / "rollouts.npz", saved, source, own)


def check_rollouts(path, saved, source, own):
    """What is kept is the mean of the patients' own rollouts; whole maps have none."""
    assert path.exists() == hasattr(saved.network, "rollout")
    if not path.exists():
        return
    stored = np.load(path, allow_pickle=False)
    patients = set(own.loc[own["y"] == 1, "participant_id"])
    scans = np.flatnonzero(source.table["participant_id"].isin(patients))
    batches = [source.evaluation_batch(int(i), saved.spec, 5) for i in scans]
    expected = np.mean([saved.network.rollout(batch).numpy() for batch in batches], axis=0)
    assert stored["names"][0] == f"patient ({len(scans)} scans)"
    np.testing.assert_allclose(stored["maps"][0], expected, atol=1e-5)


def test_maps_of_another_tissue_than_the_pretrained_ones_are_refused(tmp_path):
    config, study = prepared(tmp_path / "tiny", "whole")
    content = yaml.safe_load(config.read_text())
    content["datasets"]["vbm"]["map"] = "wm"
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(CheckpointError, match=r"learned from maps gm, but the datasets hold wm"):
        run(config, study)
