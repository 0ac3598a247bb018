"""From the events of a run to labelled windows of its series. Pure: tables and numbers in, windows out.

A window holds the samples that were acquired from ``onset + delay`` to before
``onset + delay + duration``. All times are in s on the clock of the onsets, on which the image's
first volume was acquired at `StartTime` (0 unless slices were corrected to another moment).
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from neuropipe.config import Events

# Times are decimal numbers and rarely binary ones: a sample this share of an interval before a window is in it.
SAMPLE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Clock:
    """When the samples of a series were acquired.

    Attributes
    ----------
    first_s : float
        Time of the first sample.
    t_r : float
        Seconds between samples.
    n_samples : int
        Samples of the series.
    """

    first_s: float
    t_r: float
    n_samples: int

    @property
    def end_s(self) -> float:
        """Time at which a sample after the last one would be acquired."""
        return self.first_s + self.n_samples * self.t_r

    def between(self, begin_s: float, end_s: float) -> tuple[int, int]:
        """Return the first sample acquired at `begin_s` or later, and the first at `end_s` or later; both may lie
        outside the series."""
        first, stop = ((time - self.first_s) / self.t_r for time in (begin_s, end_s))
        return int(np.ceil(first - SAMPLE_TOLERANCE)), int(np.ceil(stop - SAMPLE_TOLERANCE))


@dataclass(frozen=True)
class Block:
    """A stretch of time with one condition, before the delay; `label` is None where it has none."""

    onset_s: float
    end_s: float
    condition: str
    label: str | None = None
    delay_s: float = 0.0


@dataclass(frozen=True)
class Window:
    """A labelled stretch of a series.

    Attributes
    ----------
    number : int
        From 1 in the order of onsets, over all labelled stretches of the run, those left out too.
    condition, label : str
        As the table says, and what the label map makes of it.
    onset_s, duration_s : float
        Of the event (or joined events, or gap), without the delay.
    first_sample, n_samples : int
        Its samples that were recorded.
    censored_share : float
        Share of them that is censored.
    """

    number: int
    condition: str
    label: str
    onset_s: float
    duration_s: float
    first_sample: int
    n_samples: int
    censored_share: float


@dataclass
class Windows:
    """The windows of one run, and what became of its other events.

    Attributes
    ----------
    kept : list of Window
        In the order of onsets.
    left_out : list of tuple (reason, condition, onset_s, detail)
        One per event or window that was to have a label and has none.
    counts : Counter
        Events that the rules set aside (``excluded``, ``ignored``, ``without condition``), windows that
        the run's ends cut short (``cut at an end``), and pieces of rest too short to be one (``rest remainder``).
    """

    kept: list[Window] = field(default_factory=list)
    left_out: list[tuple[str, str, float, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def label_windows(
    events: pd.DataFrame,
    clock: Clock,
    censored: np.ndarray,
    rules: Events,
    task: str = "",
    rng: np.random.Generator | None = None,
) -> Windows:
    """Return the labelled windows of one run.

    Parameters
    ----------
    events : DataFrame
        ``onset_s, duration_s, condition`` as `neuropipe.bids.events.read` gives them; empty for a resting run.
    clock : Clock
        When the samples were acquired.
    censored : int array
        Positions of censored samples.
    rules : Events
        Section of the configuration.
    task : str
        The run's task, for labels and rest that belong to certain tasks.
    rng : numpy Generator, optional
        Draws the lengths of the pieces of rest; needed where ``rest_s`` is a range.
    """
    found = Windows()
    if is_rest(task, rules):
        blocks = _pieces(Block(clock.first_s, clock.end_s, rules.rest), rules, rng, found)
    else:
        happened = _join(_timed(events, rules, found), rules.join_gap_s)
        rest = [piece for gap in _gaps(happened, clock, rules) for piece in _pieces(gap, rules, rng, found)]
        blocks = sorted([*happened, *rest], key=lambda block: block.onset_s)
        blocks = [replace(block, delay_s=rules.delay_s) for block in blocks]
    labels = {condition: label_of(condition, rules, task) for condition in {block.condition for block in blocks}}
    labelled = _trim(_labelled(blocks, labels, rules, found), clock.t_r)
    overlapping = _overlapping(labelled) if rules.overlap == "drop" else set()
    is_censored = np.zeros(clock.n_samples, dtype=bool)
    is_censored[np.asarray(censored, dtype=np.int64)] = True
    for number, block in enumerate(labelled, start=1):
        window, is_whole = _cut(number, block, clock, is_censored)
        if refused := _refusal(window, number - 1 in overlapping, clock, rules):
            found.left_out.append((refused[0], block.condition, block.onset_s, refused[1]))
        else:
            found.kept.append(window)
            found.counts["cut at an end"] += not is_whole
    return found


def is_rest(task: str, rules: Events) -> bool:
    """Return whether runs of `task` are rest from end to end."""
    return bool(task) and _any_matches(task.casefold(), (pattern.casefold() for pattern in rules.rest_tasks))


def _any_matches(text: str, patterns: Iterable[str]) -> bool:
    return any(text == pattern or fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _timed(events: pd.DataFrame, rules: Events, found: Windows) -> list[Block]:
    """Return the events as blocks in the order of onsets; those without times are noted and left out.

    An event of unknown duration parts blocks and ends rest, but is no window.
    """
    blocks = []
    for onset, duration, condition in zip(events["onset_s"], events["duration_s"], events["condition"], strict=True):
        if condition and _any_matches(condition, rules.ignore):
            found.counts["ignored"] += 1
        elif np.isnan(onset):
            found.left_out.append(("no onset", condition, np.nan, "onset is n/a; write it, or ignore the condition"))
        else:
            length = duration if rules.duration_s is None else rules.duration_s
            blocks.append(Block(onset, onset + length, condition))
    return blocks


def _join(blocks: Sequence[Block], gap_s: float | None) -> list[Block]:
    """Return `blocks` with those of one condition made one that follow each other within `gap_s`."""
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        follows = gap_s is not None and last is not None and last.condition == block.condition
        if follows and block.onset_s - last.end_s <= gap_s + 1e-6:
            joined[-1] = replace(last, end_s=float(np.fmax(last.end_s, block.end_s)))
        else:
            joined.append(block)
    return joined


def _gaps(blocks: Sequence[Block], clock: Clock, rules: Events) -> list[Block]:
    """Return the stretches of at least `min_rest_s` without any event; the last ends a delay before the run does."""
    if rules.min_rest_s is None:
        return []
    gaps, begins = [], clock.first_s
    for onset_s, end_s in [*((block.onset_s, block.end_s) for block in blocks), (clock.end_s - rules.delay_s, np.nan)]:
        if onset_s - begins >= rules.min_rest_s - 1e-6:
            gaps.append(Block(begins, onset_s, rules.rest))
        begins = float(np.nanmax([begins, onset_s, end_s]))
    return gaps


def _pieces(rest: Block, rules: Events, rng: np.random.Generator | None, found: Windows) -> list[Block]:
    """Return a stretch of rest cut as `rest_s` says; what remains in the end and is too short is counted."""
    if rules.rest_s is None:
        return [rest]
    pieces, begins = [], rest.onset_s
    while (ends := begins + _length(rules.rest_s, rng)) <= rest.end_s + 1e-6:
        pieces.append(replace(rest, onset_s=begins, end_s=ends))
        begins = ends
    found.counts["rest remainder"] += rest.end_s - begins > 1e-6
    return pieces


def _length(rest_s: float | tuple[float, float], rng: np.random.Generator | None) -> float:
    if not isinstance(rest_s, tuple):
        return rest_s
    assert rng is not None, "a range of lengths needs a generator"
    shortest = int(np.ceil(rest_s[0]))
    return float(rng.integers(shortest, max(int(np.ceil(rest_s[1])), shortest + 1)))


def _labelled(blocks: Iterable[Block], labels: Mapping[str, str | None], rules: Events, found: Windows) -> list[Block]:
    """Return the blocks that have a label and a duration; the others are counted or noted."""
    labelled = []
    for block in blocks:
        length_s = block.end_s - block.onset_s
        if not block.condition:
            found.counts["without condition"] += 1
        elif _any_matches(block.condition, rules.exclude):
            found.counts["excluded"] += 1
        elif labels[block.condition] is None:
            detail = "no label takes it; add it to labels, exclude or ignore"
            found.left_out.append(("unknown condition", block.condition, block.onset_s, detail))
        elif not length_s >= 0:  # NaN too
            said = "n/a" if np.isnan(length_s) else f"{length_s:g} s"
            detail = f"duration is {said}; write it, or set duration_s"
            found.left_out.append(("unknown duration", block.condition, block.onset_s, detail))
        else:
            labelled.append(replace(block, label=labels[block.condition]))
    return labelled


def label_of(condition: str, rules: Events, task: str = "") -> str | None:
    """Return the label of a condition in a run of `task`; None where the label map has none.

    A condition is first renamed by `merge`. Of several labels the one that names the condition
    itself comes before those that match it by a pattern, and then the first of the map.
    """
    renamed = [new for new, patterns in rules.merge.items() if _any_matches(condition, patterns)]
    name = renamed[0] if renamed else condition
    labels = rules.label_map()
    if labels is None:
        return name
    fitting = [
        (name not in label.conditions, place, own)
        for place, (own, label) in enumerate(labels.items())
        if _any_matches(name, label.conditions)
        and (not label.tasks or _any_matches(task.casefold(), (pattern.casefold() for pattern in label.tasks)))
    ]
    return min(fitting)[2] if fitting else None


def _trim(blocks: Sequence[Block], t_r: float) -> list[Block]:
    """End blocks where the next of another label begins, if they overlap by no more than one sample's time."""
    trimmed = list(blocks)
    for i in range(len(trimmed) - 1):
        this, following = trimmed[i], trimmed[i + 1]
        if (
            this.label != following.label
            and 0 < this.end_s - following.onset_s <= t_r < following.onset_s - this.onset_s
        ):
            trimmed[i] = replace(this, end_s=following.onset_s)
    return trimmed


def _overlapping(blocks: Sequence[Block]) -> set[int]:
    """Return the places of blocks that share time with a block of another label."""
    found = set()
    for i, this in enumerate(blocks):
        for j in range(i + 1, len(blocks)):
            if not blocks[j].onset_s < this.end_s - 1e-6:  # sorted by onset: none later overlaps either
                break
            if blocks[j].label != this.label:
                found |= {i, j}
    return found


def _cut(number: int, block: Block, clock: Clock, censored: np.ndarray) -> tuple[Window, bool]:
    """Return what the run holds of a block, and whether that is all of it; `n_samples` may be 0, or less outside."""
    begin_s, length_s = block.onset_s + block.delay_s, block.end_s - block.onset_s
    first, stop = clock.between(begin_s, begin_s + length_s)
    held_first, held_stop = max(first, 0), min(stop, clock.n_samples)
    held = censored[held_first:held_stop]
    about = (number, block.condition, block.label, block.onset_s, length_s)
    window = Window(*about, held_first, held_stop - held_first, float(held.mean()) if len(held) else 0.0)
    return window, (held_first, held_stop) == (first, stop)


def _refusal(window: Window, overlaps: bool, clock: Clock, rules: Events) -> tuple[str, str] | None:
    """Return why a window is left out: a reason, and what was expected and what to do; None where it is kept."""
    begin_s = window.onset_s + rules.delay_s
    if overlaps:
        return "overlap", "overlaps a window of another label; exclude one of the conditions, or set overlap: keep"
    if window.n_samples <= 0 and (begin_s >= clock.end_s or begin_s + window.duration_s <= clock.first_s):
        return "outside the run", f"the series lasts from {clock.first_s:g} to {clock.end_s:g} s, delay counted"
    if window.n_samples < 1 or window.n_samples * clock.t_r < rules.min_duration_s - 1e-6:
        least = max(rules.min_duration_s, clock.t_r)
        held = f"holds {max(window.n_samples, 0)} samples of {clock.t_r:g} s"
        return "too short", f"{held}, expected at least {least:g} s; set duration_s, or lower min_duration_s"
    if rules.max_censored_share is not None and window.censored_share > rules.max_censored_share:
        limit = f"max_censored_share {rules.max_censored_share:g}"
        return "censored", f"{window.censored_share:.2f} of it is censored, expected at most {limit}"
    return None
