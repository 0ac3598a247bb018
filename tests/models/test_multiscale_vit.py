"""NeuroSSL: a head of known size, matrix roots beside scipy, rollout beside its product, dropout without a toggle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.linalg
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from neuropipe.data.batch import Batch
from neuropipe.errors import InputError
from neuropipe.models import multiscale_vit as vit
from neuropipe.models.multiscale_vit import Classifier, Config, Model

SMALL = {
    "img_size": (24, 32),
    "patch_size": (8, 8),
    "embed_dim": 16,
    "depth": 4,
    "num_heads": 2,
    "covariance_dim": 6,
    "covariance_features": 8,
    "decoder_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
}


def small(**changes) -> Config:
    return Config(**(SMALL | changes))


def classifier(**changes) -> Classifier:
    torch.manual_seed(0)
    return Classifier(small(**changes))


def slices(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 24, 32, generator=generator(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def n_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ------------------------------------------------------------------ sizes and settings


def test_the_compact_covariance_takes_a_thousandth_of_the_published_one():
    with torch.device("meta"):
        compact, full = Classifier(Config()), Classifier(Config.published())
    assert n_parameters(full) == 249_147_266
    assert n_parameters(full.head.covariance) == 227_084_160
    assert n_parameters(full.encoder) + n_parameters(full.head.fusion) == 22_060_032
    assert n_parameters(compact.head.covariance) < 200_000
    assert n_parameters(compact.encoder) == n_parameters(full.encoder)


@pytest.mark.parametrize(("depth", "expected"), [(1, (0,)), (2, (0, 1)), (6, (1, 2, 4, 5)), (12, (2, 5, 8, 11))])
def test_scales_are_the_ends_of_the_quarters(depth, expected):
    assert Config(depth=depth).scales == expected
    assert Model(small(depth=depth)).embed(Batch.of_images(slices(2))).shape == (2, 16 * len(expected))


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_heads": 3},
        {"img_size": (7, 32)},
        {"scale_layers": (1, 4)},
        {"scale_layers": (8,)},
        {"crop_area": (0.9, 0.5)},
        {"covariance_dim": 65},
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValidationError):
        small(**wrong)


def test_slices_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"\(1, 24, 32\), found \(1, 32, 24\)"):
        Model(small()).embed(Batch.of_images(slices(2).transpose(2, 3)))


# ------------------------------------------------------------------ encoder


def test_a_hidden_patch_leaves_no_trace_and_a_seen_one_keeps_its_position():
    encoder = classifier().encoder
    x, kept = slices(2), torch.tensor([[1, 4, 7], [11, 0, 5]])
    whole = encoder.start(encoder.patches(x))
    seen = encoder.start(encoder.patches(x), kept)
    for row in range(2):
        torch.testing.assert_close(seen[row, 1:], whole[row, 1 + kept[row]])
    changed = x.clone()
    changed[0, :, :8, 16:24] += 5  # patch 2, hidden from the first
    changed[1, :, 16:, :8] += 5  # patch 8, hidden from the second
    torch.testing.assert_close(encoder(changed, kept).tokens, encoder(x, kept).tokens)


def test_patches_are_numbered_row_by_row():
    x = torch.arange(24 * 32.0).view(1, 1, 24, 32)
    assert torch.equal(vit.cut(x, (8, 8))[0, 5], x[0, 0, 8:16, 8:16].flatten())
    model = classifier().encoder
    by_hand = F.linear(vit.cut(x, (8, 8)), model.patch_embed.weight.flatten(1), model.patch_embed.bias)
    torch.testing.assert_close(model.patches(x), by_hand)


def test_attention_is_what_the_blocks_attend_by():
    """The maps, applied to the values by hand, give the attention's own output."""
    attn = classifier().encoder.blocks[0].attn
    x = torch.randn(2, 5, 16, generator=generator())
    values = F.linear(x, attn.qkv.weight[32:], attn.qkv.bias[32:]).unflatten(2, (2, 8)).transpose(1, 2)
    by_hand = attn.proj((attn.weights(x) @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attn(x), by_hand)


def test_rollout_is_the_product_from_the_last_layer_to_the_first():
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(7), size=(3, 2, 4, 7))  # layer, image, head, token
    layers = (maps.mean(2) + np.eye(7)) / 2
    expected = np.stack([(layers[2, i] @ layers[1, i] @ layers[0, i])[0, 1:].reshape(2, 3) for i in range(2)])
    attention = torch.from_numpy(maps)
    np.testing.assert_allclose(vit.rollout(attention, (2, 3), scale="none"), expected, rtol=1e-12)
    scaled = vit.rollout(attention, (2, 3))
    low, high = expected.min((1, 2), keepdims=True), expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(scaled, (expected - low) / (high - low), atol=1e-6)
    released = np.stack([(layers[0, i] @ layers[1, i] @ layers[2, i])[0, 1:].reshape(2, 3) for i in range(2)])
    np.testing.assert_allclose(vit.rollout(attention, (2, 3), "first_first", "none"), released, rtol=1e-12)


def test_rollout_of_a_slice_does_not_depend_on_the_batch():
    model, x = classifier(), slices(3)
    maps = model.rollout(x)
    assert maps.shape == (3, 3, 4) and maps.min() == 0 and maps.max() > 0.999
    torch.testing.assert_close(model.rollout(x[1:2])[0], maps[1], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ covariance head


def test_covariance_and_shrinkage_are_numpy_and_their_formula():
    tokens = np.random.default_rng(0).normal(size=(2, 9, 5))
    found = vit.covariance(torch.from_numpy(tokens))
    expected = np.stack([np.cov(x, rowvar=False, bias=True) for x in tokens])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    sphere = np.trace(expected[1]) / 5 * np.eye(5)
    np.testing.assert_allclose(vit.shrink(found, 0.3)[1], 0.7 * expected[1] + 0.3 * sphere, atol=2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
def test_matrix_square_root_is_that_of_scipy(dtype, tolerance):
    """Also where a covariance has one direction only, at the smallest shrinkage that is allowed."""
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(64, 1))
    samples = rng.normal(size=(200, 64)) * np.linspace(0.01, 30, 64)
    matrices = np.stack([flat @ flat.T, np.cov(samples, rowvar=False)])
    shrunk = vit.shrink(torch.from_numpy(matrices), 0.01)
    expected = np.stack([scipy.linalg.sqrtm(matrix).real for matrix in shrunk.numpy()])
    found = vit.matrix_sqrt(shrunk.to(dtype)).double().numpy()
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_compact_covariance_is_as_long_as_the_root_and_blind_to_order_and_offset():
    head = classifier().head.covariance
    tokens = torch.randn(2, 12, 16, generator=generator())
    hidden = head.hidden(tokens)
    root = vit.matrix_sqrt(vit.shrink(vit.covariance(head.project(tokens)), head.shrinkage))
    torch.testing.assert_close(hidden.norm(dim=1), root.flatten(1).norm(dim=1))
    moved = tokens[:, torch.randperm(12, generator=generator())] + torch.randn(16, generator=generator())
    torch.testing.assert_close(head.hidden(moved), hidden, rtol=1e-4, atol=1e-4)


def test_constant_slices_give_finite_logits_and_gradients():
    model = classifier()
    logits = model(torch.full((2, 1, 24, 32), 77.0))
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_scales_reach_the_logits_unless_the_release_is_asked_for():
    x = slices(2)
    for multi_scale in (True, False):
        model = classifier(multi_scale=multi_scale)
        F.cross_entropy(model(x), torch.tensor([0, 1])).backward()
        reached = [p.grad is not None and bool(p.grad.any()) for p in model.head.fusion.parameters()]
        assert reached == [multi_scale] * 4
        others = [p for name, p in model.named_parameters() if ".fusion." not in name]
        assert all(p.grad is not None for p in others)


def test_a_step_of_training_lowers_the_loss():
    model, x, labels = classifier(), slices(8), torch.arange(8) % 2
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(30):
        loss = F.cross_entropy(model(x, generator(step)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


# ------------------------------------------------------------------ predictions


@pytest.mark.parametrize("settings", [{}, {"covariance": "full", "dropout_sites": "all"}, {"covariance": "none"}])
def test_passes_run_the_encoder_once_and_follow_the_generator(settings):
    model, x = classifier(**settings), slices(2)
    calls = []
    model.encoder.register_forward_hook(lambda *args: calls.append(1))
    first, again = (model.predict(x, 6, generator(3)) for _ in range(2))
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.passes, model.predict(x, 6, generator(4)).passes)
    assert first.passes.shape == (6, 2, 2) and (first.std > 0).all()
    torch.testing.assert_close(first.raw, model.predict(x).raw)


def test_passes_are_unbiased_around_the_features():
    """Kept entries are scaled up: the mean of many draws is the vector itself."""
    model = classifier(dropout_sites="all", covariance="full")
    masks = model.head.draw(4000, 1, generator())
    assert {site: mask.shape for site, mask in masks.items()} == {
        "covariance": (4000, 1, 64),
        "features": (4000, 1, 48),
        "head": (4000, 1, 48),
    }
    for mask in masks.values():
        assert mask.unique().tolist() == pytest.approx([0, 1 / 0.7])
        assert abs(mask.mean().item() - 1) < 0.02
    assert set(model.head.draw(1, 2, generator(), training=True)) == {"covariance", "head"}
    assert set(classifier().head.draw(1, 2, generator())) == {"head"}


def test_uncertainties_are_those_of_the_formulas():
    passes = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]], dtype=torch.float64)
    std, entropy, information = vit.summarise(passes)
    mixed = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    torch.testing.assert_close(std, torch.full((1, 2), 0.25, dtype=torch.float64))
    assert entropy.item() == pytest.approx(mixed)
    assert information.item() == pytest.approx(mixed - np.log(2) / 2)


def test_a_calibration_of_temperature_and_bias_is_applied_to_every_pass():
    model, x = classifier(), slices(3)
    model.head.temperature.fill_(2.0)
    model.head.bias.copy_(torch.tensor([0.0, -1.0]))
    found = model.predict(x, 5, generator())
    difference = found.logits[:, 1] - found.logits[:, 0]
    torch.testing.assert_close(found.calibrated[:, 1], torch.sigmoid(difference / 2 - 1))
    torch.testing.assert_close(found.raw[:, 1], torch.sigmoid(difference))
    model.head.bias.zero_()
    model.head.temperature.fill_(1.0)
    plain = model.predict(x, 5, generator()).passes.logit()[..., 1]
    torch.testing.assert_close(found.passes.logit()[..., 1], plain / 2 - 1, rtol=1e-4, atol=1e-4)
    assert {"head.temperature", "head.bias"} <= model.state_dict().keys()


def test_a_prediction_depends_neither_on_the_batch_nor_on_the_mode_nor_on_its_neighbours():
    model, x = classifier(), slices(8)
    expected = [model.eval().predict(row[None], 10) for row in x]
    together = model.train().predict(x, 10)
    torch.testing.assert_close(together.std, torch.cat([one.std for one in expected]), rtol=1e-4, atol=1e-5)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: model.predict(row[None], 10), x))
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------ pretraining


def test_hidden_patches_are_drawn_from_the_seen_ones_alone():
    model = Model(small(flip=0.0, crop_area=(1.0, 1.0), zscore="none"))
    images, kept, hidden = model.prepare(slices(5), generator())
    torch.testing.assert_close(images, slices(5))
    assert kept.shape == (5, 3) and hidden.shape == (5, 9)
    assert torch.equal(torch.cat([kept, hidden], 1).sort(1).values, torch.arange(12).expand(5, -1))
    assert len({tuple(row.tolist()) for row in kept}) > 1


def test_the_loss_is_the_error_of_patches_zscored_each():
    model = Model(small())
    torch.nn.init.zeros_(model.decoder.fc.weight)
    torch.nn.init.zeros_(model.decoder.fc.bias)
    batch = Batch.of_images(slices(4))
    losses = model.loss(batch, generator(), 0.0)  # zeros are drawn: the variance of z-scored patches
    assert losses["loss"].item() == pytest.approx(1, rel=1e-3)
    assert losses["explained"].item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        model.decoder.fc.bias.fill_(1.0)
    assert model.loss(batch, generator(), 0.0)["loss"].item() == pytest.approx(2, rel=1e-3)


def test_pretraining_learns_to_continue_a_pattern():
    """Stripes of a random direction can be guessed from any quarter of the slice; noise cannot."""
    model = Model(small(crop_area=(0.8, 1.0)))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    row, column = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    for step in range(150):
        steep = torch.rand(16, 1, 1, 1, generator=generator(step)) < 0.5
        batch = Batch.of_images(torch.where(steep, row, column).div(8).mul(2 * torch.pi).sin())
        losses = model.loss(batch, generator(step), 0.0)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["explained"] > 0.5
