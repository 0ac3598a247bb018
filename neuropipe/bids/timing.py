"""When the volumes of a run were taken: repetition and start time from its sidecars, checked against its header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuropipe.bids.surface import Length
from neuropipe.errors import RunExcluded
from neuropipe.signals.images import Layout

T_R_TOLERANCE = 0.01


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def repetition_time(metadata: Mapping[str, Any], header: Layout | Length, name: str) -> float:
    """Return the repetition time in s from the sidecars, checked against the header.

    Raises
    ------
    RunExcluded
        No sidecar gives one, or the header says another (it differs by more than 1 %).
    """
    found = metadata.get("RepetitionTime")
    if found is None and "VolumeTiming" in metadata:
        raise RunExcluded(
            "irregular sampling",
            f"{name}: its volumes were taken at the times listed in VolumeTiming; only runs with one RepetitionTime "
            "can be filtered and resampled: leave it out with select",
        )
    if not _is_number(found) or found <= 0:
        raise RunExcluded(
            "no repetition time",
            f"no JSON sidecar of {name} gives a RepetitionTime in seconds (found {found!r}); add it to the sidecar, or "
            "to a task-<label>_bold.json at the top of the dataset",
        )
    if header.t_r and all(abs(one - found) > T_R_TOLERANCE * found for one in header.t_r):
        raise RunExcluded(
            "repetition time mismatch",
            f"{name}: the sidecar says {found} s, the header {' or '.join(f'{one:g}' for one in header.t_r)} s; "
            "find out which is right and correct the other",
        )
    return float(found)


def start_time(metadata: Mapping[str, Any]) -> float | None:
    """Return when the first volume's values were taken, in s after its acquisition began, or None where unknown.

    Slice-timing correction moves all slices of a volume to one moment, by default the middle of its
    acquisition, and fMRIPrep says which as StartTime. Resampling starts at the first volume whatever
    that moment is; whoever compares samples with events must add it.
    """
    found = metadata.get("StartTime")
    if _is_number(found):
        return float(found)
    return None if metadata.get("SliceTimingCorrected") else 0.0
