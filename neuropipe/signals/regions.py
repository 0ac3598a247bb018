"""The region table: which columns a series has, from which atlas, in which order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.errors import AtlasError
from neuropipe.paths import write_if_changed
from neuropipe.signals import orders

COLUMNS = ["index", "atlas", "label", "name", "network", "hemisphere", "x", "y", "z"]


@dataclass(frozen=True, eq=False)
class Regions:
    """The ordered regions of a series.

    Attributes
    ----------
    table : DataFrame
        One row per column of the series: ``index`` (from 0), ``atlas`` (catalogue id), ``label``
        (integer in the label image), ``name``, ``network`` (empty where the atlas names none),
        ``hemisphere`` (L, R or empty) and the centre ``x, y, z`` in mm (NaN where unknown).
    """

    table: pd.DataFrame

    def __post_init__(self) -> None:
        missing = [column for column in COLUMNS if column not in self.table]
        if missing:
            raise AtlasError(f"The region table lacks the columns {missing}; found {list(self.table)}.")

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def order_hash(self) -> str:
        """Hash over the (atlas, label) pairs in order; names change between releases and do not count."""
        pairs = "\n".join(f"{a}\t{n}" for a, n in zip(self.table["atlas"], self.table["label"], strict=True))
        return hashlib.sha256(pairs.encode()).hexdigest()[:16]

    @cached_property
    def atlases(self) -> list[str]:
        """Atlas ids in the order of their first region."""
        return list(dict.fromkeys(self.table["atlas"]))

    @cached_property
    def networks(self) -> list[str]:
        """Network names in the order of their first region; empty where none is named."""
        return list(dict.fromkeys(name for name in self.table["network"] if name))

    @cached_property
    def network_ids(self) -> np.ndarray:
        """int64 array (n_regions,): position of each region's network in `networks`; -1 without one."""
        number = {name: i for i, name in enumerate(self.networks)}
        return np.array([number.get(name, -1) for name in self.table["network"]], dtype=np.int64)

    @cached_property
    def order(self) -> str | None:
        """Order of Schaefer's regions, as their names or the atlas's id tell it; None without such regions."""
        told = [orders.of_names(self.table["name"].fillna("")), *map(orders.of_id, self.atlases)]
        return next((order for order in told if order), None)

    def of_atlas(self, atlas: str) -> np.ndarray:
        """Positions (int64) of one atlas's regions in the series."""
        return np.flatnonzero((self.table["atlas"] == atlas).to_numpy())

    def with_networks(self, ids: np.ndarray, prefix: str = "cluster") -> Regions:
        """Return the same regions with networks ``<prefix>-01`` ... from an int array (n_regions,)."""
        return Regions(self.table.assign(network=[f"{prefix}-{int(i) + 1:02d}" for i in ids]))

    def check_same(self, other: Regions, what: str) -> None:
        """Raise where `other` does not have the same regions in the same order."""
        if self.order_hash != other.order_hash:
            if self.order and other.order and self.order != other.order:
                raise AtlasError(
                    f"{what}: expected Schaefer's regions in the {self.order}, found the {other.order}: the same "
                    "regions at other places. Parcellate with the atlas of the expected order "
                    f"({'+'.join(self.atlases)})."
                )
            raise AtlasError(
                f"{what}: expected {len(self)} regions of {'+'.join(self.atlases)} (order {self.order_hash}), found "
                f"{len(other)} regions of {'+'.join(other.atlases)} (order {other.order_hash}). "
                "Use data that were parcellated with the same atlases in the same order."
            )

    def write(self, path: str | Path) -> None:
        """Write the table as tsv (rewritten only when its content changed)."""
        write_if_changed(path, self.table[COLUMNS].to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))

    @classmethod
    def read(cls, path: str | Path) -> Regions:
        """Read a table written by `write`."""
        path = Path(path)
        if not path.is_file():
            raise AtlasError(f"No region table at {path}; run the stage that makes it, or name another file.")
        text = {"atlas": str, "name": str, "network": str, "hemisphere": str}
        table = pd.read_csv(path, sep="\t", dtype=text, keep_default_na=False, na_values={c: ["n/a"] for c in "xyz"})
        return cls(table.assign(**{c: table[c].replace("n/a", "") for c in text}))

    @classmethod
    def plain(cls, atlas: str, n_regions: int) -> Regions:
        """Return a table for `n_regions` regions of which only the order (labels 1..n) is known."""
        labels = np.arange(1, n_regions + 1)
        return cls(
            pd.DataFrame(
                {
                    "index": labels - 1,
                    "atlas": atlas,
                    "label": labels,
                    "name": [f"{atlas}-{n:03d}" for n in labels],
                    "network": "",
                    "hemisphere": "",
                    "x": np.nan,
                    "y": np.nan,
                    "z": np.nan,
                }
            )
        )
