"""Commands, versions and hashes come from the sidecars, and from nothing that only looks like one."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import pytest

from neuropipe.paths import Study
from neuropipe.provenance import write_json
from neuropipe.report import lineage


def _sidecar(stage: str, arguments: list[str], **versions: str) -> dict:
    maker = {"Command": f"neuropipe {stage}", "Arguments": arguments, "StageVersion": 3, "Versions": versions}
    return {"GeneratedBy": maker, "SettingsHash": "abc"}


def test_a_command_can_be_typed_again(tmp_path: Path) -> None:
    arguments = ["split", "--config", "my study.yaml", "--output", "results/x"]
    write_json(tmp_path / "splits/main/audit.json", _sidecar("split", arguments))
    made, _ = lineage.stages(Study(tmp_path))
    assert [(one.stage, one.version, one.settings_hash) for one in made] == [("split", "3", "abc")]
    assert shlex.split(made[0].command) == ["neuropipe", *arguments]


def test_arguments_of_another_program_are_not_shown_as_ours(tmp_path: Path) -> None:
    write_json(tmp_path / "splits/main/audit.json", _sidecar("split", ["-q", "tests"]))
    made, _ = lineage.stages(Study(tmp_path))
    assert made[0].command == "neuropipe split …"


def test_versions_of_all_stages_are_joined_with_ours_first(tmp_path: Path) -> None:
    write_json(tmp_path / "splits/main/audit.json", _sidecar("split", [], python="3.11", neuropipe="1", numpy="2"))
    write_json(tmp_path / "tasks/age/probe/probe.json", _sidecar("probe", [], neuropipe="1", scipy="1.17"))
    _, versions = lineage.stages(Study(tmp_path))
    assert list(versions.items()) == [("neuropipe", "1"), ("python", "3.11"), ("numpy", "2"), ("scipy", "1.17")]


@pytest.mark.parametrize("content", [{"checks": []}, ["a list"], _sidecar("shard", ["shard"])])
def test_other_json_files_are_passed_over(tmp_path: Path, content) -> None:
    write_json(tmp_path / "splits/main/audit.json", content)
    assert lineage.stages(Study(tmp_path)) == ([], {})


def test_hashes_are_of_the_files_and_weights_of_the_receipts(tmp_path: Path) -> None:
    (tmp_path / "metrics.parquet").write_bytes(b"numbers")
    receipt = {"models": [{"folder": "models/r/seed-0/main/0", "checkpoint_sha256": "f00"}]}
    write_json(tmp_path / "models/r/seed-0/receipt.json", receipt)
    assert lineage.hashes(Study(tmp_path)) == [
        ("metrics.parquet", hashlib.sha256(b"numbers").hexdigest()),
        ("models/r/seed-0/main/0/model.safetensors", "f00"),
    ]
