"""The published probe against torch's own layers and optimiser, one head at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from neuropipe.data.recordings import Recordings
from neuropipe.evaluate import semantoks_probe as probe
from neuropipe.evaluate.embed import embed_people
from neuropipe.models.semantoks import Branch, Config, Model

SMALL = {"n_samples": 30, "patch_size": 10, "embed_dim": 8, "depth": 1, "num_heads": 2, "spatial_unit": "brain"}
SMALL |= {"branches": (Branch(kind="dense", out_channels=8),), "mask_probability": 0.0}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_stack_of_heads_is_one_torch_module_per_learning_rate(task: probe.Task) -> None:
    """Every head equals BatchNorm1d and Linear trained alone by SGD on the same batches."""
    rng = torch.Generator().manual_seed(0)
    n_outputs = 3 if task == "classification" else 1
    x = torch.randn(50, 6, generator=rng) * 3 + 1
    y = torch.randint(0, 3, (50,), generator=rng) if task == "classification" else torch.randn(50, generator=rng)
    lrs = (0.1, 0.01)
    heads = probe.Heads(2, 6, n_outputs, rng)
    alone = []
    for i in range(2):
        one = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, n_outputs))
        one[1].load_state_dict({"weight": heads.weight[i].t().detach(), "bias": heads.bias[i, 0].detach()})
        alone.append(one)
    probe.train_heads(heads, x, y, lrs, task=task, epochs=3, batch_size=7, generator=torch.Generator().manual_seed(1))
    for one, lr, outputs in zip(alone, lrs, heads(x), strict=True):
        order = torch.Generator().manual_seed(1)
        sgd = torch.optim.SGD(one.parameters(), lr=lr, momentum=0.9)
        for _ in range(3):
            for rows in torch.randperm(50, generator=order).split(7):
                if len(rows) > 1:
                    out = one(x[rows])
                    loss_of = nn.functional.cross_entropy if task == "classification" else nn.functional.l1_loss
                    loss = loss_of(out if task == "classification" else out[:, 0], y[rows])
                    sgd.zero_grad()
                    loss.backward()
                    sgd.step()
        torch.testing.assert_close(outputs, one.eval()(x), rtol=1e-4, atol=1e-5)


def test_split_is_disjoint_complete_and_stratified() -> None:
    people, strata = [f"sub-{i:03d}" for i in range(100)], ["a"] * 80 + ["b"] * 20
    parts = probe.split(people, (0.5, 0.25, 0.25), seed=0, strata=strata)
    assert [len(part) for part in parts] == [50, 25, 25]
    assert sorted(name for part in parts for name in part) == people
    assert [sum(int(name[-3:]) >= 80 for name in part) for part in parts] == [10, 5, 5]
    assert parts != probe.split(people, (0.5, 0.25, 0.25), seed=1, strata=strata)


def test_repetitions_trained_together_are_those_trained_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 20, 4, generator=rng), torch.randint(0, 2, (3, 20), generator=rng)
    lrs, how = (0.1, 0.01), {"task": "classification", "epochs": 4, "batch_size": 8}
    together = probe.Heads(6, 4, 2, rng)
    start = {name: value.clone() for name, value in together.state_dict().items()}
    probe.train_heads(together, x, y, lrs * 3, **how, generator=torch.Generator().manual_seed(1))
    for repetition in range(3):
        alone = probe.Heads(2, 4, 2, rng)
        rows = slice(2 * repetition, 2 * repetition + 2)
        alone.load_state_dict({name: value[rows] for name, value in start.items()})
        given = (x[repetition], y[repetition])
        probe.train_heads(alone, *given, lrs, **how, generator=torch.Generator().manual_seed(1))
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(together.state_dict()[name][rows], value)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_probe_finds_a_planted_effect_and_no_other_in_every_repetition(task: probe.Task) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((240, 2, 5))
    signal = features.mean(1)[:, 0]
    if task == "classification":
        planted, name, chance, scale = (signal > 0).astype(float), "ensembled_auroc", 50, 100
    else:
        planted, name, chance, scale = 2 * signal, "ensembled_pearson_r", 0, 1
    planted[:10] = np.nan  # nobody knows
    types = {"noise": rng.standard_normal((240, 2, 3)), "signal": features}
    scores = []
    for targets in (planted, np.concatenate([planted[:10], rng.permutation(planted[10:])])):
        found = probe.repeated_probe(types, targets, task=task, n_repetitions=3, shares=(0.6, 0.1, 0.3))
        scores.append([one.metrics[name] for one in found])
        assert len(found) == 3 and {one.lr for one in found} <= set(probe.LEARNING_RATES)
    assert min(scores[0]) > 0.9 * scale and len(set(scores[0])) == 3
    assert abs(np.mean(scores[1]) - chance) < 0.2 * scale
    assert [one.feature for one in probe.repeated_probe(types, planted, task=task, n_repetitions=1)] == ["signal"]


def test_outputs_are_averaged_over_clips_before_they_are_judged() -> None:
    """Single clips err by noise of standard deviation 1, the mean of four by half of it."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal(4000)
    outputs = y[:, None, None] + rng.standard_normal((4000, 4, 1))
    found = probe.judge(outputs, y, "regression", torch.Generator().manual_seed(0))
    error = (2 / np.pi) ** 0.5
    assert found["ensembled_mae"] == pytest.approx(error / 2, rel=0.05)
    assert found["random_crop_mae"] == pytest.approx(error, rel=0.05)
    assert found["avg_single_crop_mae"] == pytest.approx(error, rel=0.05)
    each = [np.abs(outputs[:, clip, 0] - y).mean() for clip in range(4)]
    assert found["std_single_crop_mae"] == pytest.approx(np.std(each))


def test_clips_are_read_as_the_embedding_reads_them_and_repeated_where_a_recording_is_short(toy_shards) -> None:
    config = Config(**SMALL)
    model = Model(config, toy_shards.regions)
    source = Recordings([toy_shards])
    people, features = probe.clip_features(model, source, 3)
    table = embed_people(model, source, config.reads(), 3)
    assert features["cls_avg"].shape == (len(people), 3, 16) and features["cls"].shape[-1] == 8
    np.testing.assert_array_equal(features["cls"], features["cls_avg"][..., 8:])
    single = table["n_recordings"].eq(1).to_numpy()
    own = people.merge(table, on=["dataset", "participant_id"]).filter(regex=r"^e\d").to_numpy()
    order = people.merge(table[single], on=["dataset", "participant_id"], how="left")["n_recordings"].notna().to_numpy()
    np.testing.assert_allclose(features["cls_avg"].mean(1)[order], own[order], rtol=1e-4, atol=1e-5)
    long = Model(config.model_copy(update={"n_samples": 10_000}), toy_shards.regions)
    repeated = probe.clip_features(long, source, 3)[1]["cls"]
    assert (repeated == repeated[:, :1]).all()
