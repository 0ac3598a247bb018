"""What made the study: commands, versions and hashes, read from the sidecars of its products."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuropipe.paths import Study
from neuropipe.provenance import STAGE_VERSIONS, read_json, sha256

# One or a few sidecars per stage are enough to tell its command and versions; runs have thousands.
SIDECARS = {
    "index": ["index/*/*.json"],
    "parcellate": ["derivatives/*/sub-*/func/*.json", "derivatives/*/sub-*/ses-*/func/*.json"],
    "volumes": ["derivatives/*/sub-*/anat/*.json", "derivatives/*/sub-*/ses-*/anat/*.json"],
    "shard": ["shards/*/chunk-*.json"],
    "collect": ["shards/*/manifest.json"],
    "events": ["index/*/events.json"],
    "clips": ["shards/*/clips.json"],
    "split": ["splits/*/*.json"],
    "pretrain": ["models/*/seed-*/**/config.json"],
    "embed": ["embeddings/*/seed-*/**/*.json"],
    "finetune": ["finetuned/*/*/seed-*/**/config.json", "tasks/*/finetune/*/*.json"],
    "probe": ["tasks/*/probe/*.json"],
    "baselines": ["tasks/*/baselines/*.json"],
    "evaluate": ["*.json"],
}
PER_PATTERN = 64  # sidecars looked at for one pattern
TABLES = ["metrics.parquet", "predictions.parquet", "nulls.parquet", "costs.parquet"]


@dataclass(frozen=True)
class Made:
    """How a stage was run.

    Attributes
    ----------
    stage : str
        Its name.
    version : str
        Of the stage; raised when its output changes meaning.
    command : str
        One command line of it, as it was typed (or as a rule ran it).
    settings_hash : str
        Of the part of the configuration that it depends on.
    """

    stage: str
    version: str
    command: str
    settings_hash: str


def stages(study: Study) -> tuple[list[Made], dict[str, str]]:
    """Return how each stage was run, and the versions of all packages that took part."""
    found, versions = [], {}
    for stage in SIDECARS:
        sidecars = list(_sidecars(study.root, stage))
        for sidecar in sidecars:
            versions |= sidecar["GeneratedBy"].get("Versions", {})
        if sidecars:
            maker = sidecars[0]["GeneratedBy"]
            version = str(maker.get("StageVersion", STAGE_VERSIONS.get(stage, "")))
            command = _command(stage, maker.get("Arguments") or [])
            found.append(Made(stage, version, command, str(sidecars[0].get("SettingsHash", ""))))
    first = {name: versions[name] for name in ("neuropipe", "python") if name in versions}
    return found, first | dict(sorted(versions.items()))


def _sidecars(root: Path, stage: str) -> Iterator[dict[str, Any]]:
    """Yield the sidecars of a stage: JSON mappings with ``GeneratedBy`` whose command is the stage's."""
    for pattern in SIDECARS[stage]:
        for path in sorted(root.glob(pattern))[:PER_PATTERN]:
            content = read_json(path)
            maker = content.get("GeneratedBy") if isinstance(content, dict) else None
            if isinstance(maker, dict) and maker.get("Command", f"neuropipe {stage}") == f"neuropipe {stage}":
                yield content


def _command(stage: str, arguments: list[str]) -> str:
    """Return a command line that a shell reads; arguments recorded by another program are left out."""
    if arguments[:1] == [stage]:
        return f"neuropipe {shlex.join(arguments)}"
    return f"neuropipe {stage} …"


def hashes(study: Study) -> list[tuple[str, str]]:
    """Return (path, SHA-256) of the study's tables, splits, manifests and weights.

    Weights are not read again: training wrote their hashes into its receipts.
    """
    paths = [study.root / name for name in TABLES]
    paths += sorted(study.root.glob("splits/*/splits.parquet"))
    paths += sorted(study.root.glob("shards/*/manifest.parquet"))
    found = [(str(path.relative_to(study.root)), sha256(path)) for path in paths if path.is_file()]
    return found + sorted(weights(study).items())


def weights(study: Study) -> dict[str, str]:
    """Return the SHA-256 of every trained model's weights by its path below the study."""
    receipts = [read_json(path) for path in study.root.glob("models/*/seed-*/receipt.json")]
    models = [model for receipt in receipts for model in receipt.get("models", [])]
    return {f"{model['folder']}/model.safetensors": model["checkpoint_sha256"] for model in models}
