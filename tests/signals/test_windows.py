"""Windows of events against exact arithmetic, nilearn's regressors and cases worked by hand."""

from __future__ import annotations

import warnings
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from neuropipe.config import Events
from neuropipe.signals.windows import Clock, Windows, label_of, label_windows

CLOCK = Clock(first_s=0.0, t_r=2.0, n_samples=50)
NONE = np.array([], dtype=np.int64)


def table(*rows: tuple[float, float, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["onset_s", "duration_s", "condition"])


def windows(
    *rows: tuple[float, float, str],
    clock: Clock = CLOCK,
    censored: Any = NONE,
    task: str = "a",
    rng: Any = None,
    **rules: Any,
) -> Windows:
    rules = {"delay_s": 0.0, "max_censored_share": None} | rules
    return label_windows(table(*rows), clock, np.asarray(censored), Events(**rules), task, rng)


def spans(found: Windows) -> list[tuple[str, int, int]]:
    return [(window.label, window.first_sample, window.n_samples) for window in found.kept]


def reasons(found: Windows) -> list[tuple[str, str]]:
    return [(reason, condition) for reason, condition, *_ in found.left_out]


# --- which samples ------------------------------------------------------------------------------


@pytest.mark.parametrize("t_r", ["0.72", "1", "0.735", "2", "1.6", "0.8"])
@pytest.mark.parametrize("delay", ["0", "2.88", "3", "4.5"])
def test_a_window_holds_the_samples_acquired_in_it(t_r: str, delay: str) -> None:
    """Decimal arithmetic decides; onsets on the grid of samples are where floats go wrong."""
    rng = np.random.default_rng(0)
    start, n = Decimal("1.44"), 200
    times = [start + i * Decimal(t_r) for i in range(n)]
    clock = Clock(float(start), float(t_r), n)
    for _ in range(40):
        onset = times[int(rng.integers(0, 150))] - Decimal(delay) + Decimal(int(rng.integers(0, 3))) / 100
        duration = Decimal(t_r) * int(rng.integers(1, 20)) + Decimal(int(rng.integers(0, 3))) / 100
        begin, end = onset + Decimal(delay), onset + Decimal(delay) + duration
        inside = [i for i, time in enumerate(times) if begin <= time < end]
        found = windows((float(onset), float(duration), "x"), clock=clock, delay_s=float(delay))
        assert spans(found) == [("x", inside[0], len(inside))]


def test_nilearns_boxcar_is_one_at_the_same_samples() -> None:
    from nilearn.glm.first_level import make_first_level_design_matrix

    rng = np.random.default_rng(1)
    t_r, delay_s, n = 0.8, 4.5, 250
    onset = np.cumsum(rng.uniform(12, 20, 10)).round(1) + 0.05  # never on a sample: nilearn's edges are a 50th of one
    events = pd.DataFrame({"onset": onset, "duration": 9.0, "trial_type": np.resize(["p", "q", "r"], 10)})
    shifted = events.assign(onset=events["onset"] + delay_s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        design = make_first_level_design_matrix(np.arange(n) * t_r, shifted, hrf_model=None, drift_model=None)
    rows = zip(events["onset"], events["duration"], events["trial_type"], strict=True)
    found = windows(*rows, clock=Clock(0.0, t_r, n), delay_s=delay_s)
    for name in "pqr":
        labelled = np.zeros(n, dtype=bool)
        for window in found.kept:
            if window.label == name:
                labelled[window.first_sample : window.first_sample + window.n_samples] = True
        np.testing.assert_array_equal(labelled, design[name].to_numpy() > 0.5)


def test_the_default_delay_fits_the_canonical_response_best() -> None:
    from nilearn.glm.first_level import compute_regressor

    time = np.arange(0, 90, 0.1)
    for duration in (10.0, 16.0, 30.0):
        response = compute_regressor(np.array([[10.0], [duration], [1.0]]), "glover", time)[0][:, 0]
        shifts = np.arange(0, 9, 0.1)
        boxcars = [(time >= 10 + shift) & (time < 10 + shift + duration) for shift in shifts]
        best = shifts[np.argmax([np.corrcoef(response, boxcar)[0, 1] for boxcar in boxcars])]
        assert abs(best - Events().delay_s) <= 0.25


def test_a_clock_that_starts_late() -> None:
    """Samples at 5.25, 7.25, 9.25, 11.25, ..."""
    clock = Clock(first_s=5.25, t_r=2.0, n_samples=40)
    assert clock.end_s == 85.25
    assert spans(windows((8.0, 4.0, "x"), clock=clock)) == [("x", 2, 2)]
    assert spans(windows((5.25, 4.0, "x"), clock=clock)) == [("x", 0, 2)]


def test_what_lies_across_the_ends_is_cut_and_what_lies_outside_is_left_out() -> None:
    found = windows((-3, 7, "x"), (-9, 4, "y"), (95, 20, "x"), (120, 10, "y"), (500, 10, "y"))
    assert spans(found) == [("x", 0, 2), ("x", 48, 2)]
    assert reasons(found) == [("outside the run", "y")] * 3
    assert found.counts["cut at an end"] == 2
    # An onset before the run whose delay brings it in.
    assert spans(windows((-4, 4, "x"), delay_s=4.0)) == [("x", 0, 2)]


# --- what is left out ---------------------------------------------------------------------------


def test_short_censored_and_untimed_windows() -> None:
    found = windows(
        (0, 10, "x"),
        (20, 0, "press"),
        (20.5, 1, "between"),
        (30, 6, "brief"),
        (40, 10, "moved"),
        (60, np.nan, "open"),
        (70, -1, "back"),
        (np.nan, 5, "lost"),
        censored=[20, 21, 22],
        max_censored_share=0.5,
        min_duration_s=8.0,
    )
    assert spans(found) == [("x", 0, 5)]
    expected = [("no onset", "lost"), ("unknown duration", "open"), ("unknown duration", "back")]
    expected += [("too short", "press"), ("too short", "between"), ("too short", "brief"), ("censored", "moved")]
    assert sorted(reasons(found)) == sorted(expected)
    details = {condition: detail for _, condition, _, detail in found.left_out}
    assert "0.60" in details["moved"] and "max_censored_share 0.5" in details["moved"]
    assert "3 samples of 2 s, expected at least 8 s" in details["brief"]


def test_censored_share_is_counted() -> None:
    found = windows((0, 8, "x"), (8, 8, "y"), censored=[3, 4, 5])
    assert [window.censored_share for window in found.kept] == [0.25, 0.5]


def test_a_fixed_duration_replaces_the_events_own() -> None:
    found = windows((0, np.nan, "x"), (20, 1, "x"), duration_s=6.0)
    assert spans(found) == [("x", 0, 3), ("x", 10, 3)]


def test_numbers_do_not_depend_on_the_limits() -> None:
    rows = [(0, 4, "x"), (10, 20, "y"), (40, 4, "x"), (50, 20, "y")]
    assert [window.number for window in windows(*rows).kept] == [1, 2, 3, 4]
    assert [window.number for window in windows(*rows, min_duration_s=10).kept] == [2, 4]


# --- blocks -------------------------------------------------------------------------------------


def test_blocks_of_one_condition_are_joined_where_nothing_happens_between() -> None:
    rows = [(0, 4, "x"), (5, 4, "x"), (12, 4, "x"), (20, 2, "cue"), (22, 4, "x"), (26, 4, "y"), (30, 4, "y")]
    assert len(windows(*rows).kept) == 7
    found = windows(*rows, join_gap_s=1.0, exclude=["cue"])
    assert spans(found) == [("x", 0, 5), ("x", 6, 2), ("x", 11, 2), ("y", 13, 4)]
    assert (found.kept[0].onset_s, found.kept[0].duration_s) == (0, 9)
    assert spans(windows(*rows, join_gap_s=10.0, ignore=["cue"])) == [("x", 0, 13), ("y", 13, 4)]


def test_windows_of_two_labels_that_overlap_are_both_left_out_unless_asked_for() -> None:
    rows = [(0, 10, "x"), (6, 10, "y"), (30, 10, "x"), (32, 10, "x")]
    found = windows(*rows)
    assert spans(found) == [("x", 15, 5), ("x", 16, 5)], "windows of one label may overlap"
    assert reasons(found) == [("overlap", "x"), ("overlap", "y")]
    assert len(windows(*rows, overlap="keep").kept) == 4
    assert len(windows(*rows, exclude=["y"]).kept) == 3


def test_an_overlap_by_rounding_is_trimmed() -> None:
    found = windows((0, 10.01, "x"), (10, 10, "y"))
    assert spans(found) == [("x", 0, 5), ("y", 5, 5)] and not found.left_out


def test_a_long_block_overlaps_everything_inside_it() -> None:
    found = windows((0, 60, "block"), (10, 4, "x"), (30, 4, "y"), (70, 4, "x"))
    assert spans(found) == [("x", 35, 2)] and len(found.left_out) == 3


# --- labels -------------------------------------------------------------------------------------


def test_labels_merge_exclude_and_unknown_conditions() -> None:
    rules: dict[str, Any] = {
        "labels": {"animate": ["face*", "body"], "still": {"conditions": ["house", "scene"], "tasks": ["Loc*"]}},
        "merge": {"scene": ["indoor_?", "outdoor"]},
        "exclude": ["fix*"],
    }
    rows = [(0, 4, "face_1"), (10, 4, "outdoor"), (20, 4, "indoor_2"), (30, 4, "fixation"), (40, 4, "odd"), (50, 4, "")]
    found = windows(*rows, task="localizer", **rules)
    assert spans(found) == [("animate", 0, 2), ("still", 5, 2), ("still", 10, 2)]
    assert [window.condition for window in found.kept] == ["face_1", "outdoor", "indoor_2"]
    assert reasons(found) == [("unknown condition", "odd")]
    assert found.counts == Counter({"excluded": 1, "without condition": 1})
    assert reasons(windows(*rows, task="other", **rules))[0] == ("unknown condition", "outdoor")


def test_the_exact_name_comes_before_a_pattern() -> None:
    rules = Events(labels={"any": ["face*"], "familiar": ["face_known"]})
    assert label_of("face_known", rules) == "familiar" and label_of("face_new", rules) == "any"
    assert label_of("[x]", Events(labels=["[x]"])) == "[x]", "brackets in a name are not a pattern to itself"
    assert label_of("anything", Events()) == "anything"


# --- rest ---------------------------------------------------------------------------------------


def test_gaps_become_rest() -> None:
    rows = [(10, 20, "x"), (32, 10, "cue"), (60, 20, "x")]
    found = windows(*rows, exclude=["cue"], min_rest_s=8.0, delay_s=4.0)
    # Gaps 0-10, 42-60 and 80-96 (a delay before the end at 100); that of 30-32 is too short.
    assert [(w.label, w.onset_s, w.duration_s) for w in found.kept] == [
        ("rest", 0, 10),
        ("x", 10, 20),
        ("rest", 42, 18),
        ("x", 60, 20),
        ("rest", 80, 16),
    ]
    last = found.kept[-1]
    assert last.first_sample + last.n_samples == 50
    samples = [i for w in found.kept for i in range(w.first_sample, w.first_sample + w.n_samples)]
    assert len(samples) == len(set(samples)), "no sample has two labels"


def test_rest_gaps_are_cut_into_pieces() -> None:
    found = windows((0, 50, "x"), min_rest_s=10.0, rest_s=15.0)
    assert spans(found) == [("x", 0, 25), ("rest", 25, 8), ("rest", 33, 7), ("rest", 40, 8)]
    assert found.counts["rest remainder"] == 1


def test_a_resting_run_is_cut_into_drawn_lengths_and_needs_no_events() -> None:
    clock = Clock(0.0, 1.0, 1000)
    rules: dict[str, Any] = {"rest_tasks": ["REST*"], "rest_s": (10, 30), "delay_s": 3.0}
    found = windows(clock=clock, task="rest1", rng=np.random.default_rng(0), **rules)
    lengths = [window.n_samples for window in found.kept]
    assert min(lengths) == 10 and max(lengths) == 29 and {window.label for window in found.kept} == {"rest"}
    starts = np.cumsum([0, *lengths[:-1]])
    assert [window.first_sample for window in found.kept] == starts.tolist(), "contiguous from the first sample"
    assert 1000 - sum(lengths) < 30
    again = windows(clock=clock, task="rest1", rng=np.random.default_rng(0), **rules)
    assert again == found
    assert spans(windows(clock=clock, task="rest1", rest_tasks=["rest?"])) == [("rest", 0, 1000)]
