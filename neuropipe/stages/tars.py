"""Write a dataset as tars of learning-from-brains, for exchange with its published code: one tar per recording."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.provenance import describe, sha256, write_json
from neuropipe.shards import exchange_tars
from neuropipe.shards.read import Shards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe tars``."""
    parser.add_argument("--shards", type=Path, required=True, help="folder shards/<dataset>")
    parser.add_argument("--name", help="dataset in the names of the tars, without underscores; default: the folder's")
    parser.add_argument(
        "--clips", action="store_true", help="the labelled clips of clips.parquet, not whole recordings"
    )
    parser.add_argument(
        "--members",
        choices=("pyd", "npy"),
        default="pyd",
        help="pickles, which the published code reads (default), or .npy arrays, in which no code can hide",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the tars")


def run(*, shards: Path, name: str | None, clips: bool, members: exchange_tars.Members, output: Path) -> None:
    """Write ``ds-<dataset>_sub-<label>_...tar`` of every recording, and ``dataset.json`` beside them.

    Regions that a recording lacks are zeros; censored samples are left as they are, because the layout marks neither.
    """
    source = Shards(shards)
    if source.content != "series":
        raise InputError(f"{shards} holds {source.content}s; tars of learning-from-brains are for regional series.")
    samples = _clips(source) if clips else _recordings(source)
    dataset = name or source.dataset
    output.mkdir(parents=True, exist_ok=True)
    with lock(output / ".lock"):
        written = 0
        for run_id, fields in samples:
            key = exchange_tars.key(dataset, run_id)
            keys = [f"{key}_sample_{number:03d}" for number in range(1, len(fields) + 1)] if clips else [key]
            exchange_tars.write(output / f"{key}.tar", zip(keys, fields, strict=True), members)
            written += 1
        inputs = {"manifest.parquet": sha256(shards / "manifest.parquet")}
        about = {"RegionOrderHash": source.regions.order_hash, "Recordings": written, "Members": members}
        write_json(output / "dataset.json", describe("tars", inputs=inputs, packages=("numpy",), **about))
        source.regions.write(output / "regions.tsv")


def _recordings(source: Shards) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield every recording as the one sample of its tar."""
    for i, row in enumerate(source.manifest.to_dict("records")):
        yield row["run_id"], [exchange_tars.fields(source.series(i), row["t_r"])]


def _clips(source: Shards) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield every recording that has labelled clips, these as its samples.

    ``task_label`` and ``label_across_tasks`` are the place of the label in the label map; ``mental_state`` and
    ``task_name`` are its name and that of the task.
    """
    place = dict(zip(source.manifest["key"], range(len(source)), strict=True))
    for key, table in source.clips.groupby("sample", sort=True):
        i = place[key]
        row, series = source.manifest.iloc[i], np.asarray(source.series(i))
        samples = []
        for clip in table.sort_values("first_sample").to_dict("records"):
            end = clip["first_sample"] + clip["n_samples"]
            label = int(clip["label_id"])
            labels = {"task_label": label, "label_across_tasks": label, "mental_state": str(clip["label"])}
            labels |= {"task_name": str(clip["task"])}
            samples.append(exchange_tars.fields(series[clip["first_sample"] : end], row["t_r"], labels))
        yield row["run_id"], samples
