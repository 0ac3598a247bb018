"""Adam and its schedules: pure functions of the step, written into the optimiser once per step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from neuropipe.train.recipe import TrainSettings


def lr_factor(step: int, total: int, warmup: int, zero_first: bool = False) -> float:
    """Return the factor on the learning rate: linear warm-up, then half a cosine down to 0.

    Parameters
    ----------
    step : int
        Optimiser step, from 0.
    total, warmup : int
        Steps of the whole training and of its warm-up.
    zero_first : bool
        Start the warm-up at exactly 0, so that the first step changes nothing (Brain-Semantoks).
    """
    if step < warmup:
        return step / warmup if zero_first else (step + 1) / (warmup + 1)
    return half_cosine(step - warmup, total - warmup, 1.0, 0.0)


def half_cosine(step: int, total: int, start: float, end: float) -> float:
    """Return the value on half a cosine from `start` at step 0 to `end` at step `total`, and `end` beyond."""
    if start == end or step >= total:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / total)) / 2


def param_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """Return the groups that the model's family asks for, or one with everything that is trained.

    A group has ``params``, ``lr_scale`` (factor on the learning rate), ``weight_decay`` and
    ``weight_decay_scale`` (factor on the schedule of the weight decay, 0 or 1).
    """
    if hasattr(model, "param_groups"):
        return model.param_groups(weight_decay, layer_decay)
    params = [p for p in model.parameters() if p.requires_grad]
    return [{"params": params, "lr_scale": 1.0, "weight_decay": weight_decay, "weight_decay_scale": 1.0}]


def build(model: nn.Module, settings: TrainSettings) -> torch.optim.Adam:
    """Return Adam or AdamW over the parameters of `model`, in one kernel per step where the device has one."""
    groups = param_groups(model, settings.weight_decay, settings.layer_decay)
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    kind = torch.optim.AdamW if settings.weight_decay_in == "weights" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=1e-8, fused=fused)


def set_schedules(optimizer: torch.optim.Optimizer, settings: TrainSettings, step: int) -> float:
    """Write the learning rate and weight decay of `step` into every group; return the learning rate."""
    total = settings.n_steps
    warmup = round(settings.warmup * total)
    if settings.lr_schedule == "constant" and step >= warmup:
        lr = settings.lr
    else:
        lr = settings.lr * lr_factor(step, total, warmup, zero_first=settings.lr_schedule == "published")
    end = settings.weight_decay if settings.weight_decay_end is None else settings.weight_decay_end
    set_rates(optimizer, lr, half_cosine(step, total, settings.weight_decay, end))
    return lr


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Write `lr` and `weight_decay` into every group, times the group's own factors."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay * group["weight_decay_scale"]
