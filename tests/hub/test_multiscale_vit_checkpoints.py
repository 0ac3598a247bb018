"""Released checkpoints of NeuroSSL: every layout that is met in the wild loads, every other is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neuropipe.errors import CheckpointError
from neuropipe.hub.layouts import multiscale_vit as layout
from neuropipe.hub.published import published
from neuropipe.models.multiscale_vit import Classifier, Config

SMALL = {"img_size": (16, 24), "patch_size": (8, 8), "embed_dim": 8, "num_heads": 2}
CONFIG = Config.model_validate(Config.published().model_dump() | SMALL)


def released(module: Classifier) -> dict[str, Tensor]:
    """Return random weights of `module` under their released keys."""
    rng = torch.Generator().manual_seed(7)
    own = module.state_dict()
    return {e.key: torch.rand(own[e.name].shape, generator=rng) for e in layout.entries(module) if not e.optional}


def written(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "checkpoint_best.pt")
    return tmp_path / "checkpoint_best.pt"


def holds(module: Classifier, weights: dict[str, Tensor]) -> bool:
    """Return whether every tensor of `module` is the released one."""
    own = module.state_dict()
    return all(torch.equal(own[e.name], weights[e.key]) for e in layout.entries(module) if not e.optional)


@pytest.mark.parametrize("how", ["training", "state_dict", "bare", "wrapped twice", "nested"])
def test_every_layout_loads_with_a_report_of_every_key(tmp_path, how):
    weights = released(Classifier(CONFIG))
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}}
    content = {
        "training": {
            "epoch": 20,
            "model_state": {f"module.{key}": value for key, value in weights.items()},
            "optimizer_state": {"state": moments, "param_groups": [{"lr": 1e-4, "params": [0]}]},
            "metrics": {"auc": [0.5, 0.6]},
        },
        "state_dict": {"state_dict": weights},
        "bare": weights,
        "wrapped twice": {"model_state": {f"module.module.{key}": value for key, value in weights.items()}},
        "nested": {"model_state": {"state_dict": weights}},
    }[how]
    model = published("multiscale_vit", written(tmp_path, content), config=CONFIG)
    assert holds(model, weights)
    assert {fate.key for fate in model.load_report if fate.became != "absent"} == set(weights)
    assert {e.key for e in layout.entries(model) if e.optional} == {f.key for f in model.load_report} - set(weights)
    assert model.head.temperature == pytest.approx(1.6995)


def test_moments_are_not_read_into_memory(tmp_path, monkeypatch):
    weights = released(Classifier(CONFIG))
    path = written(tmp_path, {"model_state": weights, "optimizer_state": {"exp_avg": torch.zeros(1000)}})
    asked = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: asked.append(kwargs) or load(*args, **kwargs))
    published("multiscale_vit", path, config=CONFIG)
    assert asked == [{"map_location": "cpu", "weights_only": True, "mmap": True}]


def test_keys_tell_classes_and_whether_there_is_a_covariance():
    module = Classifier(CONFIG.model_copy(update={"covariance": "none"}), n_classes=3)
    weights = released(module)
    assert not any(key.startswith("cov_proj") for key in weights)
    model = published("multiscale_vit", weights, config=CONFIG)
    assert holds(model, weights)
    assert model(torch.rand(2, 1, 16, 24)).shape == (2, 3)


@pytest.mark.parametrize("lost", ["encoder.cls_token", "encoder.scale_fusion.0.bias", "cov_proj.3.weight"])
def test_a_missing_weight_is_an_error(lost):
    weights = released(Classifier(CONFIG))
    del weights[lost]
    with pytest.raises(CheckpointError, match=f"lacks 1 key.*{lost}"):
        published("multiscale_vit", weights, config=CONFIG)


def test_an_encoder_alone_unknown_keys_and_other_shapes_are_errors():
    weights = released(Classifier(CONFIG))
    with pytest.raises(CheckpointError, match="expected a whole classifier"):
        published("multiscale_vit", {k: v for k, v in weights.items() if k.startswith("encoder.")}, config=CONFIG)
    with pytest.raises(CheckpointError, match=r"1 unknown key\(s\): encoder\.blocks\.12"):
        published("multiscale_vit", {**weights, "encoder.blocks.12.x": torch.zeros(1)}, config=CONFIG)
    with pytest.raises(CheckpointError, match=r"pos_embed: expected shape \(1, 7, 8\), found \(1, 5, 8\)"):
        published("multiscale_vit", {**weights, "encoder.pos_embed": torch.zeros(1, 5, 8)}, config=CONFIG)


class Trap:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_a_pickle_that_runs_code_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, {"model_state": released(Classifier(CONFIG)), "config": Trap()})
    with pytest.raises(CheckpointError, match="nothing but tensors and plain containers"):
        published("multiscale_vit", path, config=CONFIG)
    assert not Path("sprung").exists()
    pickle.loads(pickle.dumps(Trap()))
    assert Path("sprung").exists()  # the trap works
