"""What is kept of a run over time: carpets, files that are the same every time, numbers before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuropipe.errors import InputError
from neuropipe.signals import quality, traces
from neuropipe.signals.traces import LEVELS, MAX_COLUMNS, Traces


def test_a_carpet_is_grey_by_standard_deviations_around_the_line() -> None:
    time = np.arange(200)
    square = np.where(time // 2 % 2, 1.0, -1.0)  # mean 0, standard deviation 1, next to no slope
    series = np.stack([500 + 3 * square + 0.7 * time, np.full(200, np.nan), np.full(200, 9.0)], axis=1)
    found = traces.carpet(series, np.ones(200, dtype=bool))
    assert found.shape == (3, 200) and found.dtype == np.uint8
    low, high = (1 + round((value + 2.5) / 5 * (LEVELS - 1)) for value in (-1, 1))
    assert set(found[0]) == {low, high}
    assert (found[0] == np.where(square > 0, high, low)).all()
    assert not found[1:].any(), "missing and constant regions have no grey"


def test_a_long_carpet_is_averaged_and_censored_volumes_do_not_scale_it() -> None:
    rng = np.random.default_rng(0)
    series, kept = rng.normal(size=(MAX_COLUMNS * 4, 5)), np.ones(MAX_COLUMNS * 4, dtype=bool)
    assert traces.carpet(series, kept).shape == (5, MAX_COLUMNS)
    short, kept = series[:100].copy(), np.arange(100) != 50
    expected = traces.carpet(short, kept)
    short[50] = np.inf
    found = traces.carpet(short, kept)
    np.testing.assert_array_equal(np.delete(found, 50, axis=1), np.delete(expected, 50, axis=1))


def made(n: int = 60) -> tuple[dict, Traces, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    fd_mm = rng.gamma(2, 0.1, n)
    fd_mm[0] = np.nan
    raw = 100 + rng.normal(size=(n, 4)) + 5 * np.nan_to_num(fd_mm)[:, None]
    residual = rng.normal(size=(n, 4)) / 4
    censored = np.arange(n) == 7
    numbers, found = traces.compare(raw, residual, 2.0, censored, fd_mm, raw.mean(axis=0), np.ones(4), np.full(4, 50.0))
    return numbers, found, raw, residual


def test_numbers_before_and_after() -> None:
    numbers, found, raw, residual = made()
    kept, fd = ~found.censored, found.fd_mm.astype(float)
    for when, series in (("before", raw), ("after", residual)):
        dvars = quality.dvars_trace(series, raw.mean(axis=0), kept)
        assert numbers[f"dvars_{when}_percent"] == pytest.approx(np.nanmean(dvars))
        assert numbers[f"fd_dvars_correlation_{when}"] == pytest.approx(quality.correlation(fd, dvars), rel=1e-4)
        assert numbers[f"edge_motion_{when}"] == pytest.approx(quality.edge_motion(series, fd, kept), rel=1e-3)
        np.testing.assert_allclose(getattr(found, f"dvars_{when}"), dvars, rtol=1e-6)
    assert numbers["edge_motion_after"] < numbers["edge_motion_before"]


def test_what_is_not_known_is_none() -> None:
    series = np.random.default_rng(0).normal(size=(50, 4))
    numbers, found = traces.compare(series, series, 2.0, np.zeros(50, dtype=bool), None, None)
    assert set(numbers.values()) == {None}
    assert found.before.shape == (4, 50) and np.isnan(found.fd_mm).all() and np.isnan(found.coverage).all()
    numbers, found = traces.compare(series, None, 2.0, np.zeros(50, dtype=bool), None, series.mean(axis=0))
    assert numbers["dvars_before_percent"] is not None and numbers["dvars_after_percent"] is None
    assert found.after.shape == (4, 0)
    numbers, found = traces.compare(series, None, 2.0, np.ones(50, dtype=bool), np.ones(50), None)
    assert set(numbers.values()) == {None} and not found.before.any()


def test_files_are_read_back_and_the_same_every_time(tmp_path: Path) -> None:
    _, found, _, _ = made()
    for name in ("a.npz", "b.npz"):
        found.write(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = Traces.read(tmp_path / "a.npz")
    assert read.t_r == 2.0
    for name in ("censored", "fd_mm", "dvars_before", "dvars_after", "before", "after", "coverage", "tsnr"):
        np.testing.assert_array_equal(getattr(read, name), getattr(found, name))
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"a\.npz cannot be read.*parcellate"):
        Traces.read(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"b\.npz cannot be read"):
        Traces.read(tmp_path / "b.npz")
