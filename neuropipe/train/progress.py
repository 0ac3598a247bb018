"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time

log = logging.getLogger("neuropipe")

LOG_EVERY_S = 15.0


class Progress:
    """Count steps; say the rate and the remaining time.

    Parameters
    ----------
    what : str
        Shown in front.
    total : int
        Steps in all.
    done : int
        Steps that an earlier process did; they do not count for the rate.
    unit : str
        What the steps are.
    log_every_s : float
        A log gets a line when so many seconds have passed since the last; 0 gives one for every step.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, *, unit: str = "steps", log_every_s: float = LOG_EVERY_S
    ) -> None:
        self.unit, self.log_every_s = unit, log_every_s
        self.what, self.total, self.done, self.first = what, total, done, done
        self.begun = self.said = time.monotonic()
        self.said_done = -1
        self.bar = _bar(what, total, done)

    def advance(self, note: str = "") -> None:
        """Count one step; `note` (e.g. the loss) is shown beside it."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, note=f"{self._rate():.2f}/s {note}".rstrip())
        elif time.monotonic() - self.said >= self.log_every_s:
            self._say(note)

    def _say(self, note: str) -> None:
        self.said, self.said_done = time.monotonic(), self.done
        log.info("%s", self._line(note))

    def _rate(self) -> float:
        """Return steps per second of this process."""
        return (self.done - self.first) / max(time.monotonic() - self.begun, 1e-9)

    def _line(self, note: str) -> str:
        rate = self._rate()
        remaining = (self.total - self.done) / max(rate, 1e-9)
        return (
            f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:.2f}/s, {remaining:.0f} s left {note}".rstrip()
        )

    def close(self) -> None:
        """End the bar and log the last line, unless it was said."""
        if self.bar is not None:
            self.bar.stop()
        if self.said_done != self.done:
            self._say("")


def _bar(what: str, total: int, done: int):
    """Return a started rich bar, or None where stderr is no terminal or rich is not installed."""
    if not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    columns = [
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    bar = Bar(*columns, console=Console(stderr=True))
    bar.add_task(what, total=total, completed=done, note="")
    bar.start()
    return bar
