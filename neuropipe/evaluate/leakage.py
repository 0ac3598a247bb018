"""The leakage audit: what must hold for any number of a study to be believed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.config import EXTERNAL, RANDOM_WEIGHTS
from neuropipe.errors import SplitError
from neuropipe.evaluate.metrics import auroc
from neuropipe.provenance import read_json

CHANCE = 0.5
TOLERANCE = 0.02
MIN_SHUFFLES = 50


def pretrain_overlap(learned_from: Iterable[str], table: pd.DataFrame) -> int:
    """Return how many test people of a fold (or their kin) a model learned from.

    Parameters
    ----------
    learned_from : iterable of str
        ``<dataset>/<participant_id>`` of everyone in pretraining, and their persons (`People.persons`): one may
        have been seen through another dataset with the same people.
    table : DataFrame
        One fold of a split's table.
    """
    seen = set(learned_from)
    ids = table["dataset"] + "/" + table["participant_id"]
    seen_persons = set(table["person"][ids.isin(seen)]) | seen
    tested = table[table["role"] == "test"]
    return int(tested["person"].isin(seen_persons).sum())


def refuse_overlap(n: int, system: str, fold: str, mode: str) -> None:
    """Raise where a model learned from test people although its study did not ask for that.

    Raises
    ------
    SplitError
        `n` test people were in pretraining and `mode` is not ``everyone``.
    """
    if n and mode != "everyone":
        raise SplitError(
            f"{system}, fold {fold}: pretraining saw {n} test people (or their kin), so its numbers would be too good. "
            "Pretrain again on the training side of this split, or say `people: everyone` to have every number marked."
        )


def refuse_external(n: int, system: str, fold: str, datasets: Iterable[str]) -> None:
    """Raise where a model learned from people of test datasets, whom no training may see.

    Raises
    ------
    SplitError
        `n` of them were in pretraining.
    """
    if n:
        raise SplitError(
            f"{system}, fold {fold}: pretraining saw {n} people of the test datasets {', '.join(datasets)} (or their "
            "kin), whom no training may see. Leave their datasets out of pretrain, or out of test_datasets."
        )


def shuffled_labels(predictions: pd.DataFrame, nulls: pd.DataFrame) -> list[dict[str, Any]]:
    """Return, for every run on a binary target, whether shuffled labels score at chance.

    The mean over the shuffles of the fold-averaged AUROC may differ from one half by `TOLERANCE`, or by
    three standard errors of that mean where a small test side makes them larger.

    Returns
    -------
    list of dict
        ``check, where, value, expected, passed``.
    """
    binary = predictions.loc[predictions["target_type"] == "binary", "run_id"].unique()
    found = []
    for run_id, rows in nulls[nulls["run_id"].isin(binary)].groupby("run_id", sort=True):
        folds = [
            auroc(*(np.stack(part[name].to_list(), axis=1) for name in ("y", "prediction")), np.ones((1, len(part))))
            for _, part in rows.groupby(["repeat", "fold"])
        ]
        shuffles = np.mean(folds, axis=0)
        allowed = max(TOLERANCE, 3 * shuffles.std() / np.sqrt(len(shuffles)))
        found.append(
            {
                "check": "shuffled labels score at chance",
                "where": run_id,
                "value": float(shuffles.mean()),
                "expected": f"{CHANCE - allowed:.3f} to {CHANCE + allowed:.3f} over at least {MIN_SHUFFLES} shuffles",
                "passed": bool(len(shuffles) >= MIN_SHUFFLES and abs(shuffles.mean() - CHANCE) <= allowed),
            }
        )
    return found


def pretraining(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """Return, for every run that was pretrained, whether pretraining saw test people."""
    trained = predictions[predictions["pretrain_overlap_n"].notna()]
    found = []
    for run_id, rows in trained.groupby("run_id", sort=True):
        n = int(rows.drop_duplicates(["repeat", "fold"])["pretrain_overlap_n"].sum())
        found.append(
            {
                "check": "no test person in pretraining",
                "where": run_id,
                "value": n,
                "expected": "0",
                "passed": n == 0,
            }
        )
    return found


def transforms(paths: Iterable[Path], splits: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Return what probe and baselines found of their transforms, and whether all learned from training people only.

    Parameters
    ----------
    paths : iterable of Path
        ``transforms.json`` beside predictions, see `looks`; what is not there is passed over.
    splits : dict of str to DataFrame
        The frozen tables by name.
    """
    found = []
    for about in (read_json(path) for path in paths if path.is_file()):
        found += about["checks"]
        if (table := splits.get(about["split"])) is None:
            continue
        ids = table["dataset"] + "/" + table["participant_id"]
        strangers = 0
        for fold in about["fitted_on"]:
            here = (table["repeat"] == fold["repeat"]) & (table["fold"].astype(str) == str(fold["fold"]))
            strangers += len(set(fold["people"]) - set(ids[here & (table["role"] == "train")]))
        found.append(
            {
                "check": "every transform was fitted on people of the training side",
                "where": f"{about['task']}, {about['part']}",
                "value": strangers,
                "expected": "0 people of another side",
                "passed": strangers == 0,
            }
        )
    return found


def sites(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    """Return, for every trained network, how well its embedding tells the site of people, beside the reference.

    To know the scanner is no leak, so that nothing fails here; where the embedding knows it better, the answer may be
    the scanner's.

    Parameters
    ----------
    metrics : DataFrame
        Rows of `tables.METRICS`.
    """
    rows = metrics[(metrics["metric"] == "site_balanced_accuracy") & metrics["delta"].notna()]
    plain = rows["harmonisation"].isna() & ~rows["system"].str.endswith(RANDOM_WEIGHTS)
    return [
        {
            "check": "how well the embedding tells the site is reported beside the reference",
            "where": row["run_id"],
            "value": float(row["value"]),
            "expected": f"{row['value'] - row['delta']:.3f} of {row['reference']}"
            + (", which the embedding exceeds" if row["delta_ci_low"] > 0 else ""),
            "passed": True,
        }
        for row in rows[plain].to_dict("records")
    ]


def follows_split(predictions: pd.DataFrame, splits: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Return, for every split, whether each predicted person has the same role in the frozen table.

    Raises
    ------
    SplitError
        Predictions were made for people on another side: they belong to another version of the split.
    """
    found = []
    for name, rows in predictions.groupby("split", sort=True):
        if name not in splits:
            continue
        keys = ["repeat", "fold", "dataset", "participant_id"]
        table = splits[name].astype({"repeat": "Int64"})[[*keys, "role"]]
        joined = rows.drop_duplicates([*keys, "role"]).merge(table, on=keys, how="left", suffixes=("", "_frozen"))
        expected = joined["role"].mask(joined["role"] == EXTERNAL, "")  # a split divides nobody of a test dataset
        wrong = joined[expected != joined["role_frozen"].fillna("")]
        if len(wrong):
            raise SplitError(
                f"{len(wrong)} predictions do not follow the split {name!r} as it is now, e.g. "
                f"{wrong['participant_id'].iloc[0]} in fold {wrong['fold'].iloc[0]}. Run probe and baselines again."
            )
        found.append({"check": "predictions follow the split", "where": name, "passed": True})
    return found
