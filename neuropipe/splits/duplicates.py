"""People who look like one: recordings that nearly repeat another's, and datasets with the same people unlinked.

A recording that was saved again has another content hash: other rounding, another scale, a few volumes less. Its
connectivity stays the same, though, and its series can be laid over the other at some lag. Neither is so for two
recordings of different people, nor for two of the same person.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from neuropipe.splits.people import People

N_REGIONS, N_VOXELS = 64, 4096  # evenly spaced, that recordings and maps are compared by
CANDIDATE = 0.6  # likeness from which two series are laid over each other
SAME_SERIES = 0.7  # correlation of two series at their best lag; of different people it is below 0.3
SAME_LIKENESS = 0.999  # correlation of connectivity, or of maps, less what all have in common
MIN_OVERLAP = 30  # samples
MIN_SHARED, AGREEING = 5, 0.9  # ids that two datasets share, and the share of them with equal age and sex
BLOCK = 1024  # recordings that are compared at once


class Source(Protocol):
    """What this module reads of a dataset's shards."""

    content: str

    def array(self, i: int) -> np.ndarray:
        """Return sample `i`."""

    def valid_regions(self, i: int) -> np.ndarray:
        """Return which regions sample `i` has."""


def twins(people: People, sources: Sequence[Source]) -> pd.DataFrame:
    """Return the pairs of people who look like one person under two names.

    Returns
    -------
    DataFrame
        ``first, second`` (``<dataset>/<participant_id>``) and ``why``. Members of one family, who are never divided,
        are no pairs.
    """
    table = people.recordings
    ids, persons = people.ids.to_numpy()[table["row"]], people.table["person"].to_numpy()[table["row"]]
    found: dict[tuple[str, str], str] = {}
    for rows in _alike_in_shape(table):
        signatures = np.stack([_signature(sources[table["source"].iat[i]], table["position"].iat[i]) for i in rows])
        for a, b, likeness in _pairs(signatures, persons[rows]):
            i, j = rows[a], rows[b]
            why = _why(likeness, *((sources[table["source"].iat[k]], table["position"].iat[k]) for k in (i, j)))
            if why:
                found.setdefault(tuple(sorted((ids[i], ids[j]))), why)
    for first, second in _same_people(people):
        found.setdefault((first, second), "their datasets share ids, and most of these agree in age and sex")
    return pd.DataFrame([(*pair, why) for pair, why in sorted(found.items())], columns=["first", "second", "why"])


def _alike_in_shape(table: pd.DataFrame) -> list[np.ndarray]:
    """Return rows of recordings that can be compared: with as many regions, or as many voxels."""
    shapes = [tuple(int(n) for n in shape) for shape in table["shape"]]
    content = table["content"] if "content" in table else pd.Series("series", index=table.index)
    keys = [s[1:] if held == "series" else s for held, s in zip(content, shapes, strict=True)]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return [np.array(rows) for rows in groups.values() if len(rows) > 1]


def _signature(source: Source, position: int) -> np.ndarray:
    """Return what a recording is compared by: correlations between some regions, or some voxels, float32."""
    values = np.asarray(source.array(position))
    if source.content != "series":
        flat = values.reshape(-1)
        return flat[:: max(1, len(flat) // N_VOXELS)][:N_VOXELS].astype(np.float32)
    chosen = _some_regions(values.shape[1])
    unit = _standardised(values[:, chosen])
    correlation = unit.T @ unit / len(unit)
    correlation[:, ~source.valid_regions(position)[chosen]] = 0
    correlation[~source.valid_regions(position)[chosen]] = 0
    return correlation[np.triu_indices(len(chosen), 1)].astype(np.float32)


def _some_regions(n: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, N_REGIONS)).round().astype(int))


def _standardised(series: np.ndarray) -> np.ndarray:
    """Return series (time, region) with mean 0 and variance 1 over time; zeros where a region does not vary."""
    centred = series - series.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-6)


def _pairs(signatures: np.ndarray, persons: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of rows of different persons whose signatures correlate, less what all have in common."""
    centred = signatures - signatures.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    for start in range(0, len(unit), BLOCK):
        likeness = unit[start : start + BLOCK] @ unit[start:].T
        for a, b in np.argwhere(np.triu(likeness >= CANDIDATE, 1)):
            if persons[start + a] != persons[start + b]:
                yield start + a, start + b, float(likeness[a, b])


def _why(likeness: float, first: tuple[Source, int], second: tuple[Source, int]) -> str | None:
    """Return in which way two recordings repeat each other; None where they do not."""
    series = first[0].content == "series"
    if likeness >= SAME_LIKENESS:
        return f"their {'connectivity' if series else 'maps'} correlate{'s' if series else ''} with {likeness:.4f}"
    if not series:
        return None
    overlaid = overlay(*(np.asarray(source.array(position)) for source, position in (first, second)))
    return f"one series lies in the other (r = {overlaid:.3f})" if overlaid >= SAME_SERIES else None


def overlay(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two series (time, region) at the lag at which they fit best; NaN where too short.

    They overlap by half of the shorter one at least. Each region is standardised within the overlap, so that scale and
    mean do not count.
    """
    chosen = _some_regions(min(first.shape[1], second.shape[1]))
    a, b = (_standardised(part[:, chosen]) for part in (first, second))
    least = max(MIN_OVERLAP, min(len(a), len(b)) // 2)
    if min(len(a), len(b)) < least:
        return float("nan")
    size = len(a) + len(b) - 1
    crossed = np.fft.irfft(np.fft.rfft(a, size, axis=0) * np.fft.rfft(b, size, axis=0).conj(), size, axis=0).sum(axis=1)
    lags = np.arange(-(len(b) - 1), len(a))
    overlap = np.minimum(len(a), lags + len(b)) - np.maximum(0, lags)
    fit = np.where(overlap >= least, crossed[lags % size] / np.maximum(overlap, 1), -np.inf)
    lag, length = lags[fit.argmax()], overlap[fit.argmax()]
    here, there = max(lag, 0), max(-lag, 0)
    return float((_standardised(a[here : here + length]) * _standardised(b[there : there + length])).mean())


def _same_people(people: People) -> list[tuple[str, str]]:
    """Return the shared ids of datasets that are not linked although most such ids agree in age and sex."""
    table = people.table.assign(individual=people.individuals, id=people.ids, age=_known(people, "age"))
    parts = dict(iter(table.groupby("dataset", sort=True)))
    found, names = [], list(parts)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = parts[first].merge(parts[second], on="participant_id", suffixes=("_1", "_2"))
            known = both[both["age_1"].notna() & both["age_2"].notna() & (both["sex_1"] != "") & (both["sex_2"] != "")]
            known = known[known["individual_1"] != known["individual_2"]]
            agree = np.isclose(known["age_1"], known["age_2"], atol=0.05) & (known["sex_1"] == known["sex_2"])
            if len(known) >= MIN_SHARED and agree.mean() >= AGREEING:
                found += list(zip(known["id_1"], known["id_2"], strict=True))
    return found


def _known(people: People, name: str) -> pd.Series:
    """Return a role as numbers; NaN where a dataset has no such column, or something else than a number."""
    if not any(people.resolve(d, name) in people.participants[d] for d in people.participants):
        return pd.Series(np.nan, index=people.table.index)
    return pd.to_numeric(people.column(name), errors="coerce").astype(float)
