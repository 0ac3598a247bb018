"""Likeness to a group against scikit-learn, numpy, and a planted outlier."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import f1_score

from neuropipe.volumes.group import combine, likeness


def maps_of(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shared = rng.uniform(0, 1, size=(6, 7, 8)) * (rng.uniform(size=(6, 7, 8)) > 0.4)
    return [(shared + (shared > 0) * rng.normal(0, 0.05, size=shared.shape)).astype(np.float32) for _ in range(n)]


def test_mean_mask_overlap_and_correlation() -> None:
    arrays = maps_of(5)
    thresholds = [0.1, 0.2, 0.1, 0.3, 0.1]
    group = combine(lambda: arrays, thresholds)
    np.testing.assert_allclose(group.mean, np.mean(arrays, axis=0), rtol=1e-5, atol=1e-7)
    own = np.array([array > border for array, border in zip(arrays, thresholds, strict=True)])
    np.testing.assert_array_equal(group.mask, own.sum(axis=0) >= 2.5)
    found = likeness(lambda: arrays, thresholds, group)
    # Dice's coefficient of two masks is the F1 score of one as a guess of the other.
    np.testing.assert_allclose(found["group_dice"], [f1_score(group.mask.ravel(), one.ravel()) for one in own])
    expected = [np.corrcoef(array[group.mask], group.mean[group.mask])[0, 1] for array in arrays]
    np.testing.assert_allclose(found["group_correlation"], expected, rtol=1e-6)
    assert np.isnan(found["outlier_z"]).all(), "five maps tell of no outlier"


def test_a_map_of_noise_stands_out() -> None:
    arrays = maps_of(12)
    arrays[7] = np.random.default_rng(1).permutation(arrays[7].ravel()).reshape(arrays[7].shape)
    thresholds = np.full(12, 0.1)
    found = likeness(lambda: iter(arrays), thresholds, combine(lambda: iter(arrays), thresholds))
    assert found["outlier_z"].argmin() == 7 and found["outlier_z"][7] < -3.5
    assert found["group_dice"].argmin() == 7
