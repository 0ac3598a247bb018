"""Being asked to stop: a cluster that takes a machine back sends a signal, and the work up to now is kept.

SIGTERM is sent at the end of a job's time and on pre-emption, SIGUSR1 before it where a cluster is asked to warn
(``sbatch --signal=USR1@120``). The step at hand is finished and saved, and
the exit code says that the job is to be run again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Notice:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.given = False

    def __call__(self, number: int, frame: object) -> None:
        """Take note of a signal."""
        self.given = True


@contextmanager
def noticed() -> Iterator[Notice]:
    """Yield a notice that is given once one of `SIGNALS` arrives, which otherwise do nothing until the block ends.

    Python hears signals in its main thread only; in any other the notice is never given.
    """
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = {number: signal.signal(number, notice) for number in SIGNALS}
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
