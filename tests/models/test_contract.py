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
VOLUME, IMAGE = (32, 36, 32), (48, 40)  # for families that take any size
# Fields of a second small model per family, for what its demo recipe leaves out.
TABLES = {
    "min_samples": 6,
    "n_samples": 12,
    "draw_longest": False,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "projection_layers": 2,
    "reconstruction_layers": 2,
    "attn_drop_rate": 0.1,
    "time_embedding": "table",
    "time_span_s": 60,
    "n_positions": 30,
}
OTHERS = {
    "csm": TABLES | {"objective": "single", "feature": "cls"},
    "sequence_bert": TABLES | {"cls_place": "last", "negatives": "any", "mask_share": 0.4},
    "network_bert": TABLES | {"cls_place": "last", "at_least_one": False, "mask_share": 0.3, "feature": "mean"},
    "autoencoder": {
        "n_samples": 12,
        "min_samples": 6,
        "embed_dim": 8,
        "depth": 3,
        "projection_layers": 2,
        "reconstruction_layers": 2,
        "time_embedding": "table",
        "time_span_s": 60,
    },
    "linear_baseline": {"n_samples": 12, "align": "start"},
    "neuroclr": {
        "variant": "published",
        "n_samples": 32,
        "positives": "copies",
        "num_heads": 2,
        "negatives": "everyone",
        "head_hidden_dim": 16,
        "head_dim": 8,
        "head": {"base_filters": 8, "kernel_size": 4, "groups": 2, "n_block": 3},
    },
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
    },
    "yaware": {
        "backbone": "unet",
        "unet_width": 4,
        "unet_depth": 3,
        "input_shape": (20, 24, 20),
        "augmentation": {"flip": 0.5, "rotation": 0.5, "blur": 0.5, "noise": 0.5, "cutout": 0.5, "crop": 0.5},
        "feature": "grid",
        "head_hidden_dim": 16,
        "head_dim": 8,
        "proxies": ({"column": "age"}, {"column": "sex", "kernel": "category"}),
        "negatives": "softened",
    },
    "multiscale_vit": {
        "img_size": (30, 41),
        "patch_size": (6, 8),
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 2,
        "drop_rate": 0.1,
        "drop_path_rate": 0.1,
        "scale_layers": (0, 2),
        "positions": "twice",
        "zscore": "image",
        "decoder_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 1,
    },
}


@cache
def configs() -> dict[str, tuple[str, ModelConfig]]:
    """Return small configs by test name: the family's demo recipe, and what `OTHERS` adds."""
    found = {}
    for family in models.names():
        demo = Path(recipes.__file__).parent / f"{family.replace('_', '-')}-demo.yaml"
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


def make(name: str, seed: int = 0) -> tuple[torch.nn.Module, ModelConfig]:
    """Return a freshly initialised model and its config."""
    family, config = configs()[name]
    torch.manual_seed(seed)
    return models.load(family).Model(config, regions()), config


def smooth(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return noise of `shape` (batch, 1, ...) that changes slowly along every spatial axis, per row of variance 1."""
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))
    for axis in range(2, noise.dim()):
        noise = (noise + noise.roll(1, axis) + noise.roll(2, axis)) / 3**0.5
    return noise.float()


def known(config: ModelConfig, n_rows: int, n_views: int) -> dict[str, torch.Tensor]:
    """Return the labels that the loss reads; the last person's are unknown."""
    person = torch.arange(n_rows) % (n_rows // n_views)
    last = person == person.max()
    values = {
        "number": (30.0 + 7 * person).masked_fill(last, torch.nan),
        "category": (person % 2).masked_fill(last, -1),
    }
    return {column: values[kind] for column, kind in config.labels().items()}


def batch(config: ModelConfig, n_views: int = 1, seed: int = 0) -> Batch:
    """Return what the family reads, of `N_PEOPLE` people: z-scored series, smooth volumes or images."""
    spec, n_rows = config.reads(), n_views * N_PEOPLE
    labels = known(config, n_rows, n_views)
    if spec.content == "volume":
        return Batch.of_volumes(smooth((n_rows, 1, *(spec.shape or VOLUME)), seed), labels, n_views)
    if spec.content == "image":
        return Batch.of_images(smooth((n_rows, 1, *(spec.shape or IMAGE)), seed), labels, n_views)
    rng = np.random.default_rng(seed)
    series = rng.standard_normal((n_rows, spec.n_samples, len(regions()))).cumsum(1)
    series = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
    return replace(Batch.of_series(torch.from_numpy(series).float(), n_views=n_views), labels=labels)


def loss_of(model: torch.nn.Module, config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    return model.loss(batch(config, config.reads().n_views), torch.Generator().manual_seed(seed), progress=0.0)


def clip_length(config: ModelConfig) -> int:
    """Return the length of a clip; skip where the family reads no series: only they have padding and gaps."""
    if not isinstance(config.reads(), ClipSpec):
        pytest.skip("this family does not read series")
    return config.reads().n_samples


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
        setattr(config, next(iter(type(config).model_fields)), None)


def test_keeps_the_protocol(name: str) -> None:
    model, config = make(name)
    assert isinstance(model, Family)
    assert config.reads().n_views > 0
    assert set(config.labels().values()) <= {"number", "category"}
    filled = {field for field in ("series", "volume", "image") if getattr(batch(config), field) is not None}
    assert filled == {config.reads().content}


def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    model, config = make(name)
    reached: set[str] = set()
    for seed in range(8):
        model.zero_grad()
        losses = loss_of(model, config, seed)
        assert losses["loss"].shape == () and torch.isfinite(losses["loss"])
        assert not any(value.requires_grad for part, value in losses.items() if part != "loss")
        losses["loss"].backward()
        reached |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == reached


def test_loss_follows_the_generator_and_nothing_else(name: str) -> None:
    model, config = make(name)
    torch.manual_seed(1)
    first = loss_of(model, config, seed=3)
    torch.manual_seed(2)
    again, other = loss_of(model, config, seed=3), loss_of(model, config, seed=4)
    assert all(torch.equal(first[part], again[part]) for part in first)
    assert first.keys() == other.keys()
    assert not torch.equal(first["loss"], other["loss"])


def test_embedding_is_deterministic_and_of_each_clip_alone(name: str) -> None:
    model, config = make(name)
    clips = batch(config)
    out = model.embed(clips)
    assert out.shape == (N_PEOPLE, model.embed_dim) and torch.isfinite(out).all()
    assert torch.equal(out, model.embed(clips))
    torch.testing.assert_close(model.train().embed(clips), model.eval().embed(clips))
    alone = clips.rows(torch.tensor([1]))
    torch.testing.assert_close(out[1:2], model.embed(alone), rtol=1e-4, atol=1e-5)
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_embedding_ignores_padding(name: str) -> None:
    """A clip cut short gives the same features however far it is padded, and with whatever."""
    model, config = make(name)
    length = clip_length(config)
    clips = batch(config)
    kept = length * 2 // 3
    valid = (torch.arange(length) < kept).expand(N_PEOPLE, -1)
    short = model.embed(replace(clips, valid_time=valid))
    longer = torch.cat([clips.series[:, :kept], torch.full((N_PEOPLE, length, len(regions())), 9.0)], dim=1)
    padded = Batch.of_series(longer)
    padded = replace(padded, valid_time=(torch.arange(longer.shape[1]) < kept).expand(N_PEOPLE, -1))
    torch.testing.assert_close(model.embed(padded), short, rtol=1e-4, atol=1e-5)
    assert (short - model.embed(clips)).abs().max() > 1e-3


@pytest.mark.parametrize("missing", [[2, 7], list(range(0, 24, 4)), [24, 25, 26]], ids=["some", "network", "atlas"])
def test_embedding_and_loss_ignore_missing_regions(name: str, missing: list[int]) -> None:
    model, config = make(name)
    clip_length(config)
    results = []
    for filler in (0.0, 7.0, float("nan")):
        clips = batch(config, config.reads().n_views)
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


def test_tokens_are_deterministic_alone_and_blind_to_what_is_missing(name: str) -> None:
    model, config = make(name)
    if not hasattr(model, "tokens"):
        pytest.skip("this family offers no tokens")
    clips = batch(config)
    tokens, present = model.tokens(clips)
    assert tokens.shape[:2] == present.shape and present.dtype == torch.bool and present.all()
    assert torch.equal(tokens, model.tokens(clips)[0])
    alone = model.tokens(clips.rows(torch.tensor([1])))[0]
    torch.testing.assert_close(tokens[1:2], alone, rtol=1e-4, atol=1e-5)
    if clips.series is None:
        return
    valid = clips.valid_region.clone()
    valid[:, 24:] = False  # the second atlas
    gaps = []
    for filler in (0.0, float("nan")):
        series = clips.series.clone()
        series[:, :, 24:] = filler
        gaps.append(model.tokens(replace(clips, series=series, valid_region=valid)))
    assert gaps[0][0].shape == tokens.shape and torch.equal(gaps[0][0], gaps[1][0])
    whole = config.model_dump().get("spatial_unit") == "brain"
    assert gaps[0][1].all() == whole  # tokens of an atlas are absent with it, those of all regions are not


def test_weights_survive_safetensors(name: str, tmp_path: Path) -> None:
    model, config = make(name)
    other, _ = make(name, seed=1)
    clips = batch(config)
    assert not torch.equal(model.embed(clips), other.embed(clips))
    save_file(
        {key: value.clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(model.embed(clips), other.embed(clips))


def test_a_step_moves_what_is_trained_and_after_it_the_rest(name: str) -> None:
    """The loop's order: loss, backward, step, `after_step`; nothing but the optimiser moves trained parameters."""
    model, config = make(name)
    if not hasattr(model, "after_step"):
        pytest.skip("this family has no after_step")
    loss_of(model, config, 0)["loss"].backward()
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
