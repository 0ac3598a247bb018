"""The columns and types of predictions, nulls, choices, costs and metrics, and reading and writing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from neuropipe.config import BESIDE, HARMONISED, RANDOM_WEIGHTS
from neuropipe.errors import InputError
from neuropipe.paths import atomic

WHOSE = ["run_id", "system", "task", "readout", "seed"]  # begins the tables that say more of runs
PREFIX = "neuropipe."  # of notes in a file's metadata
ARROW = {"string": pa.string(), "float64": pa.float64(), "Int64": pa.int64(), "boolean": pa.bool_()}

# What identifies a run and what it was made from: the same in every row of a run (and fold).
RUN = {
    "run_id": "string",  # <task>_<system>_<readout>[_seed-<k>]
    "system": "string",  # recipe, or name of the baseline
    "task": "string",
    "readout": "string",  # ridge, logistic, knn, attentive; finetune: the network was trained; baseline: no readout
    "split": "string",
    "split_scheme": "string",
    "seed": "Int64",  # of the model; missing for baselines without one
    "target": "string",
    "target_type": "string",  # binary, multiclass, regression or decoding
    "positive": "string",
    "atlas_id": "string",
    "roi_order_hash": "string",
    "config_hash": "string",
    "data_hash": "string",
    "confound_set": "string",
    "harmonisation": "string",
    "pretrain_datasets": "string",
    "pretrain_people": "string",  # train_side, external or everyone; missing without pretraining
}
FOLD = {
    "repeat": "Int64",
    "fold": "string",
    "checkpoint_sha256": "string",
    "pretrain_overlap_n": "Int64",  # test people whom pretraining saw
    "n_train": "Int64",
    "n_val": "Int64",
    "train_mean": "float64",  # mean of the target over the training side
}
PREDICTIONS = {
    **RUN,
    **FOLD,
    "role": "string",  # validation or test; external: of a dataset that no training saw, once per fold
    "dataset": "string",
    "participant_id": "string",
    "person": "string",
    "site": "string",
    "sex": "string",
    "label": "string",  # multiclass: the class, as the participants table writes it
    "predicted": "string",  # multiclass: the most probable class
    "y": "float64",  # binary: 1 for the positive class, else 0; multiclass: place of the label; or a number
    "score": "float64",  # binary: larger is more positive; a probability where logit is given
    "yhat": "float64",  # regression; multiclass: place of the predicted class
    "logit": "float64",
    "probability": pa.list_(pa.float32()),  # multiclass: of every class, in the order of the places
    "uncertainty": "float64",  # standard deviation over passes with dropout, in units of score or yhat
}
LATER = ("label", "predicted", "probability")  # columns of predictions that files of earlier versions lack
LATER_METRICS = ("bias",)  # likewise of metrics
# One row per clip of a validation or test person, once per fold and run; the label names are in the file's notes.
DECODING = {
    **RUN,
    **FOLD,
    "role": "string",  # validation or test
    "dataset": "string",
    "participant_id": "string",
    "person": "string",
    "clip": "string",  # key of clips.parquet
    "label": "string",
    "y": "Int64",  # place of the label in the order of `probability`
    "predicted": "string",
    "yhat": "Int64",
    "probability": pa.list_(pa.float32()),
}
# How well test people (of decoding: their clips) are told by readouts that learned from some of the training people.
EFFICIENCY = {
    "run_id": "string",
    "system": "string",
    "task": "string",
    "readout": "string",
    "seed": "Int64",
    "repeat": "Int64",
    "fold": "string",
    "n_people": "Int64",
    "draw": "Int64",  # of people; all systems draw the same
    "n_clips": "Int64",  # learned from; missing where people are told
    "metric": "string",
    "value": "float64",
}
# One row per person whom a fine-tuned network predicted; see `neuropipe.hub.finetuned.Decision`.
DECISIONS = {
    "system": "string",
    "repeat": "Int64",
    "fold": "string",
    "role": "string",
    "dataset": "string",
    "participant_id": "string",
    "value": "float64",
    "logit": "float64",
    "raw": "float64",  # probability before calibration
    "std": "float64",
    "entropy": "float64",  # nats
    "mutual_information": "float64",  # nats
    "distance": "float64",  # from the training people
    "is_far": "boolean",
}
# One row per test person of a run and fold; the lists run over the draws of the null.
NULLS = {
    "run_id": "string",
    "repeat": "Int64",
    "fold": "string",
    "dataset": "string",
    "participant_id": "string",
    "y": pa.list_(pa.float32()),  # the permuted label; multiclass: its place
    "prediction": pa.list_(pa.float32()),  # of the readout that was trained on permuted labels; multiclass: a place
}
CHOICES = {
    "run_id": "string",
    "repeat": "Int64",
    "fold": "string",
    "n_features": "Int64",
    "strength": "float64",  # per training person; missing for neighbours
    "n_neighbours": "Int64",
    "share": "float64",  # of joined features: the embedding's, of the squared length
    "inner_loss": "float64",  # mean over the training side's inner test folds
    "chosen": "boolean",
}
# What a person brings that could explain an answer; one row per task, person and confound.
CONFOUNDS = {
    "task": "string",
    "dataset": "string",
    "participant_id": "string",
    "confound": "string",
    "number": "float64",  # of numeric confounds
    "text": "string",  # of the others
}
# The test people of a run, group by group: sites, sexes.
BREAKDOWN = {
    "run_id": "string",
    "system": "string",
    "task": "string",
    "readout": "string",
    "seed": "Int64",
    "column": "string",  # site or sex
    "group": "string",
    "n": "Int64",
    "n_positive": "Int64",  # binary targets
    "metric": "string",
    "value": "float64",
    "ci_low": "float64",
    "ci_high": "float64",
}
# Decision curves of runs on binary targets; treating nobody has a net benefit of 0.
NET_BENEFIT = {
    "run_id": "string",
    "system": "string",
    "task": "string",
    "readout": "string",
    "seed": "Int64",
    "threshold": "float64",  # probability from which a person is treated
    "net_benefit": "float64",  # per person
    "treat_all": "float64",
}
# Where people lie in the plane of the first two principal components of a training side's embeddings.
PLACES = {
    "system": "string",
    "task": "string",
    "seed": "Int64",
    "fold": "string",
    "role": "string",
    "dataset": "string",
    "participant_id": "string",
    "site": "string",
    "label": "string",  # the target, as a word or a number
    "x": "float64",
    "y": "float64",
}
# What these files say of a system whose features they look at: columns of a run, of its first linear readout.
ABOUT = {
    name: RUN[name]
    for name in (
        *("run_id", "system", "task", "readout", "split", "split_scheme", "seed", "target", "target_type"),
        *("atlas_id", "roi_order_hash", "config_hash", "data_hash", "harmonisation"),
    )
}
PERSON = {"fold": "string", "dataset": "string", "participant_id": "string", "person": "string"}
# From which site a person is, and from which a linear readout of a system's features says, on folds of its own.
SITES = {**ABOUT, **PERSON, "site": "string", "predicted": "string"}
# Whether a test person's one recording finds the other among those of all who have two; both directions.
IDENTIFIED = {**ABOUT, **PERSON, "n_candidates": "Int64", "second_found": "boolean", "first_found": "boolean"}
# How far people lie from a fold's training side; far is beyond what people of that side usually are when left out.
FAMILIARITY = {**ABOUT, **PERSON, "role": "string", "distance": "float64", "is_far": "boolean"}
# What drives a linear readout: the mean over folds of each region's share of its pattern.
DRIVERS = {
    "run_id": "string",
    "system": "string",
    "task": "string",
    "readout": "string",
    "seed": "Int64",
    "region": "Int64",  # place in the region order
    "name": "string",
    "network": "string",
    "weight": "float64",  # larger is more of the positive class, or of the target
}
# One row per moment of a pretraining, fold and task: readouts cross-validated among training people.
PROBES = {
    "step": "Int64",
    "share": "float64",  # of the training that was done
    "split": "string",
    "fold": "string",
    "task": "string",
    "metric": "string",
    "value": "float64",  # mean over the folds inside the training side
    "sd": "float64",  # over these folds
    "chance": "float64",  # of a constant
    "n_people": "Int64",
}
COSTS = {
    "run_id": "string",
    "system": "string",
    "task": "string",
    "readout": "string",
    "seed": "Int64",
    "measure": "string",
    "value": "float64",
    "unit": "string",
}
METRICS = {
    "run_id": "string",
    "config_hash": "string",
    "data_hash": "string",
    "atlas_id": "string",
    "roi_order_hash": "string",
    "system": "string",
    "checkpoint_sha256": "string",
    "pretrain_datasets": "string",
    "pretrain_overlap_n": "Int64",
    "dataset": "string",
    "task": "string",
    "target": "string",
    "target_type": "string",
    "readout": "string",
    "confound_set": "string",
    "harmonisation": "string",
    "split_scheme": "string",
    "repeat": "Int64",
    "fold": "string",  # a fold's name; "mean" over folds (the primary value); "pooled"; "external"
    "seed": "Int64",
    "n_train": "Int64",
    "n_val": "Int64",
    "n_test": "Int64",
    "prevalence": "float64",
    "metric": "string",
    "value": "float64",
    "ci_low": "float64",
    "ci_high": "float64",
    "ci_method": "string",
    "null_mean": "float64",
    "p_perm": "float64",
    "reference": "string",
    "delta": "float64",
    "delta_ci_low": "float64",
    "delta_ci_high": "float64",
    "t_nb": "float64",
    "p_nb": "float64",
    "p_holm": "float64",
    "threshold": "float64",
    "threshold_source": "string",
    "temperature": "float64",
    "bias": "float64",  # with the temperature: of the probabilities that the threshold is applied to
}


def harmonised(system: str) -> str:
    """Return the name of a system whose features went through ComBat."""
    return f"{system}{HARMONISED}"


def unharmonised(system: str) -> str:
    """Return the name of a system before ComBat; without it, the name itself."""
    return system.removesuffix(HARMONISED)


def combined(recipe: str, baseline: str) -> str:
    """Return the name of embeddings that are read out together with a baseline's features."""
    return f"{recipe}{BESIDE}{baseline}"


def joined_with(system: str) -> str | None:
    """Return the baseline whose features a system's embeddings are joined with; None where they stand alone."""
    _, beside, baseline = unharmonised(system).removesuffix(RANDOM_WEIGHTS).partition(BESIDE)
    return baseline if beside else None


def frame(rows: Sequence[dict[str, Any]] | pd.DataFrame, columns: dict[str, Any]) -> pd.DataFrame:
    """Return a table with exactly `columns` and their types; what a row does not say is missing."""
    table = pd.DataFrame(rows, columns=list(columns))
    lists = [name for name, kind in columns.items() if not isinstance(kind, str)]
    table = table.astype({name: object if name in lists else kind for name, kind in columns.items()})
    return table.assign(**{name: table[name].where(table[name].notna(), None) for name in lists})


def write(path: str | Path, table: pd.DataFrame, columns: dict[str, Any]) -> None:
    """Write a table as parquet, atomically, with the column types of `columns`; ``table.attrs`` travel with it."""
    arrow = pa.Table.from_pandas(frame(table, columns).reset_index(drop=True), schema=_schema(columns))
    if table.attrs:
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **_attrs(table)})
    with atomic(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")


def read(paths: Sequence[str | Path], columns: dict[str, Any], what: str, later: Sequence[str] = ()) -> pd.DataFrame:
    """Read and join tables; columns named in `later` may lack, and are then missing in every row.

    Raises
    ------
    InputError
        A file is missing or damaged, or lacks a column.
    """
    parts, attrs = [], {}
    for path in map(Path, paths):
        if not path.is_file():
            raise InputError(f"No {what} at {path}; run the stage that writes it, or name another file.")
        try:
            arrow = pq.read_table(path)
        except ValueError as error:  # pyarrow's ArrowInvalid
            raise InputError(
                f"{path} is no readable parquet table of {what}: {error}. Run the stage that writes it again."
            ) from error
        if missing := [name for name in columns if name not in (*arrow.column_names, *later)]:
            raise InputError(f"{path} lacks the columns {missing}: expected {what} as `neuropipe` writes them.")
        attrs |= {
            key.decode().removeprefix(PREFIX): value.decode()
            for key, value in (arrow.schema.metadata or {}).items()
            if key.decode().startswith(PREFIX)
        }
        parts.append(frame(arrow.to_pandas(), columns))
    table = pd.concat(parts, ignore_index=True) if parts else frame([], columns)
    table.attrs = attrs
    return table


def _schema(columns: dict[str, Any]) -> pa.Schema:
    return pa.schema([(name, ARROW[kind] if isinstance(kind, str) else kind) for name, kind in columns.items()])


def _attrs(table: pd.DataFrame) -> dict[bytes, bytes]:
    return {f"{PREFIX}{key}".encode(): str(value).encode() for key, value in table.attrs.items()}


# What a reader of metrics.csv wants to see before the rest.
READABLE = [
    *("task", "dataset", "target", "target_type", "system", "readout", "seed", "split_scheme", "repeat", "fold"),
    *("metric", "value", "ci_low", "ci_high", "ci_method", "null_mean", "p_perm"),
    *("reference", "delta", "delta_ci_low", "delta_ci_high", "t_nb", "p_nb", "p_holm"),
    *("n_train", "n_val", "n_test", "prevalence", "pretrain_datasets", "pretrain_overlap_n"),
]


def to_csv(metrics: pd.DataFrame) -> str:
    """Return ``metrics.csv``: every row and column of the metrics, numbers in full, empty where nothing is known."""
    return metrics[READABLE + [name for name in METRICS if name not in READABLE]].to_csv(
        index=False, lineterminator="\n"
    )
