"""One sample as it lies in a shard: a recording, a map or a stack of slices; and the columns that find it again."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Content = Literal["series", "volume", "image"]

MANIFEST_COLUMNS = {
    "key": "string",  # <dataset>_<BIDS entities>
    "shard": "string",  # file name of the tar, beside the manifest
    "member": "string",  # name of the array inside the tar
    "content": "string",  # series, volume or image
    "offset": "int64",  # first byte of the array's values in the tar (behind the .npy header)
    "nbytes": "int64",  # bytes of the array's values
    "shape": "object",  # (time, region), (x, y, z) or (slice, row, column)
    "n_timepoints": "int64",  # of a series; else 0
    "n_regions": "int64",  # of a series; else 0
    "dtype": "string",
    "scale": "float64",  # what was measured = stored value times scale plus shift
    "shift": "float64",
    "sha256": "string",  # of the array's values: two recordings with one hash are one recording
    "valid_offset": "int64",  # first byte of the bool mask over regions; -1 where every region is valid
    "n_valid_regions": "int64",
    "censored": "object",  # positions of censored samples
    "dataset": "string",
    "participant_id": "string",
    "session": "string",
    "task": "string",
    "run": "string",
    "run_id": "string",
    "t_r": "float64",  # s
    "mean_fd": "float64",  # mm
    "tiv_ml": "float64",  # mL, total intracranial volume; of maps whose source states it
}

CLIP_COLUMNS = {
    "key": "string",  # <key of the sample>_clip-<number in the recording>
    "sample": "string",  # key of the recording in the manifest
    "dataset": "string",
    "participant_id": "string",
    "session": "string",
    "task": "string",
    "run": "string",
    "condition": "string",  # as events.tsv says
    "label": "string",
    "label_id": "int64",  # place of the label in the label map
    "onset_s": "float64",  # s, of the event, without the delay
    "duration_s": "float64",  # s, of the event
    "first_sample": "int64",  # in the recording, delay counted
    "n_samples": "int64",
    "censored_share": "float64",
}


@dataclass(frozen=True)
class Sample:
    """A recording, a map or a stack of slices on its way into a tar.

    Attributes
    ----------
    key : str
        ``<dataset>_<BIDS entities>``; no dots, because WebDataset cuts names at the first one.
    array : ndarray of shape (time, region), (x, y, z) or (slice, row, column)
        Finite values; regions that are missing are zero.
    valid : bool ndarray of shape (region,), optional
        Of a series: False where the region is missing.
    facts : dict
        What the ``.json`` member and the manifest say: dataset, participant_id, run_id, session,
        task, run, t_r (s), censored (positions), quality; of maps and slices also scale and shift.
    content : {"series", "volume", "image"}
        What the array is.
    """

    key: str
    array: np.ndarray
    valid: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    content: Content = "series"

    @property
    def member(self) -> str:
        """Name of the array inside the tar."""
        return f"{self.key}.{self.content}.npy"

    def members(self) -> list[tuple[str, bytes]]:
        """Return the (name, bytes) pairs of the tar in their fixed order."""
        facts = self.facts | self.lengths
        pairs = [(self.member, npy(self.array))]
        if self.valid is not None and not self.valid.all():
            pairs.append((f"{self.key}.valid.npy", npy(self.valid)))
        pairs.append((f"{self.key}.json", json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()))
        return pairs

    @property
    def lengths(self) -> dict[str, int]:
        """Counts of a series; nothing of other contents."""
        if self.content != "series":
            return {}
        return {"n_timepoints": int(self.array.shape[0]), "n_regions": int(self.array.shape[1])}


def npy(array: np.ndarray) -> bytes:
    """Return the ``.npy`` file (version 1.0, C order) of an array."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def content_hash(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's values in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def pack(series: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a clean float series as it is stored: (values of `dtype`, valid regions).

    Parameters
    ----------
    series : ndarray of shape (time, region)
        A region that holds any NaN is missing as a whole.
    dtype : str
        ``float16`` or ``float32``.
    """
    valid = np.isfinite(series).all(axis=0)
    return np.where(valid, series, 0).astype(dtype), valid
