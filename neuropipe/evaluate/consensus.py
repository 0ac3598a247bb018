"""What several networks of one task say about one person together: one answer, and one map of what they react to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from scipy.special import entr, expit

from neuropipe.data.batch import Batch
from neuropipe.hub.finetuned import Finetuned
from neuropipe.models.network import Reading, read

BRIGHTEST = 99.5  # percentile of a map of gradients that counts as 1


@dataclass(frozen=True)
class Opinion:
    """What networks say about one person; NaN where they say nothing.

    Attributes
    ----------
    raw, calibrated : float
        Probability of the positive class, the mean over networks; `calibrated` is NaN where no network has a
        calibration.
    value : float
        Of a regression, in the target's unit.
    uncertainty : float
        Population standard deviation over all passes of all networks of the probability, or the value; over networks
        where they have no passes.
    entropy, mutual_information : float
        Of the mean probability over passes and networks, and the part of it that they disagree about, in nats.
    distance : float
        From the training people, over the distance that is unusual; the mean over networks.
    is_far : bool or None
        `distance` is above 1; None where no network knows.
    """

    raw: float = math.nan
    calibrated: float = math.nan
    value: float = math.nan
    uncertainty: float = math.nan
    entropy: float = math.nan
    mutual_information: float = math.nan
    distance: float = math.nan
    is_far: bool | None = None


def ask(networks: Sequence[Finetuned], scans: Sequence[Batch], n_passes: int | None = None, seed: int = 0) -> Opinion:
    """Return what `networks` say about one person.

    Every network draws its passes from a generator of its own that starts at `seed`: nothing depends on who
    was asked before, or at the same time.

    Parameters
    ----------
    networks : sequence of Finetuned
        Of one task.
    scans : sequence of Batch
        One per scan of the person, whose rows are its slices; each scan weighs the same.
    n_passes : int, optional
        Of each network, with dropout; default what is stored with it.
    """
    readings = [
        read(one.network, scans, one.about["n_passes"] if n_passes is None else n_passes, seed) for one in networks
    ]
    distances = [
        float(one.familiarity.distance(reading.features) / one.familiarity.threshold)
        for one, reading in zip(networks, readings, strict=True)
        if one.familiarity is not None
    ]
    distance = float(np.mean(distances)) if distances else math.nan
    known = {"distance": distance, "is_far": distance > 1 if distances else None}
    together = _number if networks[0].about["scaling"] is not None else _probability
    return replace(together(networks, readings), **known)


def _number(networks: Sequence[Finetuned], readings: Sequence[Reading]) -> Opinion:
    """Return the mean of predicted numbers in their unit."""
    scales = [(one.about["scaling"]["mean"], one.about["scaling"]["sd"]) for one in networks]
    values = [mean + sd * reading.value for (mean, sd), reading in zip(scales, readings, strict=True)]
    passes = [mean + sd * reading.passes for (mean, sd), reading in zip(scales, readings, strict=True)]
    spread = _spread(np.concatenate(passes), values)
    return Opinion(value=float(np.mean(values)), uncertainty=float(spread.std()) if len(spread) else math.nan)


def _probability(networks: Sequence[Finetuned], readings: Sequence[Reading]) -> Opinion:
    """Return the mean of probabilities, each calibrated as its network was."""
    raw, calibrated, passes = [], [], []
    for one, reading in zip(networks, readings, strict=True):
        fitted = one.about["calibration"] or {"temperature": 1.0, "bias": 0.0}
        of_passes = fitted if one.about.get("calibrate_passes", True) else {"temperature": 1.0, "bias": 0.0}
        raw.append(float(expit(reading.value)))
        calibrated.append(_calibrated(reading.value, fitted))
        passes.append(_calibrated(reading.passes, of_passes))
    is_known = any(one.about["calibration"] is not None for one in networks)
    found = Opinion(float(np.mean(raw)), float(np.mean(calibrated)) if is_known else math.nan)
    spread = _spread(np.concatenate(passes), calibrated)
    if not len(spread):
        return found
    entropy = _entropy(spread.mean())
    mutual = float(entropy - _entropy(spread).mean())
    return replace(found, uncertainty=float(spread.std()), entropy=float(entropy), mutual_information=mutual)


def _spread(passes: np.ndarray, of_networks: Sequence[float]) -> np.ndarray:
    """Return what is looked at for disagreement: passes, or networks where there are none; one number says nothing."""
    return passes if len(passes) else np.asarray(of_networks if len(of_networks) > 1 else [])


def _calibrated(logit, fitted: dict[str, float]):
    return expit(logit / fitted["temperature"] + fitted["bias"])


def _entropy(p):
    return entr(p) + entr(1 - p)


# ------------------------------------------------------------------ maps


@torch.no_grad()
def rollout(networks: Sequence[Finetuned], slices: Batch) -> np.ndarray:
    """Return the attention rollout of every slice, the mean over networks, float32 (slice, row, column) in [0, 1].

    Slices go through one by one, so that none is scaled by another.
    """
    maps = [[one.network.rollout(slices.rows(row))[0] for one in networks] for row in _rows(slices)]
    mean = torch.stack([torch.stack(of_slice).mean(0) for of_slice in maps])
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
    return ((mean - low) / (high - low).clamp(min=1e-12)).cpu().numpy()


def input_gradient(networks: Sequence[Finetuned], batch: Batch, sigma: Sequence[float]) -> np.ndarray:
    """Return where a small relative change of the input changes the output most, float32 like a row's content.

    It is the mean over networks of ``|gradient * input|``, smoothed by a Gaussian, and scaled to [0, 1].

    Parameters
    ----------
    batch : Batch
        Of volumes, or of slices.
    sigma : sequence of float
        Standard deviation of the Gaussian along each axis, in voxels.

    Returns
    -------
    array (row, x, y, z) or (slice, row, column)
    """
    found = []
    for row in _rows(batch):
        one_row = batch.rows(row)
        name = "volume" if one_row.volume is not None else "image"
        content = getattr(one_row, name)
        total = torch.zeros_like(content)
        for one in networks:
            given = content.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(one.network(replace(one_row, **{name: given})).sum(), given)
            total += (gradient * content).abs()
        smooth = ndimage.gaussian_filter(total[0, 0].cpu().numpy(), sigma)
        found.append(np.clip(smooth / max(float(np.percentile(smooth, BRIGHTEST)), 1e-30), 0, 1))
    return np.stack(found)


def _rows(batch: Batch) -> torch.Tensor:
    return torch.arange(len(batch), device=batch.device)[:, None]
