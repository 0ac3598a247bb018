"""Released checkpoints become models of ours, by command and as a pretraining without training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from anatomy_study import RECIPES, embedded, train, write_config, write_study

from neuropipe import config as configuration
from neuropipe import recipes
from neuropipe.data.batch import Batch
from neuropipe.errors import CheckpointError, ConfigError
from neuropipe.hub import export
from neuropipe.hub.layouts import multiscale_vit, yaware
from neuropipe.models import multiscale_vit as vit
from neuropipe.models import yaware as dense
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.stages import import_weights
from neuropipe.train import recipe


def released(module: torch.nn.Module, layout) -> dict[str, torch.Tensor]:
    """Return random weights of `module` under their released keys, with the prefix of DataParallel."""
    rng, own = torch.Generator().manual_seed(7), module.state_dict()
    floats = {e: own[e.name] for e in layout.entries(module) if not e.key.startswith("neuropipe.")}
    return {
        f"module.{e.key}": torch.rand(like.shape, generator=rng) if like.is_floating_point() else like.clone()
        for e, like in floats.items()
    }


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """A study with files of both systems as they are released: y-Aware's encoder, NeuroSSL's classifier."""
    study = write_study(tmp_path)
    for name, content in RECIPES.items():
        config = recipe.Recipe.model_validate(content).model_settings()
        module = (
            dense.Model(config) if name == "whole" else vit.Classifier(config.model_copy(update={"covariance": "full"}))
        )
        section, layout = ("model", yaware) if name == "whole" else ("model_state", multiscale_vit)
        moments = {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
        torch.save({"epoch": 30, section: released(module, layout), "optimizer": moments}, study / f"{name}.pt")
    content = RECIPES["slices"] | {"model": RECIPES["slices"]["model"] | {"covariance": "full"}}
    (study / "slices.yaml").write_text(yaml.safe_dump(content))
    return study


@pytest.mark.parametrize(("name", "family"), [("whole", "yaware"), ("slices", "multiscale_vit")])
def test_the_encoder_is_taken_over_with_a_report_of_every_key(checkpoints, tmp_path, name, family):
    path, layout = checkpoints / f"{name}.pt", {"yaware": yaware, "multiscale_vit": multiscale_vit}[family]
    import_weights.run(
        checkpoint=str(path),
        family=family,
        recipe=checkpoints / f"{name}.yaml",
        regions=None,
        output=tmp_path / "model",
    )
    saved = export.load(tmp_path / "model")
    keys = pd.read_csv(tmp_path / "model" / "keys.tsv", sep="\t")
    weights = torch.load(path, weights_only=True)[layout.SECTION]
    assert set(keys["key"]) >= {key.removeprefix("module.") for key in weights}
    own = saved.model.state_dict()
    for key, became in keys[keys["became"].isin(own)][["key", "became"]].itertuples(index=False):
        assert torch.equal(own[became], weights[f"module.{key}"])
    part = "backbone." if family == "yaware" else "encoder."
    assert set(keys["became"]) >= {name for name in own if name.startswith(part)}
    set_aside = keys.loc[keys["became"] == "set aside", "key"]
    assert list(set_aside.str.startswith(("cov_proj", "head", "encoder.scale_fusion"))) == [True] * len(set_aside)
    assert len(set_aside) == (0 if family == "yaware" else 12)
    assert saved.about["origin"] == str(path) and saved.about["training"]["mode"] == "external"


def test_the_same_numbers_come_out_as_of_the_released_classifier(checkpoints, tmp_path):
    from neuropipe.hub.published import published

    config = recipe.read(checkpoints / "slices.yaml").model_settings()
    classifier = published("multiscale_vit", checkpoints / "slices.pt", config=config)
    import_weights.take(
        str(checkpoints / "slices.pt"), "multiscale_vit", tmp_path / "model", recipe.read(checkpoints / "slices.yaml")
    )
    batch = Batch.of_images(torch.rand(3, 1, 16, 16))
    with torch.no_grad():
        torch.testing.assert_close(export.load(tmp_path / "model").model.embed(batch), classifier.embed(batch))


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_study_embeds_with_released_weights_and_trains_nothing(checkpoints, name):
    write_config(checkpoints, pretrain={name: {"people": "external", "checkpoint": str(checkpoints / f"{name}.pt")}})
    folder = train(checkpoints, name).parents[1] / "external"
    assert not (folder / "checkpoints").exists() and len(pd.read_parquet(folder / "people.parquet")) == 0
    before = (folder / "config.json").stat().st_mtime_ns
    train(checkpoints, name)
    assert (folder / "config.json").stat().st_mtime_ns == before
    tables = embedded(checkpoints, name, "external")
    values = [table.filter(regex=r"^e\d").to_numpy() for table in tables.values()]
    assert values[0].shape[0] == 8 and np.isfinite(values[0]).all() and not np.allclose(*values)
    receipt = read_json(Study(checkpoints).embeddings(name, 0) / "receipt.json")
    assert receipt["checkpoints"][0]["people"] == [] and receipt["checkpoints"][0]["mode"] == "external"


def test_released_weights_are_external_and_have_one_seed(checkpoints):
    for wish in ({"people": "train_side"}, {"people": "external", "seeds": [0, 1]}):
        write_config(checkpoints, pretrain={"whole": {"checkpoint": "x.pt", **wish}})
        with pytest.raises(ConfigError, match=r"pretrain.whole: with checkpoint nothing is trained"):
            configuration.load(checkpoints / "config.yaml")


def test_weights_of_other_sizes_are_refused(checkpoints, tmp_path):
    other = RECIPES["whole"] | {"model": RECIPES["whole"]["model"] | {"n_init_features": 8}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(CheckpointError, match=r"features.conv0.weight: expected shape \(8, 1, 7, 7, 7\)"):
        import_weights.take(
            str(checkpoints / "whole.pt"), "yaware", tmp_path / "model", recipe.read(tmp_path / "other.yaml")
        )
    assert not (tmp_path / "model" / "config.json").exists()


@pytest.mark.parametrize(("name", "family"), [("yaware", dense), ("multiscale-vit", vit)])
def test_the_recipes_of_released_weights_are_the_published_settings(name, family):
    path = recipes.__path__[0] + f"/{name}-released.yaml"
    assert recipe.read(path).model_settings() == family.Config.published()


@pytest.mark.slow
def test_the_command_takes_a_name_of_the_hub_from_its_cache(checkpoints, tmp_path):
    pytest.importorskip("huggingface_hub")
    repository, commit = tmp_path / "cache" / "models--lab--weights", "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "whole.pt").write_bytes((checkpoints / "whole.pt").read_bytes())
    command = [sys.executable, "-m", "neuropipe.cli", "import", "hf:lab/weights", "--family", "yaware"]
    command += ["--recipe", str(checkpoints / "whole.yaml"), "--output", str(tmp_path / "model")]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert export.load(tmp_path / "model").about["origin"] == "hf:lab/weights"
