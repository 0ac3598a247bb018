"""One finding of the doctor, and how it is made of what may fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neuropipe.errors import NeuropipeError


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


def attempt(name: str, examine: Callable[[], str]) -> Check:
    """Return a check whose finding is what `examine` returns, or whose remedy is the error that it raises."""
    try:
        return Check(name, True, examine())
    except NeuropipeError as error:
        return Check(name, False, "cannot be used", str(error))
