"""Windows of random length, as learning-from-brains cuts them: one of a run, or two that may follow each other.

Lengths are drawn first, then one start on the grid of that length. Everything that is drawn comes from numpy's old
generator in the order of the release, so that equal seeds give its windows. Arrays have time first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MOST_GAP_LEFT = 4  # samples that a gap must leave to the two parts of a pair


class Window(NamedTuple):
    """Samples ``start`` to ``start + length`` of a run."""

    start: int
    length: int


def lengths(n_samples: int, shortest: int, longest: int) -> tuple[int, int]:
    """Return the first and last length that is drawn from a run of `n_samples`, `longest` itself never being one."""
    if n_samples <= shortest:
        return n_samples, n_samples
    limit = min(longest, n_samples)
    return shortest, max(limit - 1, shortest)


def starts(n_samples: int, length: int) -> np.ndarray:
    """Return where windows of `length` may start in a run of `n_samples`: side by side, the last one left out."""
    return np.arange(0, max(n_samples - length, 1), length)


def draw(n_samples: int, shortest: int, longest: int, rng: np.random.RandomState) -> Window:
    """Return a random window of a run of `n_samples`; a run that is not longer than `shortest` is taken whole.

    Parameters
    ----------
    n_samples : int
        Length of the run.
    shortest, longest : int
        Lengths are uniform on [shortest, longest), both cut to the run.
    rng : RandomState
        Gives one length, then one start.
    """
    if n_samples <= shortest:
        return Window(0, n_samples)
    limit = min(longest, n_samples)
    length = limit if limit <= shortest else int(rng.randint(shortest, limit, 1)[0])
    return Window(int(rng.choice(starts(n_samples, length), 1)[0]), length)


def first(n_samples: int, longest: int) -> Window:
    """Return the first `longest` samples of a run, or all: what is read where nothing is drawn."""
    return Window(0, min(longest, n_samples))


def draw_gap(length: int, smallest: int, largest: int, rng: np.random.RandomState) -> int:
    """Return the samples between the parts of a pair, uniform on [smallest, largest); 0 where a window is too short."""
    gap = 0 if smallest == largest else int(rng.randint(smallest, largest, 1)[0])
    return 0 if gap > length - MOST_GAP_LEFT else gap


class Cut(NamedTuple):
    """A window on its way into a batch, filled up with zeros to the longest one.

    Attributes
    ----------
    series : float32 array (time, region)
    seconds : float32 array (time,)
        Of every sample since the start of its window, or of its part of a pair.
    valid : bool array (time,)
        False in the padding.
    part : int64 array (time,)
        1 in the second part of a pair, else 0.
    """

    series: np.ndarray
    seconds: np.ndarray
    valid: np.ndarray
    part: np.ndarray


def cut(series: np.ndarray, t_r: float, window: Window, longest: int) -> Cut:
    """Cut one window out of `series` (time, region); its clock starts at 0."""
    return _joined([series[window.start : window.start + window.length]], t_r, longest)


def halves(series: np.ndarray, window: Window, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the two parts of a pair out of `series`, `gap` samples between them; the second takes the odd sample."""
    n_first = (window.length - gap) // 2
    begin, end = window.start, window.start + window.length
    return series[begin : begin + n_first], series[begin + n_first + gap : end]


def pair(
    runs: tuple[np.ndarray, np.ndarray],
    t_r: tuple[float, float],
    windows: tuple[Window, Window],
    gaps: tuple[int, int],
    exchanged: tuple[bool, bool],
    longest: int,
) -> tuple[Cut, Cut]:
    """Return the two pairs that two runs give.

    Parameters
    ----------
    runs : two arrays (time, region)
    t_r : two floats
        Seconds between samples of each run; a part keeps the clock of the run it is from.
    windows, gaps : two of each
        Where each run is cut.
    exchanged : two bools
        Whether the first part of each run is followed by the second part of the other run: the label of the pair,
        which the release stores as ``is_next``, although it says the opposite.
    longest : int
        Samples that a pair is filled up to.
    """
    parts = [halves(*given) for given in zip(runs, windows, gaps, strict=True)]
    found = []
    for i in (0, 1):
        second = 1 - i if exchanged[i] else i
        found.append(_joined([parts[i][0], parts[second][1]], [t_r[i], t_r[second]], longest))
    return found[0], found[1]


def _joined(parts: list[np.ndarray], t_r: float | list[float], longest: int) -> Cut:
    """Return parts one behind the other, zeros up to `longest` behind the last."""
    series = np.zeros((longest, parts[0].shape[1]), dtype=np.float32)
    seconds, part = np.zeros(longest, dtype=np.float32), np.zeros(longest, dtype=np.int64)
    end = 0
    for number, (values, step) in enumerate(zip(parts, np.broadcast_to(t_r, len(parts)), strict=True)):
        place = slice(end, end + len(values))
        series[place], seconds[place], part[place] = values, np.arange(len(values)) * step, number
        end += len(values)
    return Cut(series, seconds, np.arange(longest) < end, part)
