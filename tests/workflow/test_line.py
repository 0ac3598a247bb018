"""The line as it is lived: run, run again, change something, pull the plug, go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_graph import jobs

pytestmark = pytest.mark.slow

SNAKEMAKE = Path(sys.executable).with_name("snakemake")
TIMES = {"GeneratedAt"}


def content_hashes(study: Path, *folders: str) -> dict[str, str]:
    """Return a hash of every file below `folders`; of sidecars without the time at which they were made."""
    found = {}
    for folder in folders:
        for path in sorted((study / folder).rglob("*")):
            if (
                not path.is_file()
                or path.name.startswith(".")
                or "checkpoints" in path.parts
                or "tensorboard" in path.parts
            ):
                continue
            if path.name == "metrics.parquet":  # holds seconds
                continue
            content = path.read_bytes()
            if path.suffix == ".json":
                content = json.dumps(without_times(json.loads(content)), sort_keys=True).encode()
            found[str(path.relative_to(study))] = hashlib.sha256(content).hexdigest()
    return found


def without_times(value):
    """Drop the times of a sidecar, at any depth."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def planned(folder: Path, command, *arguments: str) -> dict[str, int]:
    done = command(folder, "snakemake", "-n", *arguments)
    return jobs(done.stdout + done.stderr)


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start snakemake as the leader of a process group of its own."""
    log = open(folder / "snakemake.log", "a")  # noqa: SIM115
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [SNAKEMAKE, *arguments], cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment
    )


def wait_for(folder: Path, pattern: str, process: subprocess.Popen, count: int = 1) -> None:
    """Wait until `count` files match, while the process still runs."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, (folder / "snakemake.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_run_again_and_change_things(small_study, command):
    study = small_study / "results" / "demo"
    command(small_study, "snakemake", "--cores", "2")
    for product in (
        "report/index.html",
        "metrics.parquet",
        "predictions.parquet",
        "excluded.tsv",
        "shards/demo/dataset.h5",
    ):
        assert (study / product).is_file(), product
    assert planned(small_study, command) == {}, "a second run has something to do"

    shards = content_hashes(study, "shards")
    recipe = yaml.safe_load((small_study / "tiny.yaml").read_text())
    recipe["train"]["n_steps"] = 8
    (small_study / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    expected = {"pretrain": 1, "embed": 1, "probe": 2, "baselines": 2, "evaluate": 1, "report": 1, "all": 1}
    assert planned(small_study, command) == expected | {"total": 9}
    command(small_study, "snakemake", "--cores", "2")
    assert len(pd.read_parquet(study / "models/tiny/seed-0/main/0/metrics.parquet")) == 4
    assert content_hashes(study, "shards") == shards

    # A corrected diagnosis is noticed by `snakemake index` and rebuilds no tar.
    table = study / "study" / "participants.tsv"
    people = pd.read_csv(table, sep="\t")
    people.loc[0, "age"] += 1
    people.to_csv(table, sep="\t", index=False)
    command(small_study, "snakemake", "index", "--cores", "1")
    again = planned(small_study, command)
    assert not {"parcellate", "shard", "collect"} & set(again) and {"split", "hdf5"} <= set(again)

    # A new run of a known subject: its chunk alone is worked on.
    derivatives = study / "study" / "derivatives" / "fmriprep"
    func = next(folder for folder in sorted(derivatives.glob("sub-*/func")) if not list(folder.glob("*_run-*")))
    for path in list(func.glob("*task-rest_*")):
        shutil.copy(path, path.with_name(path.name.replace("task-rest_", "task-rest_run-9_")))
    command(small_study, "snakemake", "index", "--cores", "1")
    again = planned(small_study, command)
    assert again["parcellate"] == again["shard"] == 1


def test_targets_stop_where_they_say(small_study, command):
    command(small_study, "snakemake", "shards_demo", "--cores", "2")
    study = small_study / "results" / "demo"
    assert (study / "shards/demo/manifest.parquet").is_file()
    assert not (study / "splits").exists() and not (study / "models").exists()


def test_pulling_the_plug_in_mid_parcellation(small_study, command):
    study = small_study / "results" / "demo"
    running = start(small_study, "shards_demo", "--cores", "2")
    wait_for(study, "derivatives/demo/sub-*/func/sub-*_timeseries.json", running, 3)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    finished = list(study.glob("derivatives/demo/sub-*/func/sub-*_timeseries.json"))
    assert not list(study.glob("receipts/demo/shard-*.json")), "it was killed too late to show anything"
    before = {path: path.stat().st_mtime_ns for path in finished}
    command(small_study, "snakemake", "--unlock")
    command(small_study, "snakemake", "shards_demo", "--cores", "2")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items()), "a finished run was computed again"
    assert not list(study.rglob(".tmp-*"))
    interrupted = content_hashes(study, "derivatives", "shards", "receipts")
    for folder in ("derivatives", "shards", "receipts", "index", "qc"):
        shutil.rmtree(study / folder)
    command(small_study, "snakemake", "shards_demo", "--cores", "2")
    assert content_hashes(study, "derivatives", "shards", "receipts") == interrupted


def test_an_orphan_and_its_successor_do_not_write_at_once(small_study, command):
    study = small_study / "results" / "demo"
    running = start(small_study, "parcellated_demo", "--cores", "1")
    wait_for(study, "derivatives/demo/sub-*/func/sub-*_timeseries.json", running, 1)
    running.kill()  # snakemake alone: its job goes on as an orphan
    running.wait()
    command(small_study, "snakemake", "--unlock")
    command(small_study, "snakemake", "shards_demo", "--cores", "1")
    first = content_hashes(study, "derivatives", "shards")
    for folder in ("derivatives", "shards", "receipts", "index", "qc"):
        shutil.rmtree(study / folder)
    command(small_study, "snakemake", "shards_demo", "--cores", "2")
    assert content_hashes(study, "derivatives", "shards") == first


def test_pulling_the_plug_in_mid_training(small_study, command):
    study = small_study / "results" / "demo"
    recipe = yaml.safe_load((small_study / "tiny.yaml").read_text())
    recipe["train"] |= {"n_steps": 120, "checkpoint_every": 10}
    (small_study / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    running = start(small_study, "model_tiny", "--cores", "2")
    wait_for(study, "models/tiny/seed-0/main/0/checkpoints/step-*.pt", running)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (study / "models/tiny/seed-0/receipt.json").exists()
    command(small_study, "snakemake", "--unlock")
    command(small_study, "snakemake", "model_tiny", "--cores", "2")
    resumed = content_hashes(study, "models")
    shutil.rmtree(study / "models")
    command(small_study, "snakemake", "model_tiny", "--cores", "2")
    assert content_hashes(study, "models") == resumed


def test_a_broken_image_leaves_one_run_out_and_the_others_go_on(small_study, command):
    study = small_study / "results" / "demo"
    image = next((study / "study").rglob("*_task-rest_*_desc-preproc_bold.nii.gz"))
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    command(small_study, "snakemake", "--cores", "2")
    excluded = pd.read_csv(study / "excluded.tsv", sep="\t")
    row = excluded[excluded["path"].str.contains(image.name, na=False)].iloc[0]
    assert row["stage"] in ("parcellate", "index") and "truncated" in row["reason"]
    assert row["participant_id"] not in set(pd.read_parquet(study / "predictions.parquet")["participant_id"])
    assert image.name in (study / "report/index.html").read_text()
