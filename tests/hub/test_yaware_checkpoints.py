"""Released checkpoints of y-Aware: every layout that is met in the wild loads, every other is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neuropipe.errors import CheckpointError
from neuropipe.hub.layouts import yaware as layout
from neuropipe.hub.published import published
from neuropipe.models.yaware import Classifier, Config, Model, Segmenter

CONFIG = Config(
    growth_rate=4, block_config=(2, 1), n_init_features=8, bn_size=2, head_hidden_dim=16, head_dim=8, unet_width=2
)


def released(module: nn.Module) -> dict[str, Tensor]:
    """Return random weights of `module` under their released keys."""
    rng = torch.Generator().manual_seed(7)
    own, found = module.state_dict(), {}
    for entry in layout.entries(module):
        like = own[entry.name]
        found[entry.key] = torch.rand(like.shape, generator=rng) if like.is_floating_point() else like.clone()
    return found


def written(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth"


def holds(module: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Return whether every tensor of `module` is the released one."""
    own = module.state_dict()
    return all(torch.equal(own[entry.name], weights[entry.key]) for entry in layout.entries(module))


def test_keys_are_the_released_ones():
    keys = [entry.key for entry in layout.entries(Model(CONFIG))]
    assert {
        "features.conv0.weight",
        "features.norm0.running_var",
        "features.denseblock1.denselayer2.norm1.num_batches_tracked",
        "features.denseblock2.denselayer1.conv2.weight",
        "features.transition1.conv.weight",
        "hidden_representation.weight",
        "head_projection.bias",
    } <= set(keys)
    with torch.device("meta"):
        assert len(list(layout.entries(Model(Config())))) == 724
        assert len(list(layout.entries(Classifier(Config(final_norm=True), 2)))) == 727
        unet = Config(backbone="unet")
        assert len(list(layout.entries(Model(unet)))) == 74
        assert len(list(layout.entries(Segmenter(unet, 2)))) == 136


@pytest.mark.parametrize("layers", ["training", "state_dict", "bare", "wrapped twice"])
def test_every_layout_loads_with_a_report_of_every_key(tmp_path, layers):
    weights = released(Model(CONFIG))
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}}
    content = {
        "training": {
            "epoch": 30,
            "model": {f"module.{key}": value for key, value in weights.items()},
            "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        },
        "state_dict": {"state_dict": weights},
        "bare": weights,
        "wrapped twice": {"model": {f"module.module.{key}": value for key, value in weights.items()}},
    }[layers]
    model = published("yaware", written(tmp_path, content), config=CONFIG)
    assert not model.training and holds(model, weights)
    assert {fate.key for fate in model.load_report} == set(weights)
    assert {fate.became for fate in model.load_report} == set(model.state_dict())


def test_counters_and_the_whole_head_may_be_absent(tmp_path):
    whole = released(Model(CONFIG))
    backbone = {key: value for key, value in whole.items() if key.startswith("features.")}
    weights = {key: value for key, value in backbone.items() if not key.endswith("num_batches_tracked")}
    model = published("yaware", written(tmp_path, {"model": weights}), config=CONFIG)
    assert {fate.key for fate in model.load_report if fate.became == "absent"} == set(whole) - set(weights)
    own = model.state_dict()
    assert all(torch.equal(own[e.name], whole[e.key]) for e in layout.entries(model) if e.key in weights)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("features.denseblock2.denselayer1.norm1.running_mean", "lacks 1 key"),
        ("head_projection.weight", "lacks 1 key"),
        ("features.conv0.weight", "lacks 1 key"),
    ],
)
def test_a_missing_weight_is_an_error(lost, message):
    weights = released(Model(CONFIG))
    del weights[lost]
    with pytest.raises(CheckpointError, match=f"{message}.*{lost}"):
        published("yaware", weights, config=CONFIG)


def test_unknown_keys_and_other_shapes_are_errors():
    weights = released(Model(CONFIG))
    with pytest.raises(CheckpointError, match=r"1 unknown key\(s\): features\.denseblock3"):
        published("yaware", {**weights, "features.denseblock3.x": torch.zeros(1)}, config=CONFIG)
    with pytest.raises(
        CheckpointError, match=r"conv0\.weight: expected shape \(8, 1, 7, 7, 7\), found \(8, 2, 7, 7, 7\)"
    ):
        published("yaware", {**weights, "features.conv0.weight": torch.zeros(8, 2, 7, 7, 7)}, config=CONFIG)


def test_a_pickled_module_is_not_executed(tmp_path):
    with pytest.raises(CheckpointError, match="nothing but tensors and plain containers"):
        published("yaware", written(tmp_path, Model(CONFIG)), config=CONFIG)


UNET = CONFIG.model_copy(update={"backbone": "unet"})


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Model(UNET), None),
        (Classifier(CONFIG.model_copy(update={"final_norm": True}), 3), (2, 3)),
        (Classifier(UNET, 2, hidden_dim=12, activate_output=True), (2, 2)),
        (Segmenter(UNET, 4), (2, 4, 16, 32, 16)),
    ],
    ids=["unet", "densenet-classifier", "unet-classifier", "segmenter"],
)
def test_the_keys_tell_what_was_saved(module, shape):
    weights = released(module)
    found = published("yaware", weights, config=CONFIG)
    assert type(found) is type(module) and holds(found, weights)
    if shape is not None:
        assert found(torch.rand(2, 1, 16, 32, 16)).shape == shape
