"""Probe a Brain-Semantoks as published: ten splits of people, clips as samples, heads trained by SGD.

For standing beside published numbers. The splits know nothing of sites, of kin, or of whom pretraining saw: the
numbers to be believed are the study's own.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neuropipe.errors import InputError
from neuropipe.provenance import describe, sha256, write_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from neuropipe.shards.read import Shards


@dataclass(frozen=True)
class Printed:
    """Lines to print."""

    lines: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe semantoks-probe``."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a pretrained or imported semantoks")
    parser.add_argument("--shards", type=Path, required=True, help="folder shards/<dataset>")
    parser.add_argument("--column", required=True, help="column of participants.tsv to tell")
    parser.add_argument("--positive", help="its value that counts as positive; default: the column holds numbers")
    parser.add_argument("--repetitions", type=int, default=10, help="splits of people; default 10")
    parser.add_argument("--clips", type=int, default=8, help="evenly spaced clips per person; default 8")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first split and of the heads; default 0")
    parser.add_argument("--output", type=Path, required=True, help="json of all repetitions")


def run(
    *,
    model: Path,
    shards: Path,
    column: str,
    positive: str | None = None,
    repetitions: int = 10,
    clips: int = 8,
    seed: int = 0,
    output: Path,
) -> Printed:
    """Write every repetition's numbers, and return their means as lines.

    Raises
    ------
    InputError
        The model is of another family, the column is missing or says nothing.
    """
    from neuropipe.data.source import open_source
    from neuropipe.evaluate import semantoks_probe
    from neuropipe.hub import export
    from neuropipe.shards.read import Shards

    saved, dataset = export.load(model), Shards(shards)
    if saved.about["family"] != "semantoks":
        raise InputError(f"{model} is a {saved.about['family']}: only semantoks was published with this probe.")
    source = open_source([dataset], residence="mapped")
    saved.check_reads(source, f"{model} and {shards}")
    people, features = semantoks_probe.clip_features(saved.model, source, clips)
    y = _targets(dataset, people, column, positive)
    task = "regression" if positive is None else "classification"
    results = semantoks_probe.repeated_probe(features, y, task=task, n_repetitions=repetitions, seed=seed)
    inputs = {str(path): sha256(path) for path in (model / "model.safetensors", shards / "manifest.parquet")}
    settings = {"column": column, "positive": positive, "clips": clips, "seed": seed}
    sidecar = describe("semantoks-probe", inputs=inputs, settings=settings, packages=("torch", "scikit-learn"))
    rows = [{"feature": one.feature, "lr": one.lr, "validation": one.validation} | one.metrics for one in results]
    write_json(output, {"repetitions": rows, "n_people": int((y == y).sum())} | sidecar)
    return Printed([_line(name, [one.metrics[name] for one in results]) for name in results[0].metrics])


def _targets(dataset: Shards, people: pd.DataFrame, column: str, positive: str | None) -> np.ndarray:
    """Return the targets of some people; NaN where unknown."""
    import numpy as np
    import pandas as pd

    from neuropipe.splits.people import as_text

    if column not in dataset.participants:
        known = ", ".join(dataset.participants.columns)
        raise InputError(f"No participants column {column!r} in {dataset.dataset}; found {known}.")
    values = [as_text(value) for value in dataset.participants[column].reindex(people["participant_id"])]
    if positive is None:
        y = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(float)
    else:
        y = np.array([np.nan if value is None else value == positive for value in values], dtype=float)
    if len(found := np.unique(y[np.isfinite(y)])) < 2:
        raise InputError(
            f"The participants column {column!r} of {dataset.dataset} needs two different values to tell apart"
            f"{'' if positive is None else f', one of them {positive!r}'}; found {len(found)}. Name another column or "
            "--positive."
        )
    return y


def _line(name: str, values: list[float]) -> str:
    """Return the mean and standard deviation of one metric over repetitions."""
    mean = sum(values) / len(values)
    sd = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return f"{name:36s} {mean:8.3f} +- {sd:.3f}"
