"""Training and embedding on maps of anatomy, whole or in slices: resumed exactly, and refused where they must be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from anatomy_study import RECIPES, TRAIN, embedded, train, write_config, write_study
from volume_shards import toy_people

from neuropipe.data.source import open_source
from neuropipe.errors import CheckpointError, ConfigError, InputError
from neuropipe.hub import export
from neuropipe.paths import Study
from neuropipe.provenance import read_json, write_json
from neuropipe.shards.read import Shards
from neuropipe.stages import pretrain
from neuropipe.train import checkpoint, loop, optim
from neuropipe.train import recipe as recipes


@pytest.fixture
def study(tmp_path) -> Path:
    return write_study(tmp_path)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_training_side_is_learned_from_and_everyone_embedded(study, recipe):
    folder = train(study, recipe)
    about = read_json(folder / "config.json")
    assert about["content"] == {"whole": "volume", "slices": "image"}[recipe]
    assert about["grid"]["shape"] == [10, 12, 9] and about["grid"]["space"] == "MNI152NLin2009cAsym"
    assert about["map"] == "gm" and about["volumes"]["scale"] == "none"
    assert about["slices"] == RECIPES[recipe].get("slices")
    assert about["training"]["n_people"] == 6 and about["training"]["n_recordings"] == 8
    assert not (folder / "regions.tsv").exists() and "region_order_hash" not in about
    assert set(pd.read_parquet(folder / "people.parquet")["participant_id"]) == {f"sub-{k:02d}" for k in range(6)}
    tables = embedded(study, recipe)
    assert tables["trained"]["n_recordings"].tolist() == [2, 2, 1, 1, 1, 1, 1, 1]
    values = tables["trained"].filter(regex=r"^e\d").to_numpy()
    assert np.isfinite(values).all() and (values.std(0) > 0).any()
    assert not np.allclose(values, tables["random"].filter(regex=r"^e\d").to_numpy())


def test_slices_are_averaged_to_scans_and_scans_to_persons(study):
    folder = train(study, "slices")
    table = embedded(study, "slices")["trained"]
    saved = export.load(folder)
    source = open_source([Shards(Study(study).shards("vbm"))], slices=saved.slicing)
    scans = source.of_person[0]
    assert len(scans) == 2
    with torch.no_grad():
        slices = [source.evaluation_batch(i, saved.model.config.reads(), 3) for i in scans]
        expected = torch.stack([saved.model.embed(batch).mean(0) for batch in slices]).mean(0)
    np.testing.assert_allclose(table.filter(regex=r"^e\d").iloc[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("residence", ["device", "mapped"])
def test_killed_and_resumed_equals_uninterrupted_wherever_maps_lie(study, monkeypatch, recipe, residence):
    whole = export.load(train(study, recipe)).model.state_dict()
    shutil.rmtree(Study(study).model(recipe, 0))
    content = RECIPES[recipe] | {"train": TRAIN | {"residence": residence}}
    (study / f"{recipe}.yaml").write_text(yaml.safe_dump(content))
    original = optim.set_schedules

    def dies(optimizer, chosen, step):
        if step == 3:
            raise KeyboardInterrupt
        return original(optimizer, chosen, step)

    monkeypatch.setattr(optim, "set_schedules", dies)
    with pytest.raises(KeyboardInterrupt):
        train(study, recipe)
    monkeypatch.setattr(optim, "set_schedules", original)
    assert checkpoint.latest(Study(study).model(recipe, 0) / "main/0/checkpoints")["step"] == 2
    resumed = export.load(train(study, recipe)).model.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def trainings(monkeypatch) -> list[str]:
    """Return a list that grows by one with every training."""
    begun, original = [], loop.train
    monkeypatch.setattr(loop, "train", lambda *args, **kw: begun.append(kw["identity"]) or original(*args, **kw))
    return begun


def test_what_is_trained_again_and_what_is_not(study, monkeypatch):
    begun = trainings(monkeypatch)
    train(study, "whole")
    train(study, "whole")
    assert len(begun) == 1
    path = Study(study).participants("vbm")
    toy_people().assign(site="C").to_csv(path, sep="\t", index=False, na_rep="n/a")  # no label of the recipe
    train(study, "whole")
    assert len(begun) == 1
    people = toy_people()
    people.loc[3, "age"] = 33.0  # a corrected age changes the loss
    people.to_csv(path, sep="\t", index=False, na_rep="n/a")
    train(study, "whole")
    assert len(set(begun)) == 2


def test_where_and_how_a_training_runs_trains_nothing_anew(study, monkeypatch):
    begun = trainings(monkeypatch)
    train(study, "whole")
    elsewhere = TRAIN | {"residence": "mapped", "log_every": 3, "checkpoint_every": 5}
    (study / "whole.yaml").write_text(yaml.safe_dump(RECIPES["whole"] | {"train": elsewhere}))
    train(study, "whole")
    assert len(begun) == 1
    path = Study(study).model("whole", 0) / "main/0/config.json"
    path.unlink()  # as if it had been killed
    train(study, "whole")
    assert len(begun) == 2 and len(set(begun)) == 1, "its checkpoints would not be gone on from"


def test_maps_of_another_grid_or_tissue_are_refused(study):
    train(study, "whole")
    write_config(study, map="wm")
    with pytest.raises(CheckpointError, match=r"learned from maps gm, but the datasets hold wm"):
        embedded(study, "whole")
    write_config(study)
    grid = Study(study).shards("vbm") / "grid.json"
    write_json(grid, read_json(grid) | {"space": "MNI152NLin6Asym"})
    with pytest.raises(InputError, match=r"expected voxels of MNI152NLin2009cAsym.*found MNI152NLin6Asym"):
        embedded(study, "whole")


def test_a_recipe_without_slices_gets_the_defaults_and_others_may_not_have_them(tmp_path):
    plain = {key: value for key, value in RECIPES["slices"].items() if key != "slices"}
    for name, content in {"plain": plain, "wrong": RECIPES["whole"] | {"slices": {}}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    chosen = recipes.read(tmp_path / "plain.yaml")
    assert chosen.slicing(chosen.model_settings().reads()).plane == "axial"
    with pytest.raises(ConfigError, match="slices is for families that read image, but yaware reads volume"):
        recipes.read(tmp_path / "wrong.yaml")
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(plain | {"n_networks": 7}))
    with pytest.raises(ConfigError, match="n_networks is for families that read series"):
        recipes.read(tmp_path / "wrong.yaml")
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(plain | {"slices": {"plain": "axial"}}))
    with pytest.raises(ConfigError, match=r"slices.plain: unknown key; found 'plain', did you mean 'plane'\?"):
        recipes.read(tmp_path / "wrong.yaml")


def test_a_family_that_reads_volumes_is_refused_where_shards_hold_series(study, toy_shards):
    recipe, facts = study / "whole.yaml", {"sites": {}, "same_people": {}}
    with pytest.raises(InputError, match="the family reads volumes, but the shards of toy hold series"):
        pretrain._train(pretrain.Run("main/0", None, []), study, recipe, 0, [toy_shards.folder], facts, "cpu")
