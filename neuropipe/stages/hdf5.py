"""Write a dataset as one HDF5 file in the layout of Brain-Semantoks, for exchange with its published code."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.provenance import describe, sha256, write_json
from neuropipe.shards import hdf5
from neuropipe.shards.read import Shards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe hdf5``."""
    parser.add_argument("--shards", type=Path, required=True, help="folder shards/<dataset>")
    parser.add_argument("--participants", type=Path, help="participants.tsv; default: the index's")
    parser.add_argument("--output", type=Path, required=True, help="the .h5 file")


def _label(column: pd.Series) -> np.ndarray:
    """Return a label column as float64 (NaN = missing) or, where it holds text, as strings."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(float)
    return column.fillna("n/a").astype(str).to_numpy(object)


def run(*, shards: Path, participants: Path | None, output: Path) -> None:
    """Write series, subject ids and every participants column as ``labels/<column>``."""
    source = Shards(shards, participants)
    if source.content != "series":
        raise InputError(f"{shards} holds {source.content}s; the HDF5 layout is for regional series.")
    ids = list(source.manifest["participant_id"])
    people = source.participants.reindex(ids)

    def series() -> list[tuple[np.ndarray, np.ndarray]]:
        return ((np.asarray(source.series(i)), source.valid_regions(i)) for i in range(len(source)))

    with lock(output.with_name(f".lock-{output.name}")):
        hdf5.write(
            output,
            series=series(),
            lengths=list(source.manifest["n_timepoints"]),
            regions=source.regions,
            subject_ids=ids,
            labels={name: _label(people[name]) for name in people},
            slots={atlas: hdf5.SLOTS.get(atlas, atlas) for atlas in source.regions.atlases},
            t_r=list(source.manifest["t_r"]),
        )
        inputs = {"manifest.parquet": sha256(shards / "manifest.parquet")}
        about = {"RegionOrderHash": source.regions.order_hash, "Recordings": len(source)}
        write_json(output.with_suffix(".json"), describe("hdf5", inputs=inputs, packages=("h5py",), **about))
