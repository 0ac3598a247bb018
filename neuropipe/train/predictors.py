"""What a reconstruction has to beat: predicting zero, the last sample that was told, or that sample fading away."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from neuropipe.data.batch import Batch
from neuropipe.models.embedder import Reconstruction, mean_error


def errors(found: Reconstruction, fading: Tensor | None = None) -> dict[str, Tensor]:
    """Return mean absolute errors over the entries that a model was judged by.

    Parameters
    ----------
    found : Reconstruction
        Of a family's ``reconstruct``.
    fading : Tensor (region,), optional
        Correlation of a sample with the next one; see `lag_one`.

    Returns
    -------
    dict of str to Tensor ()
        ``error`` of the model; ``zero``; ``persistence``, the last sample of the region that was told before; and
        ``ar1``, the same times ``fading`` to the power of the samples since. What nothing was told of is zero.
    """
    told, since = last_told(found.target, found.visible)
    predicted = {"error": found.predicted, "zero": torch.zeros_like(found.target), "persistence": told}
    if fading is not None:
        predicted["ar1"] = told * fading**since
    return {name: mean_error(value, found.target, found.counted) for name, value in predicted.items()}


def last_told(series: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for every entry, the last visible one before it of the same region, and how many samples lie between.

    Parameters
    ----------
    series : Tensor (batch, time, region)
    visible : bool Tensor, broadcastable to the same shape

    Returns
    -------
    told : Tensor (batch, time, region)
        0 where there is none.
    since : int64 Tensor (batch, time, region)
        Steps of time, at least 1.
    """
    visible = visible.expand_as(series)
    position = torch.arange(series.shape[1], device=series.device)[:, None]  # (time, 1)
    last = torch.where(visible, position, -1).cummax(dim=1).values
    before = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], dim=1)
    told = series.gather(1, before.clamp(min=0)) * (before >= 0)
    return told, (position - before).clamp(min=1)


def lag_one(batches: Iterable[Batch]) -> Tensor:
    """Return the correlation of samples with the next one, (region,), over all clips of some batches."""
    products, squares = 0.0, 0.0
    for batch in batches:
        series, valid = batch.measured(), batch.valid_time
        follows = (valid[:, 1:] & valid[:, :-1])[:, :, None]
        products = products + (series[:, 1:] * series[:, :-1] * follows).sum((0, 1))
        squares = squares + (series[:, :-1].square() * follows).sum((0, 1))
    return products / torch.as_tensor(squares).clamp(min=1e-8)
