"""The errors that a user can mend, and the one that leaves a single run out.

NeuropipeError            exit code 2, one clear line, no traceback unless --debug
├── ConfigError           a study or recipe file says something impossible
├── InputError            a file is missing, truncated, of the wrong type or shape
│   └── AtlasError        an atlas is unknown, unfetched, altered or in another space
├── SplitError            a split cannot be made, or leaks
├── CheckpointError       weights do not fit the model, or were made for other regions
├── WriteError            a disk is full, or does not let itself be written to
├── LockedError           another process is writing the same product
└── Interrupted           asked to stop by a signal; what was done is saved (exit code 75: run it again)
RunExcluded               one run cannot be used: it is written to ``excluded.tsv`` and the others go on
"""

from __future__ import annotations

from typing import Any


class NeuropipeError(Exception):
    """Something the user can mend; the message says what, where and how."""

    exit_code = 2


class ConfigError(NeuropipeError):
    """A configuration or recipe cannot be used as it is."""


class InputError(NeuropipeError):
    """An input file is missing, damaged, or not what it should be."""


class AtlasError(InputError):
    """An atlas is unknown, not fetched, altered, or lies in another space."""


class SplitError(NeuropipeError):
    """A split cannot be made as asked, or puts one person on two sides."""


class CheckpointError(NeuropipeError):
    """A checkpoint does not match the model or the data it is asked to read."""


class WriteError(NeuropipeError):
    """A disk refuses what is to be written: it is full, over quota, for reading only, or gone."""


class LockedError(NeuropipeError):
    """Another live process holds the product that this one wants to write."""


class Interrupted(NeuropipeError):
    """The process was asked to stop by a signal, and saved its work; the same command goes on from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class RunExcluded(Exception):
    """One run is left out; the rest of its chunk goes on.

    Parameters
    ----------
    reason : str
        A short stable word for tables, e.g. ``"truncated image"``.
    detail : str
        What was expected, what was found, and what to do.

    Attributes
    ----------
    quality : dict
        What was known of the run nonetheless, by measure; shown beside the reason.
    traces : object or None
        What the run looked like over time (`neuropipe.signals.traces.Traces`), where that was known.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.quality: dict[str, Any] = {}
        self.traces: Any = None
