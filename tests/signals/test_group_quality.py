"""Group quality: planted motion is found, chance is chance, outliers are those that were planted."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neuropipe.signals import group_quality

N_REGIONS = 12
N_EDGES = N_REGIONS * (N_REGIONS - 1) // 2


def planted(n_people: int, weight: np.ndarray | float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return displacement (person,) and edges (person, edge) that follow it with a weight per edge."""
    rng = np.random.default_rng(seed)
    fd_mm = rng.gamma(4, 0.05, n_people)
    standard = (fd_mm - fd_mm.mean()) / fd_mm.std()
    return fd_mm, (rng.normal(size=(n_people, N_EDGES)) + standard[:, None] * weight).astype(np.float32)


def test_connectivity_is_fishers_z_of_the_correlation() -> None:
    rng = np.random.default_rng(0)
    series = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5)) + 100
    kept = np.arange(80) % 7 > 0
    valid = np.array([True, True, False, True, True])
    found = group_quality.connectivity(series, kept, valid)
    row, column = np.triu_indices(5, k=1)
    expected = np.arctanh(np.corrcoef(series[kept].T)[row, column])
    missing = (row == 2) | (column == 2)
    np.testing.assert_allclose(found[~missing], expected[~missing], rtol=1e-4)
    assert np.isnan(found[missing]).all()


def test_qc_fc_is_pearsons_correlation_also_with_missing_edges() -> None:
    fd_mm, edges = planted(30, 0.5)
    edges[:8, 3] = np.nan
    edges[:25, 4] = np.nan
    found = group_quality.qc_fc(zip(fd_mm, edges, strict=True))
    for edge, first in ((0, 0), (1, 0), (3, 8)):
        expected = stats.pearsonr(fd_mm[first:], edges[first:, edge].astype(float))
        assert found.r[edge] == pytest.approx(expected.statistic, rel=1e-4)
        assert found.p[edge] == pytest.approx(expected.pvalue, rel=1e-3)
        assert found.n_people[edge] == 30 - first
    assert np.isnan(found.r[4]) and np.isnan(found.p[4]), "five people are too few"
    assert group_quality.qc_fc([]) is None


def test_planted_motion_is_found_with_its_distance_dependence() -> None:
    centres = np.random.default_rng(1).uniform(-60, 60, (N_REGIONS, 3))
    distance = group_quality.distances(centres)
    fd_mm, edges = planted(300, 1 - distance / distance.max())  # short edges follow motion, the longest does not
    found = group_quality.summary(group_quality.qc_fc(zip(fd_mm, edges, strict=True)), distance)
    assert found["share_significant"] > 0.8
    assert found["median_abs_r"] > 5 * found["expected_median_abs_r"]
    assert found["distance_rho"] < -0.8
    assert (found["n_people"], found["n_edges"]) == (300, N_EDGES)


def test_without_motion_nothing_is_found() -> None:
    shares, uncorrected, medians, rhos = [], [], [], []
    distance = group_quality.distances(np.random.default_rng(1).uniform(-60, 60, (N_REGIONS, 3)))
    for seed in range(20):
        fd_mm, edges = planted(60, 0.0, seed)
        found = group_quality.summary(group_quality.qc_fc(zip(fd_mm, edges, strict=True)), distance)
        shares.append(found["share_significant"])
        uncorrected.append(found["share_significant_uncorrected"])
        medians.append(found["median_abs_r"] / found["expected_median_abs_r"])
        rhos.append(found["distance_rho"])
    assert np.mean(shares) < 0.01
    assert np.mean(uncorrected) == pytest.approx(0.05, abs=0.015)
    assert np.mean(medians) == pytest.approx(1, abs=0.05)
    assert abs(np.mean(rhos)) < 0.1


def test_no_centres_no_distance() -> None:
    fd_mm, edges = planted(20, 0.0)
    found = group_quality.summary(group_quality.qc_fc(zip(fd_mm, edges, strict=True)), np.full(N_EDGES, np.nan))
    assert found["distance_rho"] is None and found["median_abs_r"] is not None


def test_too_few_people_give_no_number() -> None:
    fd_mm, edges = planted(9, 1.0)
    found = group_quality.summary(group_quality.qc_fc(zip(fd_mm, edges, strict=True)), np.ones(N_EDGES))
    assert found["median_abs_r"] is None and found["n_people"] == 9


def test_memory_does_not_grow_with_people() -> None:
    def stream(n_people: int) -> Iterator[tuple[float, np.ndarray]]:
        rng = np.random.default_rng(0)
        for _ in range(n_people):
            yield float(rng.random()), rng.random(20_000, dtype=np.float32)

    peaks = []
    for n_people in (10, 100):
        tracemalloc.start()
        group_quality.qc_fc(stream(n_people))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_robust_z_of_a_normal_sample_is_its_z() -> None:
    values = np.random.default_rng(0).normal(10, 2, 20_000)
    np.testing.assert_allclose(group_quality.robust_z(values), (values - 10) / 2, atol=0.15)
    assert np.isnan(group_quality.robust_z(np.full(20, 3.0))).all()
    assert np.isnan(group_quality.robust_z(np.arange(9.0))).all()


def test_outliers_are_those_planted_with_their_measure() -> None:
    rng = np.random.default_rng(0)
    n = 40
    runs = pd.DataFrame({"run_id": [f"run-{i}" for i in range(n)], "participant_id": [f"sub-{i}" for i in range(n)]})
    runs["mean_fd_mm"] = rng.uniform(0.1, 0.2, n)
    runs["tsnr_median"] = rng.uniform(80, 120, n)
    runs["dvars_after_percent"] = None
    runs.loc[3, "mean_fd_mm"], runs.loc[7, "tsnr_median"] = 0.9, 20.0
    found = group_quality.outliers(runs)
    assert list(zip(found["run_id"], found["measure"], strict=True)) == [
        ("run-3", "mean_fd_mm"),
        ("run-7", "tsnr_median"),
    ]
    assert found["robust_z"].iloc[0] > 3.5 > -3.5 > found["robust_z"].iloc[1]
    assert group_quality.outliers(runs.drop([3, 7])).empty


def test_site_means() -> None:
    runs = pd.DataFrame(
        {
            "participant_id": ["a", "a", "b", "c"],
            "site": ["X", "X", "Y", None],
            "mean_fd_mm": [0.1, 0.3, 0.5, 0.7],
            "tsnr_median": [50.0, 70.0, None, 90.0],
        }
    )
    found = group_quality.site_means(runs).set_index("site")
    assert found.loc["X", ["n_runs", "n_people", "mean_fd_mm", "tsnr_median"]].tolist() == [2, 1, 0.2, 60]
    assert found.loc["Y", "n_runs"] == 1 and np.isnan(found.loc["Y", "tsnr_median"])
    assert found.loc["", "mean_fd_mm"] == 0.7
