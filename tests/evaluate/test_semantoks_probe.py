"""The published probe against torch's own layers and optimiser, one head at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from neuropipe.evaluate import semantoks_probe as probe


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


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_probe_finds_a_planted_effect_and_no_other(task: probe.Task) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((240, 2, 5))
    signal = features.mean(1)[:, 0]
    rows = tuple(np.split(np.arange(240), [140, 180]))
    if task == "classification":
        planted, name, chance = (signal > 0).astype(int), "auroc", 50
    else:
        planted, name, chance = 2 * signal, "pearson_r", 0
    n_outputs = 2 if task == "classification" else 1
    scores = []
    for targets in (planted, rng.permutation(planted)):
        generator = torch.Generator().manual_seed(0)
        found = probe.linear_probe(features, targets, rows, task=task, n_outputs=n_outputs, generator=generator)
        scores.append(found.metrics[name])
    scale = 100 if task == "classification" else 1
    assert scores[0] > 0.9 * scale
    assert abs(scores[1] - chance) < 0.3 * scale
