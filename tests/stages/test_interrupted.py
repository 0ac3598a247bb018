"""Pretraining and fine-tuning that a cluster stops, by signals to a real command, and by several processes."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from judged_study import CONFIG, write_study
from safetensors.torch import load_file

from neuropipe import cli
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.stages import split
from neuropipe.train import optim

RECIPE = {
    "family": "autoencoder",
    "model": {"n_samples": 12, "min_samples": 6, "embed_dim": 4, "depth": 1},
    "train": {"n_steps": 6, "batch_size": 8, "lr": 0.01, "log_every": 1},
    "finetune": {"n_steps": 6, "batch_size": 8, "lr": 0.01, "evaluate_every": 2, "n_clips": 2, "from_scratch": False},
}


def prepared(root: Path) -> tuple[Path, Study]:
    """Write a study up to its split."""
    root.mkdir()
    (root / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    content = copy.deepcopy(CONFIG) | {"study": root.name}
    content["pretrain"] = {"tiny": {"datasets": ["toy"], "recipe": str(root / "tiny.yaml"), "splits": ["main"]}}
    content["pretrain"]["tiny"]["finetune"] = ["diagnosis"]
    config, study = write_study(root, config=content), Study(root)
    split.run(config=config, split="main", shards=[study.shards("toy")], output=study.split("main"))
    return config, study


def pretraining(config: Path, study: Study) -> list[str]:
    receipt = study.model("tiny", 0) / "receipt.json"
    line = ["pretrain", "--config", config, "--recipe", "tiny", "--seed", 0, "--shards", study.shards("toy")]
    return [str(word) for word in [*line, "--splits", study.split("main"), "--threads", 1, "--output", receipt]]


def finetuning(config: Path, study: Study) -> list[str]:
    line = ["finetune", "--config", config, "--task", "diagnosis", "--recipe", "tiny", "--seed", 0, "--shards"]
    line += [study.shards("toy"), "--split-dir", study.split("main"), "--models"]
    line += [study.model("tiny", 0) / "receipt.json", "--threads", 1]
    return [str(word) for word in [*line, "--output", study.task("diagnosis", "finetune/tiny_seed-0")]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.rglob("model.safetensors")
    return load_file(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_command_says_so_and_goes_on(tmp_path, monkeypatch, capsys, number):
    original, stops = optim.set_schedules, [3]

    def signalled(optimizer, settings, step):
        if step in stops:
            stops.remove(step)
            os.kill(os.getpid(), number)
        return original(optimizer, settings, step)

    (config, study), (other, whole) = prepared(tmp_path / "a"), prepared(tmp_path / "b")
    monkeypatch.setattr(optim, "set_schedules", signalled)
    for command, folder in ((pretraining, "models"), (finetuning, "finetuned")):
        stops[:] = [3]
        assert cli.main(command(config, study)) == 75
        assert "asked to stop, saved at step 4 of 6; run it again" in capsys.readouterr().err
        assert not list((study.root / folder).rglob("model.safetensors"))
        assert cli.main(command(config, study)) == 0
        assert cli.main(command(other, whole)) == 0
        found, expected = weights(study.root / folder), weights(whole.root / folder)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_paths_may_be_relative_to_any_folder(tmp_path, monkeypatch):
    config, study = prepared(tmp_path / "a")
    assert cli.main(pretraining(config, study)) == 0
    made, embedded = study.model("tiny", 0) / "receipt.json", study.embeddings("tiny", 0) / "receipt.json"
    embedding = ["embed", "--config", str(config), "--shards", str(study.shards("toy")), "--threads", "1"]
    assert cli.main([*embedding, "--models", str(made), "--output", str(embedded)]) == 0
    whole = read_json(made), [entry["folder"] for entry in read_json(embedded)["checkpoints"]]
    monkeypatch.chdir(made.parent)
    assert cli.main([*pretraining(config, study)[:-1], "receipt.json"]) == 0
    assert cli.main([*embedding, "--models", "receipt.json", "--output", str(embedded)]) == 0
    assert whole == (read_json(made), [entry["folder"] for entry in read_json(embedded)["checkpoints"]])


@pytest.mark.slow
def test_two_processes_write_one_model_that_is_the_same(tmp_path):
    (config, study), (other, whole) = prepared(tmp_path / "a"), prepared(tmp_path / "b")
    assert cli.main(pretraining(other, whole)) == 0
    line = [sys.executable, "-m", "neuropipe", *pretraining(config, study), "--gpus", "2"]
    said = subprocess.run(line, capture_output=True, text=True, check=True, timeout=300).stderr
    assert "torch.distributed.run --standalone --nproc-per-node=2" in said
    assert "process 0 of world size 2 computes on cpu" in said and "process 1 of world size 2" in said
    found, expected = weights(study.root / "models"), weights(whole.root / "models")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    (about,) = study.root.glob("models/**/config.json")
    assert read_json(about)["training"]["n_processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_torchrun_hands_a_signal_on_and_all_processes_stop_at_one_step(tmp_path, number):
    config, study = prepared(tmp_path / "a")
    recipe = copy.deepcopy(RECIPE)
    recipe["train"] |= {"n_steps": 200_000, "checkpoint_every": 50}
    (tmp_path / "a" / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    line = [sys.executable, "-m", "neuropipe", *pretraining(config, study), "--gpus", "2"]
    running = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while not list(study.root.glob("models/**/step-*.pt")):
        assert running.poll() is None
        signal.sigtimedwait([], 0.1)
    running.send_signal(number)
    said = running.communicate(timeout=120)[1]
    assert running.returncode != 0
    stopped = [line for line in said.splitlines() if "asked to stop, saved at step" in line]
    assert len(stopped) == 2 and stopped[0] == stopped[1]
