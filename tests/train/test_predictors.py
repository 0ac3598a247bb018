"""What a reconstruction is compared with, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neuropipe.data.batch import Batch
from neuropipe.models.embedder import Reconstruction
from neuropipe.train import predictors


def test_the_last_told_sample_is_found_region_by_region():
    series = torch.tensor([[1.0, 10], [2, 20], [3, 30], [4, 40]])[None]
    visible = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]], dtype=torch.bool)[None]
    told, since = predictors.last_told(series, visible)
    assert told[0].tolist() == [[0, 0], [0, 10], [2, 20], [2, 20]]
    assert since[0].tolist() == [[1, 1], [2, 1], [1, 1], [2, 2]]


def test_an_autoregression_is_predicted_as_well_as_it_can_be():
    """z[t] = phi z[t-1] + e: errors are E|z| = sqrt(2/pi) of zero, and of the others in closed form."""
    phi, rng = 0.8, np.random.default_rng(0)
    noise = rng.standard_normal((40, 2000, 2)) * math.sqrt(1 - phi**2)
    z = np.zeros_like(noise)
    z[:, 0] = rng.standard_normal((40, 2))
    for t in range(1, z.shape[1]):
        z[:, t] = phi * z[:, t - 1] + noise[:, t]
    series = torch.from_numpy(z).float()
    fading = predictors.lag_one([Batch.of_series(part) for part in series.split(10)])
    torch.testing.assert_close(fading, torch.full((2,), phi), atol=0.01, rtol=0)
    counted = torch.ones_like(series, dtype=torch.bool)
    counted[:, 0] = False
    found = Reconstruction(torch.zeros_like(series), series, counted, torch.ones_like(counted))
    errors = {name: value.item() for name, value in predictors.errors(found, fading).items()}
    mean_abs = math.sqrt(2 / math.pi)
    assert errors["error"] == errors["zero"] == pytest.approx(mean_abs, abs=0.01)
    assert errors["persistence"] == pytest.approx(mean_abs * math.sqrt(2 - 2 * phi), abs=0.01)
    assert errors["ar1"] == pytest.approx(mean_abs * math.sqrt(1 - phi**2), abs=0.01)


def test_padding_and_gaps_are_no_neighbours():
    series = torch.tensor([1.0, 2, 100, 2, 4]).view(1, 5, 1)
    valid = torch.tensor([[True, True, False, True, True]])
    batch = Batch.of_series(series)
    batch = type(batch)(**{**vars(batch), "valid_time": valid})
    assert predictors.lag_one([batch]).item() == pytest.approx((2 + 8) / (1 + 4))
