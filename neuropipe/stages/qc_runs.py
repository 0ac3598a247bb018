"""The runs of a quality page, kept and left out, and the tables beside the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neuropipe import config as configuration
from neuropipe.bids.index import read_tsv
from neuropipe.paths import Study, write_text
from neuropipe.provenance import read_json
from neuropipe.shards import manifest as manifests


def receipts(settings: configuration.StudyConfig, tree: Study, dataset: str) -> list[Path]:
    """Return the receipts of the stage that prepared the samples of a dataset."""
    stage = settings.datasets[dataset].stage
    return sorted(tree.receipt(stage, dataset, 0).parent.glob(f"{stage}-*.json"))


def read(settings: configuration.StudyConfig, tree: Study, dataset: str, carried: Sequence[str]) -> pd.DataFrame:
    """Return one row per run, kept or left out.

    Parameters
    ----------
    carried : sequence of str
        Keys of the receipts' products that become columns; empty where a run has none.

    Returns
    -------
    DataFrame
        Sorted by run_id: what ``runs.parquet`` says, reason and detail (empty for runs that were kept), site, age and
        sex as participants.tsv says (empty where unknown), ``picture`` (empty), and `carried`.
    """
    products, excluded = {}, _left_out_by_index(tree, dataset)
    for receipt in map(read_json, receipts(settings, tree, dataset)):
        products |= {product["run_id"]: product for product in receipt["products"]}
        excluded += receipt["excluded"]
    rows = []
    for row in manifests.read_parquet(tree.qc(dataset) / "runs.parquet").to_dict("records"):
        own = products.get(row["run_id"], {})
        rows.append(row | {"reason": "", "detail": ""} | {key: own.get(key, "") for key in carried})
    for row in excluded:
        names = {key: row[key] for key in ("run_id", "participant_id", "reason", "detail")}
        rows.append((row.get("quality") or {}) | names | {key: row.get(key, "") for key in carried})
    table = pd.DataFrame(rows).sort_values("run_id", kind="stable", ignore_index=True)
    people, roles = read_tsv(tree.participants(dataset)).set_index("participant_id"), settings.datasets[dataset].roles
    for name, role in (("site", roles.site), ("age", roles.age), ("sex", roles.sex)):
        known = people[role].replace("n/a", "").to_dict() if role in people else {}
        table[name] = [known.get(person, "") for person in table["participant_id"]]
    return table.assign(picture="")


def _left_out_by_index(tree: Study, dataset: str) -> list[dict[str, Any]]:
    """Return the runs and files that the index could not use; a file of no run goes by its path."""
    table = read_tsv(tree.index_excluded(dataset))
    table["run_id"] = table["run_id"].where(table["run_id"] != "n/a", table["path"])
    return table[table["run_id"] != "n/a"].to_dict("records")  # people without any file are no runs


def write_tables(folder: Path, **tables: pd.DataFrame) -> None:
    """Write each table as ``<name>.tsv``."""
    for name, table in tables.items():
        text = table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n", float_format="%.6g")
        write_text(folder / f"{name}.tsv", text)
