"""Who was left out and why: the parts that every stage wrote, merged into one table, and the flow with counts."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from neuropipe.config import EXTERNAL
from neuropipe.errors import InputError
from neuropipe.paths import Study
from neuropipe.provenance import read_json

COLUMNS = ["stage", "dataset", "participant_id", "run_id", "path", "reason", "detail"]
STAGES = ["index", "parcellate", "volumes", "shard", "clips", "split", "pretrain", "embed", "finetune", "probe"]
STAGES += ["baselines", "evaluate"]
PREPARED = {"parcellate": "Cleaned and kept", "volumes": "Prepared and kept"}


def merge(study: Study) -> pd.DataFrame:
    """Return every excluded row of a study, in the order of the stages.

    Parts are the ``excluded.tsv`` of the index, of splits and of tasks, and the ``excluded`` lists of
    the receipts. The order depends on the rows alone, never on the order of files or chunks.
    """
    root = study.root
    tables = [*root.glob("index/*/excluded.tsv"), *root.glob("splits/*/excluded.tsv")]
    tables += root.glob("tasks/*/*/excluded.tsv")
    receipts = [*root.glob("receipts/*/*.json"), *root.glob("embeddings/*/*/receipt.json")]
    receipts += root.glob("models/*/*/receipt.json")
    parts = [_read_table(path) for path in tables] + [_read_receipt(path) for path in receipts]
    merged = pd.concat([pd.DataFrame(columns=COLUMNS), *parts], ignore_index=True)[COLUMNS].fillna("").astype(str)
    rank = {stage: f"{n:02d}" for n, stage in enumerate(STAGES)}
    order = merged["stage"].map(lambda stage: rank.get(stage, f"99 {stage}"))
    merged = merged.assign(order=order).sort_values(["order", *COLUMNS[1:]], kind="stable")
    return merged.drop(columns="order").drop_duplicates(ignore_index=True)


def _read_table(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return _complete(table.replace("n/a", ""), path)


def _read_receipt(path: Path) -> pd.DataFrame:
    return _complete(pd.DataFrame(read_json(path).get("excluded") or []), path)


def _complete(part: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return `part` with all columns; a part without a stage or a reason is refused."""
    lacking = {"stage", "reason"} - set(part.columns)
    if len(part) and lacking:
        raise InputError(
            f"{path}: rows of left-out data need the columns {COLUMNS}, {sorted(lacking)} missing. Run its stage again."
        )
    return part.reindex(columns=COLUMNS)


def to_tsv(merged: pd.DataFrame) -> str:
    """Return the text of ``excluded.tsv``; empty cells are ``n/a``, tabs and line ends inside become blanks."""
    cells = merged[COLUMNS].replace(r"\s+", " ", regex=True).replace("", "n/a")
    return cells.to_csv(sep="\t", index=False, lineterminator="\n")


@dataclass(frozen=True)
class Step:
    """One box of the flow: what is left after a stage, and what that stage left out.

    Attributes
    ----------
    dataset, stage : str
        Whose data, after which stage.
    title : str
        What the box says in words.
    n_recordings, n_people : int
        What is left.
    left_out : list of (str, int)
        Reason and number of rows, the most frequent first; in the first box of people without any recording.
    """

    dataset: str
    stage: str
    title: str
    n_recordings: int
    n_people: int
    left_out: list[tuple[str, int]]


def flow(study: Study, dataset: str, merged: pd.DataFrame) -> list[Step]:
    """Return the way of a dataset's recordings from what was found to what was packed.

    Parameters
    ----------
    merged : DataFrame
        From `merge`.
    """
    own = merged[merged["dataset"] == dataset]
    nothing = (own["stage"] == "index") & (own["run_id"] + own["path"] == "")  # people without any recording
    absent = list(own.loc[nothing, "reason"].value_counts().items())
    own = own[~nothing]
    reasons = {stage: list(part["reason"].value_counts().items()) for stage, part in own.groupby("stage")}
    steps = []
    indexed = _people_in(study.manifest(dataset))
    if indexed is not None:
        refused = own[own["stage"] == "index"]
        people = set(indexed) | set(refused["participant_id"]) - {""}
        steps.append(Step(dataset, "found", "Found", len(indexed) + len(refused), len(people), absent))
        steps.append(_step(dataset, "index", "Usable after indexing", indexed, reasons))
    for stage, title in PREPARED.items():
        if receipts := sorted(study.receipt(stage, dataset, 0).parent.glob(f"{stage}-*.json")):
            products = [item for path in receipts for item in read_json(path)["products"]]
            people = [item["run_id"].split("_")[0] for item in products]  # a run id starts with the person's
            steps.append(_step(dataset, stage, title, people, reasons))
    packed = _people_in(study.shards(dataset) / "manifest.parquet")
    if packed is not None:
        steps.append(_step(dataset, "shard", "Packed for models", packed, reasons))
    return steps


def _step(dataset: str, stage: str, title: str, people: list[str], reasons: dict[str, list[tuple[str, int]]]) -> Step:
    """Return the box of a stage whose recordings belong to `people` (one entry per recording)."""
    return Step(dataset, stage, title, len(people), len(set(people)), reasons.get(stage, []))


def _people_in(path: Path) -> list[str] | None:
    """Return the person of every recording in a manifest; None where there is no manifest."""
    if not path.is_file():
        return None
    if path.suffix == ".parquet":
        return pd.read_parquet(path, columns=["participant_id"])["participant_id"].to_list()
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)["participant_id"].to_list()


@dataclass(frozen=True)
class End:
    """Where the flow ends: the people who learned and answered for one task.

    Attributes
    ----------
    task : str
        Its name.
    n_train, n_test : str
        People of a fold's sides; a range where folds differ.
    n_folds : int
        Folds.
    left_out : list of (str, int)
        Reason and number of people who are on a side of the split, but not in this task.
    """

    task: str
    n_train: str
    n_test: str
    n_folds: int
    left_out: list[tuple[str, int]]


def end(study: Study, task: str, metrics: pd.DataFrame) -> End | None:
    """Return who answered for a task; None where nobody did.

    Parameters
    ----------
    metrics : DataFrame
        Of the study.
    """
    rows = metrics[(metrics["task"] == task) & metrics["n_test"].notna() & metrics["n_train"].notna()]
    rows = rows[rows["fold"] != EXTERNAL]  # people of test datasets are on no side of the split
    folds = rows[~rows["fold"].isin(["mean", "pooled"])]
    folds = rows if folds.empty else folds
    if folds.empty:
        return None
    sizes = folds.groupby(["repeat", "fold"], dropna=False)[["n_train", "n_test"]].max()  # a system may leave some out
    left = [_read_table(path) for path in sorted(study.root.glob(f"tasks/{glob.escape(task)}/*/excluded.tsv"))]
    listed = pd.concat([pd.DataFrame(columns=COLUMNS), *left])
    people = listed.drop_duplicates(["dataset", "participant_id", "reason"])
    reasons = list(people["reason"].value_counts().items())
    return End(task, _range(sizes["n_train"]), _range(sizes["n_test"]), len(sizes), reasons)


def _range(sizes: pd.Series) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    return str(low) if low == high else f"{low}–{high}"
