"""Random access to shards: memory-mapped arrays found through the manifest's byte offsets."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.shards import manifest, remote
from neuropipe.shards.sample import content_hash
from neuropipe.signals.regions import Regions

SAME_PLACE_MM = 0.01
# What the manifest says of a sample that reading it needs.
PLACE = ["shard", "offset", "nbytes", "dtype", "shape", "valid_offset", "n_regions", "censored", "scale", "shift"]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: template space, shape (x, y, z) and affine (4, 4) in mm, RAS+; None where it is not known."""

    space: str | None
    shape: tuple[int, int, int]
    affine: np.ndarray | None

    def as_json(self) -> dict[str, Any]:
        """Return what ``grid.json`` and sidecars hold."""
        affine = None if self.affine is None else np.asarray(self.affine).round(6).tolist()
        return {"space": self.space, "shape": list(self.shape), "affine": affine}

    @classmethod
    def from_json(cls, about: dict[str, Any]) -> Grid:
        """Return what `as_json` wrote."""
        affine = None if about["affine"] is None else np.array(about["affine"], dtype=float)
        return cls(about["space"], tuple(about["shape"]), affine)

    @property
    def voxel_mm(self) -> tuple[float, float, float] | None:
        """Edges of a voxel along x, y and z, in mm."""
        if self.affine is None:
            return None
        return tuple(float(edge) for edge in np.linalg.norm(np.asarray(self.affine)[:3, :3], axis=0))

    def same(self, other: Grid) -> bool:
        """Return whether the voxels of `other` lie where these lie; a hundredth of a mm at any corner is let pass.

        What one of the two does not know, its space or its affine, is not compared.
        """
        elsewhere = None not in (self.space, other.space) and self.space != other.space
        if elsewhere or tuple(self.shape) != tuple(other.shape):
            return False
        if self.affine is None or other.affine is None:
            return True
        corners = np.array(list(np.ndindex(2, 2, 2))) * self.shape
        apart = np.asarray(self.affine)[:3] - np.asarray(other.affine)[:3]
        return bool(np.abs(corners @ apart[:, :3].T + apart[:, 3]).max() < SAME_PLACE_MM)

    def check_same(self, other: Grid, what: str) -> None:
        """Raise where the voxels of `other` do not lie where these lie."""
        if not self.same(other):
            raise InputError(
                f"{what}: expected voxels of {self}, found {other}. Prepare the data with the same `volumes:` section "
                "and in the same space."
            )

    def __str__(self) -> str:
        if self.voxel_mm is None:
            return f"{self.space or 'an unknown space'}, {'x'.join(map(str, self.shape))} voxels"
        edges, first = ("x".join(f"{v:g}" for v in np.round(values, 3)) for values in (self.voxel_mm, self.shape))
        corner = ", ".join(f"{v:g}" for v in np.round(np.asarray(self.affine)[:3, 3], 2))
        return f"{self.space}, {first} voxels of {edges} mm, the first at ({corner}) mm"


class Shards:
    """The samples of one dataset: recordings, maps or stacks of slices.

    Parameters
    ----------
    folder : path
        ``results/<study>/shards/<dataset>``, with tars, ``manifest.parquet`` and ``regions.tsv``; or as
        ``neuropipe fetch`` leaves it, with tars at a store.
    participants : path, optional
        tsv of the dataset's people; default ``results/<study>/index/<dataset>/participants.tsv``.
        Labels are joined when data are read and never enter a shard.
    manifest : DataFrame, optional
        The manifest, where it is not written yet.
    """

    def __init__(
        self, folder: str | Path, participants: str | Path | None = None, manifest: pd.DataFrame | None = None
    ) -> None:
        self.folder = Path(folder)
        if manifest is not None:
            self.manifest = manifest
        self.dataset = self.folder.absolute().name
        self._participants = participants or Study(self.folder.absolute().parent.parent).participants(self.dataset)

    def __len__(self) -> int:
        return len(self.manifest)

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row per recording, sorted by key."""
        return manifest.read(self.folder / "manifest.parquet")

    @cached_property
    def _rows(self) -> list[Any]:
        """Where every sample lies, as named tuples: a row of a table takes two hundred times as long to get at."""
        return list(self.manifest[PLACE].itertuples(index=False))

    @cached_property
    def regions(self) -> Regions:
        """What the columns of every series are."""
        return Regions.read(self.folder / "regions.tsv")

    @cached_property
    def clips(self) -> pd.DataFrame:
        """Labelled windows of the recordings, one row per clip, sorted by key."""
        path = self.folder / "clips.parquet"
        if not path.is_file():
            raise InputError(
                f"No labelled clips at {path}; give the dataset a section events and run `neuropipe clips`."
            )
        return manifest.read_parquet(path)

    @cached_property
    def participants(self) -> pd.DataFrame:
        """People and their labels, indexed by participant_id."""
        path = Path(self._participants)
        if not path.is_file():
            raise InputError(f"No participants table at {path}; run `neuropipe index`, or name another file.")
        table = pd.read_csv(path, sep="\t", dtype={"participant_id": str}, na_values=["n/a"])
        return table.set_index("participant_id")

    @cached_property
    def _maps(self) -> dict[str, np.ndarray]:
        return {}

    def _bytes(self, shard: str) -> np.ndarray:
        if shard not in self._maps:
            path = self.folder / shard
            if path.is_file():
                self._maps[shard] = np.memmap(path, dtype=np.uint8, mode="r")
            elif (self.folder / remote.REMOTE).is_file():
                return self._fetched(shard)
            else:
                raise InputError(
                    f"{path} is named in {self.folder / 'manifest.parquet'} but is not there; shard again."
                )
        return self._maps[shard]

    @cached_property
    def remote(self) -> remote.Remote:
        """Where tars lie that are not in the folder."""
        return remote.Remote(self.folder)

    def _fetched(self, shard: str) -> np.ndarray:
        """Return a tar of the store.

        Its map is kept where the cache holds the whole dataset. Where it does not, what no array needs any more must
        make room for what the next one needs, here and in other processes.
        """
        if self.remote.fits_cache:
            with suppress(remote.CacheFull):  # by other datasets
                self._maps[shard] = self.remote.open(shard, patience_s=0.0)
                return self._maps[shard]
            self._maps.clear()
        return self.remote.open(shard)

    @cached_property
    def content(self) -> str:
        """What the samples are: ``series``, ``volume`` or ``image``."""
        return str(self.manifest["content"].iloc[0])

    @cached_property
    def grid(self) -> Grid:
        """Where the voxels of volumes lie: their space, shape and affine (mm, RAS+)."""
        return Grid.from_json(read_json(self.folder / "grid.json"))

    @cached_property
    def regional(self) -> pd.DataFrame:
        """Regional volumes in mL: one row per sample, indexed by key, one column per row of `regions`."""
        return manifest.read_parquet(self.folder / "regional.parquet").set_index("key")

    def series(self, i: int) -> np.ndarray:
        """Return recording `i` as a read-only memory map of shape (time, region); missing regions are zero."""
        return self.array(i)

    def values(self, i: int) -> np.ndarray:
        """Return sample `i` in float32, as it was before it was stored as integers."""
        row = self._rows[i]
        return self.array(i).astype(np.float32) * np.float32(row.scale) + np.float32(row.shift)

    def array(self, i: int) -> np.ndarray:
        """Return sample `i` as stored, a read-only memory map of its manifest's shape."""
        row = self._rows[i]
        content = self._bytes(row.shard)[row.offset : row.offset + row.nbytes]
        if len(content) != row.nbytes:
            raise InputError(f"{self.folder / row.shard} is shorter than its manifest says; shard again.")
        return content.view(row.dtype).reshape(row.shape)

    def valid_regions(self, i: int) -> np.ndarray:
        """Return a bool array (region,): False where recording `i` lacks the region."""
        row = self._rows[i]
        if row.valid_offset < 0:
            return np.ones(row.n_regions, dtype=bool)
        return self._bytes(row.shard)[row.valid_offset : row.valid_offset + row.n_regions].view(bool)

    def censored(self, i: int) -> np.ndarray:
        """Return the positions (int64) of censored samples of recording `i`."""
        return np.asarray(self._rows[i].censored, dtype=np.int64)

    def verify(self) -> None:
        """Raise where a recording's values do not have the hash that the manifest names."""
        for i, row in self.manifest.iterrows():
            if content_hash(self.array(i)) != row["sha256"]:
                raise InputError(f"{self.folder / row['shard']}: {row['member']} is damaged; shard again.")
