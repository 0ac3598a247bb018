"""Snags 6-12: when volumes were taken, and what may be made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_study import SHAPE, TinyStudy, confounds_table, save
from whole_line import LOOSE, Parcellated, indexed


def with_signal(study: TinyStudy, subject: str, signal: np.ndarray, t_r: float, **options: Any) -> None:
    """Add a run whose regions all hold `signal` on top of a mean of 1000."""
    image = study.add(subject, n_volumes=len(signal), t_r=t_r, **options)
    save(study.data / image, np.broadcast_to(1000 + signal, (*SHAPE, len(signal))).astype(np.float32), t_r)


@pytest.mark.parametrize(
    ("header_t_r", "why"),
    [
        (1.0, "fMRIPrep 23.2.0 wrote 1 for every run"),
        (1000.0, "a raw header in ms, kept as s"),
        (2000.0, "the same of 2 s"),
    ],
)
def test_06_a_header_that_contradicts_the_sidecar_is_refused(study: TinyStudy, header_t_r: float, why: str) -> None:
    """A run of 2 s read as one of 1 s would be filtered at half its true frequencies."""
    study.add("01", t_r=2.0, header_t_r=header_t_r)
    left_out = indexed(study).left_out("01")
    assert left_out.startswith("repetition time mismatch"), why
    assert "sidecar says 2.0 s" in left_out and f"{header_t_r:g} s" in left_out


def test_06_a_header_that_says_nothing_leaves_it_to_the_sidecar(study: TinyStudy) -> None:
    study.add("01", t_r=1.5, header_t_r=0.0)  # multi-echo runs of fMRIPrep
    assert indexed(study).runs.loc[0, "t_r"] == "1.5"


@pytest.mark.parametrize(("header_t_r", "unit"), [(1500.0, "msec"), (1500.0, "unknown"), (1.5, "unknown")])
def test_07_units_of_the_header_are_read_or_tried(study: TinyStudy, header_t_r: float, unit: str) -> None:
    study.add("01", t_r=1.5, header_t_r=header_t_r, unit=unit)
    assert indexed(study).runs.loc[0, "t_r"] == "1.5"


def test_08_sparse_sampling_is_not_made_finer(study: TinyStudy) -> None:
    """Volumes every 5 s with a pause between them: samples every 2 s would be invented."""
    study.add("01", t_r=5.0, sidecar={"RepetitionTime": 5.0, "DelayTime": 3.0})
    left_out = Parcellated(study, **LOOSE).left_out("01_task-rest")
    assert left_out.startswith("up-sampling") and "found 5 s" in left_out and "clean.t_r" in left_out


def test_08_sparse_sampling_keeps_its_own_time_and_says_its_band(study: TinyStudy) -> None:
    """At 5 s nothing above 0.1 Hz can be known, whatever low_pass asks for."""
    study.add("01", t_r=5.0, sidecar={"RepetitionTime": 5.0, "DelayTime": 3.0})
    own = {"clean": {"strategy": "none", "t_r": None, "low_pass": 0.2}}
    about = Parcellated(study, **LOOSE | own).product("01_task-rest").about
    assert about["RepetitionTime"] == 5.0 and about["PassBand"][1] <= 0.1


def test_08_volumes_at_listed_times_are_left_out(study: TinyStudy) -> None:
    study.add("01", n_volumes=3, sidecar={"VolumeTiming": [0, 2, 5]})
    assert indexed(study).left_out("01").startswith("irregular sampling")


@pytest.mark.parametrize(
    ("sidecar", "start_s"),
    [
        ({"StartTime": 0.975, "SliceTimingCorrected": True}, 0.975),
        ({"SliceTimingCorrected": False}, 0.0),
        ({"SliceTimingCorrected": True}, None),  # corrected to a moment that nobody wrote down
    ],
)
def test_09_the_time_of_the_first_sample_is_kept(study: TinyStudy, sidecar: dict, start_s: float | None) -> None:
    """Whoever cuts clips around events needs it; two volumes that were not steady are cut off before it."""
    table = confounds_table(np.random.default_rng(0), 150).assign(
        **{f"non_steady_state_outlier{n:02d}": np.eye(150)[n] for n in (0, 1)}
    )
    study.add("01", sidecar={"RepetitionTime": 2.0, **sidecar}, confounds=table)
    about = Parcellated(study).product("01_task-rest").about
    assert about["NonSteadyStateVolumesRemoved"] == 2
    assert about.get("StartTime") == (None if start_s is None else pytest.approx(start_s + 2 * 2.0))


def test_10_runs_that_are_too_short_for_the_filter(study: TinyStudy) -> None:
    """33 volumes, where a Butterworth of order 5 raises; and 120 of which scrubbing leaves fewer than it needs."""
    study.add("01", n_volumes=33)
    fd_mm = np.where(np.arange(120) % 12 < 6, 2.0, 0.1)
    fd_mm[0] = np.nan
    study.add(
        "02",
        n_volumes=70,
        confounds=confounds_table(np.random.default_rng(0), 70).assign(framewise_displacement=fd_mm[:70]),
    )
    limits = LOOSE["exclude"] | {"max_mean_fd_mm": None, "max_censored_share": None}
    done = Parcellated(study, clean={"strategy": "scrubbing"}, exclude=limits)
    assert done.left_out("01_task-rest").startswith("too few volumes: expected at least 50")
    assert done.left_out("02_task-rest").startswith("too few volumes: expected at least 50")


def test_11_what_is_too_fast_for_the_new_sampling_is_gone(study: TinyStudy) -> None:
    """0.45 Hz, sampled every 2 s, would pass for 0.05 Hz; the gaps of censored volumes change nothing in that."""
    times = 0.72 * np.arange(500)
    slow, fast = np.sin(2 * np.pi * 0.03 * times), np.sin(2 * np.pi * 0.45 * times)
    table = confounds_table(np.random.default_rng(0), 500)
    table.loc[[100, 101, 300], "framewise_displacement"] = 2.0
    with_signal(study, "01", 5 * slow, 0.72, confounds=table)
    with_signal(study, "02", 5 * slow + 20 * fast, 0.72, confounds=table)
    clean = {"strategy": "scrubbing", "low_pass": None, "standardize": "none"}
    done = Parcellated(study, clean=clean, exclude=LOOSE["exclude"])
    alone, mixed = (done.product(f"{subject}_task-rest") for subject in ("01", "02"))
    assert alone.about["CensoredVolumes"] and alone.about["RepetitionTime"] == 2.0
    difference = (mixed.series - alone.series)[:, 0]
    alias = np.exp(2j * np.pi * 0.05 * 2.0 * np.arange(len(difference)))
    assert 2 * abs((difference * alias).mean()) < 0.2, "an amplitude of 20 went in"


@pytest.mark.parametrize(("n_volumes", "t_r", "expected"), [(201, 1.5, 151), (150, 2.0, 150), (500, 0.72, 180)])
def test_12_samples_end_with_the_last_volume_and_do_not_overshoot(
    study: TinyStudy, n_volumes: int, t_r: float, expected: int
) -> None:
    """floor((N - 1) t_r / 2) + 1 of them: none lies after the last volume, where a spline runs away."""
    frequency = 15 / (2 * n_volumes * t_r)  # of a discrete cosine, which the filter passes whole
    with_signal(study, "01", 10 * np.cos(2 * np.pi * frequency * t_r * (np.arange(n_volumes) + 0.5)), t_r)
    clean = {"strategy": "none", "standardize": "none", "low_pass": None}
    series = Parcellated(study, clean=clean).product("01_task-rest").series
    truth = 10 * np.cos(2 * np.pi * frequency * (2.0 * np.arange(expected) + t_r / 2))
    np.testing.assert_allclose(series, np.broadcast_to(truth[:, None], series.shape), atol=1e-3)
