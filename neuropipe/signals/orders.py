"""In which order Schaefer's regions stand: the same regions are published by 7 and by 17 networks.

Region 1 of the one order is another piece of cortex than region 1 of the other, and both tables
have the same length, so that a mix-up runs without an error and means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ORDER_OF_NAME = re.compile(r"^(?P<n>7|17)networks_[LR]H_(?P<network>[A-Za-z]+)_", re.IGNORECASE)
ORDER_OF_ID = re.compile(r"^schaefer\d+-(?P<n>7|17)n(?:-|$)")
# Networks that only the 17 of Kong et al. 2022 have; Schaefer's 17 are Yeo's of 2011.
KONG = {"Language", "Aud", "VisualA", "VisualB", "VisualC"}


def of_id(atlas: str) -> str | None:
    """Return the order that the id of a catalogue atlas stands for; None for other atlases."""
    found = ORDER_OF_ID.match(atlas)
    return f"{found['n']}-network order" if found else None


def of_names(names: Iterable[str]) -> str | None:
    """Return the order that Schaefer's names tell (``7Networks_LH_Vis_1``); None for names of other atlases."""
    found = [match for match in map(ORDER_OF_NAME.match, names) if match]
    if not found:
        return None
    counts = {match["n"] for match in found}
    if len(counts) > 1:
        return "order of 7 and 17 networks mixed"
    if KONG & {match["network"] for match in found}:
        return "17-network order of Kong 2022"
    return f"{counts.pop()}-network order"
