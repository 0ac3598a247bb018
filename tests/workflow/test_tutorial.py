"""docs/tutorial.md as a newcomer follows it: a folder of tables, the page's configuration, its commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.ndimage import uniform_filter1d
from test_readme import BIN, commands

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
CONFIG, CHANGED = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
N_PEOPLE, N_VOLUMES, N_REGIONS = 40, 150, 20


def write_tables(folder: Path) -> None:
    """Write series whose first six regions go together, in patients more so, and the participants table."""
    rng, rows = np.random.default_rng(0), []
    (folder / "series").mkdir(parents=True)
    for number in range(N_PEOPLE):
        patient, name = number % 2 == 1, f"sub-{number:02d}"
        series, shared = rng.standard_normal((N_VOLUMES, N_REGIONS)), rng.standard_normal((N_VOLUMES, 1))
        series[:, :6] += (1.5 if patient else 0.4) * shared
        table = pd.DataFrame(uniform_filter1d(series, 6, axis=0), columns=[f"region-{i}" for i in range(N_REGIONS)])
        table.to_csv(folder / "series" / f"{name}_task-rest_timeseries.tsv", sep="\t", index=False)
        about = {"age": rng.integers(20, 60), "sex": rng.choice(["F", "M"]), "site": "AB"[number // 2 % 2]}
        rows.append({"participant_id": name, "diagnosis": "patient" if patient else "control", **about})
    pd.DataFrame(rows).to_csv(folder / "participants.tsv", sep="\t", index=False)


def run(folder: Path, line: str) -> str:
    """Run a command line of the page and return what it printed."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def jobs(dry_run: str) -> set[str]:
    """Return the rules that a dry run lists."""
    return set(re.findall(r"^rule (\w+):", dry_run, flags=re.MULTILINE))


@pytest.mark.slow
def test_the_first_evening(workplace):
    write_tables(workplace / "mine")
    (workplace / "evening.yaml").write_text(yaml.safe_dump(CONFIG))
    lines = [line for line in commands(PAGE) if "evening.yaml" in line]
    assert len(lines) == 3
    for line in lines:
        run(workplace, line)
    results = workplace / "results" / "evening"
    assert (results / "report" / "index.html").is_file() and (results / "qc" / "mine" / "index.html").is_file()
    metrics = pd.read_parquet(results / "metrics.parquet")
    auroc = metrics[(metrics["metric"] == "auroc") & (metrics["fold"] == "mean")].groupby("system")["value"].max()
    assert auroc["fc"] > 0.9 and {"neuroclr-demo", "neuroclr-demo (random weights)", "confounds"} <= set(auroc.index)

    recipe = yaml.safe_load((ROOT / "neuropipe" / "recipes" / "neuroclr-demo.yaml").read_text())
    assert recipe["model"]["embed_dim"] != 64
    recipe["model"]["embed_dim"] = 64
    (workplace / "wider.yaml").write_text(yaml.safe_dump(recipe))
    (workplace / "evening.yaml").write_text(yaml.safe_dump(CONFIG | CHANGED))
    listed = run(workplace, f"{sys.executable} -m snakemake -n --cores 1 --configfile evening.yaml")
    assert jobs(listed) >= {"pretrain", "embed", "probe", "evaluate", "report"}
    assert not jobs(listed) & {"index", "parcellate", "shard", "collect", "split", "qc"}
    trained = re.findall(r"^    output: results/evening/models/([\w-]+)/", listed, flags=re.MULTILINE)
    assert trained and set(trained) == {"wider"}
