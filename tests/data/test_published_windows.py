"""Windows and pairs of learning-from-brains, against the sentences that define them."""

from __future__ import annotations

import numpy as np
import pytest

from neuropipe.data import windows
from neuropipe.data.windows import Window

N_DRAWS = 4000


@pytest.mark.parametrize(("n", "shortest", "longest"), [(9, 10, 50), (11, 10, 50), (60, 10, 30), (200, 15, 55)])
def test_all_lengths_and_starts_are_drawn_and_no_others(n, shortest, longest):
    rng = np.random.RandomState(0)
    drawn = [windows.draw(n, shortest, longest, rng) for _ in range(N_DRAWS)]
    least, most = windows.lengths(n, shortest, longest)
    assert {one.length for one in drawn} == set(range(least, most + 1))
    assert all(one.start % one.length == 0 and one.start + one.length <= n for one in drawn)
    of_least = {one.start for one in drawn if one.length == least}
    assert of_least == set(windows.starts(n, least))


def test_a_window_keeps_its_samples_and_a_clock_of_its_own():
    series = np.arange(40.0).reshape(20, 2)
    found = windows.cut(series, 0.72, Window(5, 4), 7)
    np.testing.assert_array_equal(found.series[:4], series[5:9])
    assert not found.series[4:].any() and found.valid.tolist() == [True] * 4 + [False] * 3
    np.testing.assert_allclose(found.seconds, [0, 0.72, 1.44, 2.16, 0, 0, 0], rtol=1e-6)


def test_parts_of_a_pair_are_the_runs_own_or_exchanged():
    """Samples carry their run and position as numbers: 0-99 in the first run, 100-199 in the second."""
    runs = tuple(np.arange(100.0)[:, None] + shift for shift in (0, 100))
    places = (Window(10, 11), Window(20, 8))
    own, other = windows.pair(runs, (2.0, 3.0), places, (2, 1), (False, True), longest=12)
    assert own.series[:9, 0].tolist() == [10, 11, 12, 13, 16, 17, 18, 19, 20]  # 4, two left out, 5
    assert own.part.tolist() == [0] * 4 + [1] * 5 + [0] * 3
    assert own.seconds[:9].tolist() == [0, 2, 4, 6, 0, 2, 4, 6, 8]
    assert other.series[:8, 0].tolist() == [120, 121, 122, 16, 17, 18, 19, 20]
    assert other.seconds[:8].tolist() == [0, 3, 6, 0, 2, 4, 6, 8]  # a part keeps its own run's repetition time


def test_gaps_leave_something_on_either_side():
    rng = np.random.RandomState(1)
    drawn = {windows.draw_gap(30, 1, 5, rng) for _ in range(200)}
    assert drawn == {1, 2, 3, 4} and windows.draw_gap(30, 0, 0, rng) == 0
    assert {windows.draw_gap(6, 1, 5, rng) for _ in range(200)} == {0, 1, 2}
