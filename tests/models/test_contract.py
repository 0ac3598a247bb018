"""What the loop and the evaluation rely on, for every family that ships."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from neuropipe import models, recipes
from neuropipe.data.batch import Batch
from neuropipe.models.base import ClipSpec, Family, ModelConfig
from neuropipe.signals.regions import Regions
from neuropipe.train import recipe

N_PEOPLE = 4
# Fields of a second small model per family, for what its demo recipe leaves out.
OTHERS = {
    "semantoks": {
        "n_samples": 40,
        "patch_size": 10,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "branches": ({"kind": "dense", "out_channels": 8}, {"kind": "sgconv", "out_channels": 8, "kernel_size": 2}),
        "head_hidden_dim": 16,
        "head_dim": 8,
        "separate_mask_head": True,
        "drop_path_rate": 0.1,
    }
}


@cache
def configs() -> dict[str, tuple[str, ModelConfig]]:
    """Return small configs by test name: the family's demo recipe, and what `OTHERS` adds."""
    found = {}
    for family in models.names():
        demo = Path(recipes.__file__).parent / f"{family}-demo.yaml"
        if demo.is_file():
            found[f"{family}-demo"] = (family, recipe.read(demo).model_settings())
        if family in OTHERS:
            found[f"{family}-other"] = (family, models.load(family).Config.model_validate(OTHERS[family]))
        assert any(name.startswith(f"{family}-") for name in found), f"{family} has no recipe {demo.name}"
    return found


def regions() -> Regions:
    """Return 27 regions: an atlas of four networks whose regions alternate, and one without names."""
    named = Regions.plain("cortex", 24).table.assign(network=[f"net-{i % 4}" for i in range(24)])
    table = pd.concat([named, Regions.plain("deep", 3).table], ignore_index=True)
    return Regions(table.assign(index=range(27)))


def make(name: str, seed: int = 0) -> tuple[torch.nn.Module, ClipSpec]:
    """Return a freshly initialised model and how it wants its clips."""
    family, config = configs()[name]
    torch.manual_seed(seed)
    return models.load(family).Model(config, regions()), config.clips()


def batch(spec: ClipSpec, n_views: int = 1, seed: int = 0) -> Batch:
    """Return smooth z-scored series of `N_PEOPLE` people."""
    rng = np.random.default_rng(seed)
    series = rng.standard_normal((n_views * N_PEOPLE, spec.n_samples, len(regions()))).cumsum(1)
    series = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
    return Batch.of_series(torch.from_numpy(series).float(), n_views=n_views)


def loss_of(model: torch.nn.Module, spec: ClipSpec, seed: int) -> dict[str, torch.Tensor]:
    return model.loss(batch(spec, spec.n_views), torch.Generator().manual_seed(seed), progress=0.0)


@pytest.fixture(params=sorted(configs()))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_config_is_frozen_documented_and_survives_json(name: str) -> None:
    config = configs()[name][1]
    assert type(config).model_validate_json(config.model_dump_json()) == config
    undocumented = [field for field, info in type(config).model_fields.items() if not info.description]
    assert not undocumented
    with pytest.raises(ValidationError):
        type(config).model_validate({"no_such_field": 1})
    with pytest.raises(ValidationError):
        config.n_samples = 1


def test_keeps_the_protocol(name: str) -> None:
    model, spec = make(name)
    assert isinstance(model, Family)
    assert spec.n_samples > 0 and spec.n_views > 0


def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    model, spec = make(name)
    reached: set[str] = set()
    for seed in range(8):
        model.zero_grad()
        losses = loss_of(model, spec, seed)
        assert losses["loss"].shape == () and torch.isfinite(losses["loss"])
        assert not any(value.requires_grad for part, value in losses.items() if part != "loss")
        losses["loss"].backward()
        reached |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == reached


def test_loss_follows_the_generator_and_nothing_else(name: str) -> None:
    model, spec = make(name)
    torch.manual_seed(1)
    first = loss_of(model, spec, seed=3)
    torch.manual_seed(2)
    again, other = loss_of(model, spec, seed=3), loss_of(model, spec, seed=4)
    assert all(torch.equal(first[part], again[part]) for part in first)
    assert first.keys() == other.keys()
    assert not torch.equal(first["loss"], other["loss"])


def test_embedding_is_deterministic_and_of_each_clip_alone(name: str) -> None:
    model, spec = make(name)
    clips = batch(spec)
    out = model.embed(clips)
    assert out.shape == (N_PEOPLE, model.embed_dim) and torch.isfinite(out).all()
    assert torch.equal(out, model.embed(clips))
    torch.testing.assert_close(model.train().embed(clips), model.eval().embed(clips))
    alone = Batch.of_series(clips.series[1:2])
    torch.testing.assert_close(out[1:2], model.embed(alone), rtol=1e-4, atol=1e-5)
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_embedding_ignores_padding(name: str) -> None:
    """A clip cut short gives the same features however far it is padded, and with whatever."""
    model, spec = make(name)
    clips = batch(spec)
    kept = spec.n_samples * 2 // 3
    valid = (torch.arange(spec.n_samples) < kept).expand(N_PEOPLE, -1)
    short = model.embed(replace(clips, valid_time=valid))
    longer = torch.cat([clips.series[:, :kept], torch.full((N_PEOPLE, spec.n_samples, len(regions())), 9.0)], dim=1)
    padded = Batch.of_series(longer)
    padded = replace(padded, valid_time=(torch.arange(longer.shape[1]) < kept).expand(N_PEOPLE, -1))
    torch.testing.assert_close(model.embed(padded), short, rtol=1e-4, atol=1e-5)
    assert (short - model.embed(clips)).abs().max() > 1e-3


@pytest.mark.parametrize("missing", [[2, 7], list(range(0, 24, 4)), [24, 25, 26]], ids=["some", "network", "atlas"])
def test_embedding_and_loss_ignore_missing_regions(name: str, missing: list[int]) -> None:
    model, spec = make(name)
    results = []
    for filler in (0.0, 7.0, float("nan")):
        clips = batch(spec, spec.n_views)
        valid = clips.valid_region.clone()
        valid[:, missing] = False
        series = clips.series.clone()
        series[:, :, missing] = filler
        clips = replace(clips, series=series, valid_region=valid)
        losses = model.loss(clips, torch.Generator().manual_seed(0), progress=0.0)
        results.append((model.embed(clips), losses["loss"]))
    for embedding, loss in results[1:]:
        assert torch.equal(embedding, results[0][0]) and torch.equal(loss, results[0][1])
    assert torch.isfinite(results[0][1])


def test_weights_survive_safetensors(name: str, tmp_path: Path) -> None:
    model, spec = make(name)
    other, _ = make(name, seed=1)
    clips = batch(spec)
    assert not torch.equal(model.embed(clips), other.embed(clips))
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(model.embed(clips), other.embed(clips))


def test_a_step_moves_what_is_trained_and_after_it_the_rest(name: str) -> None:
    """The loop's order: loss, backward, step, `after_step`; nothing but the optimiser moves trained parameters."""
    model, spec = make(name)
    if not hasattr(model, "after_step"):
        pytest.skip("this family has no after_step")
    loss_of(model, spec, 0)["loss"].backward()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.after_step(0.0)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and not any(p.requires_grad for n, p in model.named_parameters() if n in moved)


def test_param_groups_hold_every_trained_parameter_once(name: str) -> None:
    model, _ = make(name)
    if not hasattr(model, "param_groups"):
        pytest.skip("this family has no param_groups")
    groups = model.param_groups(weight_decay=0.1, layer_decay=0.5)
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters() if p.requires_grad}
    assert all(group["weight_decay"] == 0.1 * group["weight_decay_scale"] for group in groups)
    assert len({group["lr_scale"] for group in groups}) > 1
