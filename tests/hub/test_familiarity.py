"""Familiarity against scikit-learn's Mahalanobis distance, and on people who are planted far away."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi
from sklearn.covariance import LedoitWolf

from neuropipe.errors import CheckpointError, InputError
from neuropipe.hub import familiarity


def people(n: int, rng: np.random.Generator, n_features: int = 8) -> np.ndarray:
    return rng.standard_normal((n, n_features)) * np.linspace(0.5, 3, n_features) + 10


def test_with_all_components_it_is_the_mahalanobis_distance_of_scikit_learn():
    rng = np.random.default_rng(0)
    train, new = people(300, rng), people(50, rng)
    found = familiarity.fit(train, people(100, rng))
    expected = np.sqrt(LedoitWolf().fit(train).mahalanobis(new))
    np.testing.assert_allclose(found.distance(new), expected, rtol=1e-9)


def test_the_threshold_is_passed_by_few_familiar_and_all_strange_people():
    rng = np.random.default_rng(1)
    found = familiarity.fit(people(2000, rng), people(2000, rng))
    assert found.threshold == pytest.approx(chi.ppf(0.975, 8), rel=0.05)
    assert found.is_far(people(4000, rng)).mean() == pytest.approx(0.025, abs=0.012)
    assert found.is_far(people(100, rng) + 20).all()


def test_people_who_differ_where_the_training_people_do_not_vary_are_strange():
    rng = np.random.default_rng(2)

    def like(n):  # forty features, of which only three vary much
        return rng.standard_normal((n, 3)) @ np.eye(3, 40) + 0.01 * rng.standard_normal((n, 40))

    found = familiarity.fit(like(10), like(30))
    assert len(found.components) == 9
    assert found.is_far(like(200)).mean() < 0.3
    assert found.is_far(like(20) + 0.5 * np.eye(40)[30]).all()


def test_at_most_64_components_are_kept():
    rng = np.random.default_rng(3)
    assert len(familiarity.fit(people(200, rng, 150), people(20, rng, 150)).components) == 64


def test_it_is_saved_without_pickles_and_read_back(tmp_path):
    rng = np.random.default_rng(4)
    found = familiarity.fit(people(30, rng), people(9, rng))
    found.save(tmp_path / "familiarity.npz")
    again = familiarity.Familiarity.load(tmp_path / "familiarity.npz")
    new = people(5, rng)
    assert (again.distance(new) == found.distance(new)).all() and again.threshold == found.threshold
    with np.load(tmp_path / "familiarity.npz", allow_pickle=False) as held:
        assert all(held[name].dtype == np.float64 for name in held.files)


def test_damaged_files_and_too_few_people_are_refused(tmp_path):
    (tmp_path / "familiarity.npz").write_bytes(b"PK\x03\x04 not a zip")
    for name in ("familiarity.npz", "nothing.npz"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            familiarity.Familiarity.load(tmp_path / name)
    np.savez(tmp_path / "objects.npz", mean=np.array([{}], dtype=object))
    with pytest.raises(CheckpointError, match=r"objects\.npz cannot be read"):
        familiarity.Familiarity.load(tmp_path / "objects.npz")
    with pytest.raises(InputError, match="found 1 and 0"):
        familiarity.fit(np.zeros((1, 3)), np.zeros((0, 3)))
