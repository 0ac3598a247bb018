"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What was looked at.
    ok : bool
    found : str
        What is there.
    remedy : str
        What to do about it where it is not ok.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
