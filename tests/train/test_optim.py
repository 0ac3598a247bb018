"""Schedules against torch's own and closed forms; what is written into the optimiser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from neuropipe.train import optim
from neuropipe.train.recipe import TrainSettings


class Grouped(nn.Module):
    """A family with its own groups."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Linear(2, 2), nn.Linear(2, 2)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        return [
            {
                "params": list(layer.parameters()),
                "lr_scale": s,
                "weight_decay": d * weight_decay,
                "weight_decay_scale": d,
            }
            for layer, s, d in ((self.slow, layer_decay, 1.0), (self.fast, 1.0, 0.0))
        ]


def test_cosine_part_is_torchs() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=1.0)
    scheduler = CosineAnnealingLR(sgd, T_max=90)
    for step in range(10, 100):
        assert optim.lr_factor(step, 100, 10) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        sgd.step()
        scheduler.step()


def test_warmup_rises_from_above_zero_to_one() -> None:
    factors = [optim.lr_factor(step, 100, 10) for step in range(11)]
    assert factors == pytest.approx([(i + 1) / 11 for i in range(11)])
    released = [optim.lr_factor(step, 100, 10, zero_first=True) for step in range(11)]
    assert released == pytest.approx([i / 10 for i in range(11)])
    assert optim.lr_factor(0, 100, 0) == 1 and optim.lr_factor(100, 100, 10) == 0 == optim.lr_factor(200, 100, 10)


def test_half_cosine_goes_from_start_to_end() -> None:
    values = [optim.half_cosine(step, 40, 0.05, 0.3) for step in (0, 10, 20, 40, 50)]
    assert values == pytest.approx([0.05, 0.3 - 0.125 * (1 + math.cos(math.pi / 4)), 0.175, 0.3, 0.3])


def test_groups_keep_their_own_factors() -> None:
    settings = TrainSettings(
        n_steps=10, batch_size=1, lr=0.5, warmup=0.2, weight_decay=0.1, weight_decay_end=0.3, layer_decay=0.25
    )
    optimizer = optim.build(Grouped(), settings)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    lr = optim.set_schedules(optimizer, settings, step=6)
    assert lr == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)) / 2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr / 4, lr])
    middle = 0.3 - 0.1 * (1 + math.cos(0.6 * math.pi))
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([middle, 0])


def test_only_what_is_trained_is_handed_to_the_optimiser() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    optimizer = optim.build(model, TrainSettings(n_steps=10, batch_size=1, lr=0.5))
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(model[0].parameters())
