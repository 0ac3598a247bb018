"""NeuroCLR against closed forms: its contrast, its input, its tangent space, what its encoders cannot see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.linalg import logm
from torch import nn

from neuropipe.data import augment_series
from neuropipe.data.augment_series import Policy
from neuropipe.data.batch import Batch
from neuropipe.errors import InputError
from neuropipe.models import neuroclr
from neuropipe.models.network import on_top_of
from neuropipe.models.neuroclr import Classifier, Config, MatrixLog, Model, SeriesEncoder, ntxent
from neuropipe.signals.regions import Regions

NATIVE = Config(n_samples=48, patch_size=8, embed_dim=16, depth=1, num_heads=2, n_components=6, head_dim=8)
HEAD = {"base_filters": 8, "kernel_size": 4, "groups": 2, "n_block": 3}
PUBLISHED = Config.model_validate(
    Config.published().model_dump() | {"n_samples": 32, "head_hidden_dim": 16, "head_dim": 8, "head": HEAD}
)
REGIONS = Regions.plain("toy", 10)


def make(config: Config) -> Model:
    torch.manual_seed(0)
    return Model(config, REGIONS)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ contrast


def by_hand(z1, z2, temperature, apart, counted, symmetric=True, decoupled=False) -> float:
    """Return the loss pair by pair, as the formula of SimCLR is printed."""
    z = [(view / view.norm(dim=-1, keepdim=True)).numpy() for view in (z1, z2)]
    losses = []
    for r in range(len(z1)):
        for view in range(2 if symmetric else 1):
            for i in range(z1.shape[1]):
                near = [
                    z[v][r, i_other] @ z[view][r, i]
                    for v in range(2 if symmetric else 1)
                    for i_other in range(z1.shape[1])
                    if apart[i, i_other] and counted[r, i_other]
                ]
                if counted[r, i] and near:
                    positive = z[0][r, i] @ z[1][r, i] / temperature
                    below = np.exp(np.array(near) / temperature).sum() + (0 if decoupled else np.exp(positive))
                    losses.append(np.log(below) - positive)
    return float(np.mean(losses))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("decoupled", [True, False])
def test_the_contrast_is_that_of_the_formula(symmetric, decoupled):
    z1, z2 = noise(3, 5, 4).double(), noise(3, 5, 4, seed=1).double()
    apart = ~torch.eye(5, dtype=torch.bool)
    apart[0, 1:] = apart[1:, 0] = False  # the first person has no negatives
    counted = torch.ones(3, 5, dtype=torch.bool)
    counted[1, 2] = False
    found = ntxent(z1, z2, 0.3, symmetric=symmetric, decoupled=decoupled, apart=apart, counted=counted)
    assert found.item() == pytest.approx(by_hand(z1, z2, 0.3, apart, counted, symmetric, decoupled), abs=1e-12)


def test_chunks_of_regions_change_neither_loss_nor_gradient(monkeypatch):
    z1, z2 = noise(7, 4, 3).double().requires_grad_(), noise(7, 4, 3, seed=1).double()
    whole = ntxent(z1, z2, 0.2)
    (gradient,) = torch.autograd.grad(whole, z1)
    monkeypatch.setattr(neuroclr, "MOST_SIMILARITIES", 2 * (2 * 4) ** 2)  # two regions at a time
    parts = ntxent(z1, z2, 0.2)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(parts, z1)[0], gradient, rtol=0, atol=1e-12)


def test_nobody_to_be_told_from_gives_no_loss_and_a_finite_gradient():
    z1 = noise(2, 3, 4).requires_grad_()
    loss = ntxent(z1, noise(2, 3, 4, seed=1), 0.2, decoupled=True, apart=torch.zeros(3, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and torch.equal(z1.grad, torch.zeros_like(z1))


def test_negatives_share_dataset_site_and_repetition_time_and_are_never_the_same_person():
    batch = replace(
        Batch.of_series(noise(6, 8, 2)),
        person=torch.tensor([0, 1, 2, 2, 4, 5]),
        dataset=torch.tensor([0, 0, 0, 0, 1, 0]),
        site=torch.tensor([3, 3, 3, 3, 3, 8]),
        t_r=torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
    )
    alike = torch.zeros(6, 6, dtype=torch.bool)
    alike[:4, :4] = True
    expected = alike & (batch.person[:, None] != batch.person[None])
    assert torch.equal(neuroclr.strangers(batch, 6, True), expected)
    faster = replace(batch, t_r=torch.tensor([0.8, 2.0, 2.0, 2.0, 2.0, 2.0]))
    assert not neuroclr.strangers(faster, 6, True)[0].any()
    assert torch.equal(neuroclr.strangers(batch, 6, False), batch.person[:, None] != batch.person[None])


# ------------------------------------------------------------------ the released encoder


@pytest.mark.parametrize("tokens", [1, 3])
def test_the_encoder_is_torchs_transformer(tokens):
    config = PUBLISHED.model_copy(update={"pooling": "mean"})
    torch.manual_seed(0)
    encoder = SeriesEncoder(config).double().eval()
    x = noise(5, tokens, 32).double()
    expected = encoder.transformer_encoder(nn.functional.normalize(x, dim=-1)).mean(1)
    torch.testing.assert_close(encoder.encode(x), expected, rtol=0, atol=1e-12)


def test_queries_and_keys_of_the_one_token_never_learn():
    encoder = make(PUBLISHED).encoder
    encoder.encode(noise(6, 1, 32), torch.Generator().manual_seed(0)).square().sum().backward()
    for layer in encoder.transformer_encoder.layers:
        gradient = layer.self_attn.in_proj_weight.grad
        assert torch.equal(gradient[:64], torch.zeros(64, 32)) and gradient[64:].abs().sum() > 0


def test_sizes_are_the_published_ones():
    config = Config.published()
    encoder = SeriesEncoder(config)
    assert sum(p.numel() for p in encoder.transformer_encoder.parameters()) == 264_960
    assert sum(p.numel() for p in encoder.projector.parameters()) == 25_024
    with torch.device("meta"):
        head = Classifier(config, 200, 2).head
    assert sum(p.numel() for p in head.parameters()) == 66_571_522
    found = encoder.eval()(noise(3, 1, 128))
    assert found.h.shape == (3, 128) and found.z.shape == (3, 64)


def test_dropout_keeps_the_mean_of_the_fixed_attention():
    layer = make(PUBLISHED).encoder.transformer_encoder.layers[0].self_attn.double()
    x = noise(1, 1, 32).double().expand(20_000, 1, 32)
    expected = neuroclr.attend(layer, x[:1], 0.1, None)[0]
    drawn = neuroclr.attend(layer, x, 0.1, torch.Generator().manual_seed(0))
    sem = drawn.std(0) / 20_000**0.5
    assert ((drawn.mean(0) - expected).abs() <= 5 * sem + 1e-12).all() and sem.max() > 0


def test_longer_series_and_several_channels_are_refused():
    model = make(PUBLISHED)
    with pytest.raises(InputError, match="reads exactly 32 samples, found 40"):
        model.embed(Batch.of_series(noise(2, 40, 10)))
    with pytest.raises(InputError, match="pooling: mean or last"):
        model.encoder.encode(noise(2, 3, 32))


def test_a_constant_region_gives_no_nan():
    series = noise(3, 32, 10)
    series[:, :, 4] = 0
    assert torch.isfinite(make(PUBLISHED).embed(Batch.of_series(series))).all()
    assert torch.isfinite(make(NATIVE).embed(Batch.of_series(series[:, :, :].repeat(1, 2, 1)))).all()


@pytest.mark.parametrize(
    ("n_outputs", "labels", "expected"),
    [
        (3, torch.tensor([0, 2]), lambda y, t: nn.CrossEntropyLoss()(y, t)),
        (3, torch.tensor([[0.0, 1, 1], [1, 0, 0]]), lambda y, t: nn.BCEWithLogitsLoss()(y, t)),
        (1, torch.tensor([0.5, 2.0]), lambda y, t: nn.MSELoss()(y[:, 0], t)),
    ],
)
def test_the_classifiers_loss_follows_its_labels(n_outputs, labels, expected):
    classifier = Classifier(PUBLISHED, 10, n_outputs).eval()
    found = classifier(noise(2, 10, 32), labels)
    assert found.logits.shape == (2, n_outputs) and found.hidden.shape == (2, 10, 32)
    torch.testing.assert_close(found.loss, expected(found.logits, labels))
    assert classifier(noise(2, 10, 32)).loss is None


def test_a_frozen_encoder_gets_no_gradient_and_drops_nothing():
    network = on_top_of(make(PUBLISHED), 1).train()
    batch = Batch.of_series(noise(4, 32, 10))
    drawn = network.encode(batch, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, network.encode(batch)) and not drawn.requires_grad
    trained = {id(p) for group in network.param_groups(0.1, 0.5) for p in group["params"]}
    assert not trained & {id(p) for p in network.classifier.encoder.parameters()} and trained
    network(batch, torch.Generator().manual_seed(0)).sum().backward()
    assert all(p.grad is None for p in network.classifier.encoder.parameters())


# ------------------------------------------------------------------ the native encoder


def test_a_clip_that_starts_a_patch_later_gives_the_same_tokens_one_place_further():
    """Away from the ends, where the clips differ, and with attention over time left out, which sees all patches."""
    encoder = make(NATIVE).encoder
    series = noise(1, 64, 10)
    everything = torch.ones(1, 10, dtype=torch.bool)

    def tokens(part: torch.Tensor) -> torch.Tensor:
        present = torch.ones(1, part.shape[1] // 8, dtype=torch.bool)
        return encoder.tokens(part, present, torch.arange(10), None)

    early, late = tokens(series[:, :56]), tokens(series[:, 8:])
    torch.testing.assert_close(early[:, 2:-1], late[:, 1:-2])
    whole = encoder(series, torch.ones(1, 64, dtype=torch.bool), everything)
    assert whole.tokens.shape == (1, 8, 10, 16) and whole.whole.shape == (1, encoder.n_features)


def test_order_of_patches_far_apart_does_not_matter_but_that_of_neighbours_does():
    """Attention has no positions: swapping the halves of a clip changes only what the convolution sees at the seam."""
    encoder = make(NATIVE).encoder
    series, valid, there = noise(1, 48, 10), torch.ones(1, 48, dtype=torch.bool), torch.ones(1, 10, dtype=torch.bool)
    with torch.no_grad():
        encoder.positions.weight.zero_()
        whole = encoder(series, valid, there).whole
        swapped = encoder(series.roll(24, 1), valid, there).whole
    torch.testing.assert_close(swapped, whole, rtol=1e-4, atol=1e-5)
    other = make(NATIVE).encoder
    assert (other(series.roll(24, 1), valid, there).whole - other(series, valid, there).whole).abs().max() > 1e-4


def test_time_is_seconds_whatever_the_repetition_time():
    """Slow oscillations sampled at 1 s and at 2 s are the same people."""
    rng = np.random.default_rng(0)
    frequency, phase = rng.uniform(0.01, 0.05, (3, 1, 10)), rng.uniform(0, 6, (3, 1, 10))

    def sampled(t_r: float, n: int) -> Batch:
        series = np.sin(2 * np.pi * frequency * t_r * np.arange(n)[None, :, None] + phase)
        return Batch.of_series(torch.from_numpy(series).float(), t_r=t_r)

    model = make(NATIVE).eval()
    fast, slow = model.embed(sampled(1.0, 95)), model.embed(sampled(2.0, 48))
    torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-4)
    wrong = model.embed(replace(sampled(1.0, 95), t_r=torch.full((3,), 2.0)))
    assert (wrong - slow).abs().max() > 0.05


def test_resampling_is_numpys_interpolation_and_marks_what_lies_beside_gaps():
    series, valid = noise(2, 30, 3), torch.ones(2, 30, dtype=torch.bool)
    valid[1, 10] = False
    t_r = torch.tensor([2.5, 1.6])
    found, marked = neuroclr.resample(series, valid, t_r, 2.0)
    for row in range(2):
        time = np.arange(found.shape[1]) * 2.0
        inside = time <= 29 * t_r[row].item() + 1e-3
        for region in range(3):
            old = np.arange(30) * t_r[row].item()
            expected = np.interp(time, old, series[row, :, region])
            kept = marked[row].numpy()
            np.testing.assert_allclose(found[row, :, region].numpy()[kept], expected[kept], atol=1e-5)
        beside = np.abs(np.arange(found.shape[1]) * 2.0 - 10 * 1.6) < 1.6 - 1e-3
        assert (marked[row].numpy() == (inside & ~(beside & (row == 1)))).all()


def test_the_tangent_space_is_scipys_logarithm():
    series = noise(2, 40, 5).double()
    found = neuroclr.tangent(series, torch.ones(2, 40, dtype=torch.bool), 0.2)
    row, column = np.triu_indices(5)
    for i in range(2):
        expected = logm(0.8 * np.corrcoef(series[i].numpy().T) + 0.2 * np.eye(5))
        weight = np.where(row == column, 1, np.sqrt(2))
        np.testing.assert_allclose(found[i].numpy(), expected[row, column] * weight, atol=1e-5)


def test_the_logarithms_gradient_stands_equal_eigenvalues():
    random = noise(4, 4, 9).double()
    matrices = (random @ random.mT / 9 + 0.5 * torch.eye(4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: MatrixLog.apply((m + m.mT) / 2), matrices)
    equal = (2.0 * torch.eye(3)).double()[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda m: MatrixLog.apply((m + m.mT) / 2), equal)


def test_hidden_regions_are_not_seen():
    """What a hidden region did reaches neither tokens nor regions, and the reconstruction is judged there alone."""
    encoder = make(NATIVE).encoder
    series, valid, there = noise(1, 48, 10), torch.ones(1, 48, dtype=torch.bool), torch.ones(1, 10, dtype=torch.bool)
    hidden = torch.zeros(1, 10, dtype=torch.bool)
    hidden[0, 3] = True
    changed = series.clone()
    changed[:, :, 3] = noise(1, 48, seed=5)
    one = encoder(series, valid, there, hidden=hidden)
    two = encoder(changed, valid, there, hidden=hidden)
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.regions[:, 3], two.regions[:, 3])


def test_pretraining_learns_to_tell_people_by_their_connectivity():
    """Planted: everyone has own coupling of regions; after some steps new clips are matched to their people."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((12, 10, 10)) + 1.5 * np.eye(10)

    def clips(n_views: int, seed: int) -> Batch:
        source = np.random.default_rng(seed).standard_normal((n_views, 12, 48, 10))
        series = np.einsum("vptr,prs->vpts", source, mixing).reshape(-1, 48, 10)
        return Batch.of_series(torch.from_numpy(series).float(), n_views=n_views)

    config = NATIVE.model_copy(update={"regions_per_step": None, "drop_rate": 0.0})
    model = make(config)
    optimizer = torch.optim.AdamW(model.param_groups(0.01, 1.0), lr=3e-3)
    losses = []
    for step in range(40):
        found = model.loss(clips(2, step), torch.Generator().manual_seed(step), step / 40)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append({name: value.item() for name, value in found.items()})
    for part in ("region_loss", "person_loss"):
        first, last = (np.mean([row[part] for row in rows]) for rows in (losses[:5], losses[-5:]))
        assert last < 0.7 * first, part


def test_mistakes_in_the_config_are_named():
    with pytest.raises(ValidationError, match="embed_dim 30 must be a multiple of num_heads 4"):
        Config(embed_dim=30)
    with pytest.raises(ValidationError, match="n_samples 101 must be a multiple of num_heads 2"):
        Config.model_validate(Config.published().model_dump() | {"n_samples": 101})


# ------------------------------------------------------------------ augmentations


def test_surrogates_keep_spectra_and_nothing_else():
    series = noise(3, 64, 4).cumsum(1).expand(-1, -1, 4).clone()
    series[:, :, 1:] = series[:, :, :1]  # all regions alike
    made = augment_series.surrogate(series, torch.Generator().manual_seed(0))
    spectra = (torch.fft.rfft(x, dim=1).abs() for x in (series, made))
    torch.testing.assert_close(*spectra, rtol=1e-3, atol=1e-3)
    assert np.abs(np.corrcoef(made[0].numpy().T)[0, 1]) < 0.99


def test_noise_lies_within_its_band_and_removed_bands_are_empty():
    generator = torch.Generator().manual_seed(0)
    t_r = torch.tensor([2.0, 1.0])
    frequency = augment_series.frequencies(200, t_r)
    np.testing.assert_allclose(frequency[1].numpy(), np.fft.rfftfreq(200, 1.0), atol=1e-7)
    drawn = augment_series.noise(torch.empty(2, 200, 3), t_r, (0.05, 0.1), generator)
    power = torch.fft.rfft(drawn, dim=1).abs().square().sum(2)
    outside = (frequency < 0.05) | (frequency > 0.1)
    assert (power * outside).sum() < 1e-6 * power.sum()
    torch.testing.assert_close(drawn.std(1, correction=0), torch.ones(2, 3))
    kept = augment_series.without_band(noise(2, 200, 3), t_r, 0.05, generator)
    empty = torch.fft.rfft(kept, dim=1).abs().sum(2) < 1e-3
    widths = (empty.sum(1) * (1 / (200 * t_r))).numpy()
    np.testing.assert_allclose(widths, 0.05, atol=0.006)


def test_nothing_happens_when_everything_is_off():
    off = Policy(scale=(1.0, 1.0), noise_sd=0, time_mask=0, frequency_mask_hz=0)
    series = noise(2, 20, 3)
    assert torch.equal(augment_series.apply(series, torch.full((2,), 2.0), off, torch.Generator()), series)
    masked = augment_series.apply(
        series, torch.full((2,), 2.0), off.model_copy(update={"time_mask": 0.9}), torch.Generator().manual_seed(1)
    )
    gaps = (masked == 0).all(2)
    assert 0 < gaps.sum() < 40 and torch.equal(masked[~gaps], series[~gaps])
    assert all((row.int().diff() == 1).sum() <= 1 for row in gaps)  # one block
