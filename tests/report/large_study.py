"""A made-up study of many tasks and systems, from the tables of a small one under many names."""

from __future__ import annotations

import shutil
from pathlib import Path

import beside_tables
import numpy as np
import pandas as pd
import yaml
from reported_study import write_study

from neuropipe.evaluate import tables

# The small study has five systems; these stand beside them, with the answers of the first.
MORE = [f"recipe-{n}" for n in range(7)]
JUDGED = {
    "predictions": tables.PREDICTIONS,
    "nulls": tables.NULLS,
    "metrics": tables.METRICS,
    "efficiency": tables.EFFICIENCY,
    "breakdown": tables.BREAKDOWN,
    "net_benefit": tables.NET_BENEFIT,
    "places": tables.PLACES,
}


def write(root: Path, n_tasks: int, n_people: int) -> Path:
    """Write a study of `n_tasks` tasks, half binary and half numbers, and twelve systems; return its configuration."""
    config = write_study(root, "leave_one_site_out", n=n_people)
    beside_tables.write(root)
    content = yaml.safe_load(config.read_text())
    names = {task: [f"{task}-{n}" for n in range(n_tasks // 2)] for task in content["tasks"]}
    for task, copies in names.items():
        section = content["tasks"].pop(task)
        content["tasks"] |= dict.fromkeys(copies, section)
    content["pretrain"] |= {name: {"datasets": ["demo"]} for name in MORE}
    config.write_text(yaml.safe_dump(content))
    for name, columns in JUDGED.items():
        path = root / f"{name}.parquet"
        tables.write(path, _many(tables.read([path], columns, name), names), columns)
    for name in MORE:
        shutil.copytree(root / "models/semantoks-demo", root / "models" / name)
    return config


def _many(table: pd.DataFrame, names: dict[str, list[str]]) -> pd.DataFrame:
    """Return a table's rows for every system and every copy of its task; scores differ a little from task to task."""
    rng = np.random.default_rng(0)
    task = table["run_id"].str.split("_").str[0] if "task" not in table else table["task"]
    parts = []
    for old, copies in names.items():
        rows = _systems(table[task == old])
        for copy in copies:
            own = rows.copy()
            if "run_id" in own:
                own["run_id"] = own["run_id"].str.replace(f"{old}_", f"{copy}_", n=1, regex=False)
            if "task" in own:
                own["task"] = copy
            for score in {"score", "yhat", "x", "y_"} & set(own):
                own[score] = own[score] + rng.normal(0, 0.01, len(own))
            parts.append(own)
    return pd.concat(parts, ignore_index=True)


def _systems(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with those of further systems, which answer like the trained one."""
    column = "run_id" if "run_id" in rows else "system"
    like = rows[rows[column].str.contains("semantoks-demo", regex=False) & ~rows[column].str.contains("random")]
    more = [
        like.assign(
            **{
                name: like[name].str.replace("semantoks-demo", system, regex=False)
                for name in ("run_id", "system")
                if name in like
            }
        )
        for system in MORE
    ]
    return pd.concat([rows, *more], ignore_index=True)
