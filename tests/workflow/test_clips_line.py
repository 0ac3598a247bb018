"""Labelled clips in the graph: what they depend on, and that nothing else depends on what they do."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_graph import jobs

sys.path.append(str(Path(__file__).resolve().parents[1] / "stages"))
from tiny_study import TinyStudy

TARGET = ("shards_tiny", "--configfile", "tiny/config.yaml")


def planned(folder: Path, command, *arguments: str) -> dict[str, int]:
    done = command(folder, "snakemake", "-n", *arguments)
    return jobs(done.stdout + done.stderr)


def test_events_add_two_jobs_and_the_report_waits_for_them(workplace, command):
    content = yaml.safe_load((workplace / "config.yaml").read_text())
    without = planned(workplace, command, "results/demo/report/index.html")
    content["datasets"]["demo"]["events"] = {"labels": "hcp7"}
    (workplace / "config.yaml").write_text(yaml.safe_dump(content))
    found = planned(workplace, command, "results/demo/report/index.html")
    assert (found["events"] - without["events"], found["clips"] - without["clips"]) == (1, 1)


@pytest.fixture
def tiny(workplace: Path) -> TinyStudy:
    (workplace / "tiny").mkdir()
    study = TinyStudy(workplace / "tiny")
    for subject in ("01", "02"):
        study.add(subject, task="loc", n_volumes=80)
    write(study, {"kind": "fmriprep"})
    return study


def write(study: TinyStudy, dataset: dict) -> None:
    study.write(
        n_chunks=1, dataset=dataset, clean={"strategy": "none", "high_pass": None}, exclude={"min_duration_s": 60}
    )


def events(study: TinyStudy, n: int) -> None:
    rows = [(10.0 + 20 * i, 12.0, "ab"[i % 2]) for i in range(n)]
    table = pd.DataFrame(rows, columns=["onset", "duration", "trial_type"])
    table.to_csv(study.data / "task-loc_events.tsv", sep="\t", index=False)


@pytest.mark.slow
def test_changed_events_rerun_the_clips_alone(workplace, tiny, command):
    command(workplace, "snakemake", "--cores", "2", *TARGET)
    clips = workplace / "results" / "tiny" / "shards" / "tiny" / "clips.parquet"
    assert not clips.exists()

    events(tiny, 4)
    write(tiny, {"events": {}})
    assert planned(workplace, command, *TARGET) == {"events": 1, "clips": 1, "shards_tiny": 1, "total": 3}
    command(workplace, "snakemake", "--cores", "2", *TARGET)
    assert len(pd.read_parquet(clips)) == 8
    assert planned(workplace, command, *TARGET) == {}

    events(tiny, 6)
    command(workplace, "snakemake", "index", "--cores", "1", *TARGET[1:])
    assert planned(workplace, command, *TARGET) == {"clips": 1, "shards_tiny": 1, "total": 2}
    command(workplace, "snakemake", "--cores", "2", *TARGET)
    assert len(pd.read_parquet(clips)) == 12

    write(tiny, {"events": {"delay_s": 6, "labels": {"first": "a"}, "exclude": ["b"]}})
    assert planned(workplace, command, *TARGET) == {"clips": 1, "shards_tiny": 1, "total": 2}
    command(workplace, "snakemake", "--cores", "2", *TARGET)
    assert set(pd.read_parquet(clips)["label"]) == {"first"}
    assert planned(workplace, command, *TARGET) == {}
