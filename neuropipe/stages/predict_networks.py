"""The networks that ``neuropipe predict`` asks: which they are, whether they fit together, what is known of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropipe.errors import CheckpointError, ConfigError
from neuropipe.provenance import read_json, sha256

if TYPE_CHECKING:
    from neuropipe.hub.finetuned import Finetuned

SHARED = ("content", "slices", "volumes", "grid", "map", "n_clips", "task")  # what networks must have in common
NOT_MEANT = {"checkpoints", "from-scratch"}  # below a folder; named itself, a network from random weights is asked
PREFIX = "hf:"  # of names on the Hugging Face hub, see `neuropipe.hub.names`
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors")
YEARS = "age"  # BIDS gives ages in years; nothing else has a unit that is known
MEASURES = {"binary": ("auroc", "AUROC"), "regression": ("mae", "Mean absolute error")}
PRETRAINED = {
    "train_side": "people of the training side alone",
    "external": "people of other studies",
    "everyone": "everyone, people of the test side too (without labels)",
}
RELEASE_WARNING = (
    "A released checkpoint, read with its published settings. Its published accuracy comes from a split by slice, not "
    "by person: slices of one person may lie on both sides, and it says little about new people."
)


@dataclass(frozen=True)
class Asked:
    """Networks of one task.

    Attributes
    ----------
    networks : list of Finetuned
        On the device, their weights frozen.
    sources : dict of str to str
        Where each is from, with the hash of its weights.
    facts : list of (str, str)
        What a page says of them.
    warnings : list of str
    """

    networks: list[Finetuned]
    sources: dict[str, str]
    facts: list[tuple[str, str]]
    warnings: list[str]

    @property
    def about(self) -> dict[str, Any]:
        """What all of them read and answer."""
        return self.networks[0].about

    @property
    def unit(self) -> str:
        """Unit of a predicted value; empty where it is not known."""
        return "years" if self.about["task"]["target"].lower() == YEARS else ""

    @property
    def threshold(self) -> tuple[float, str]:
        """Calibrated probability from which on the label is positive, and where it is from."""
        stored = [one.about["threshold"] for one in self.networks if one.about.get("threshold") is not None]
        if len(stored) == len(self.networks):
            return sum(stored) / len(stored), "chosen on validation people"
        return 0.5, "the default; none is stored with the network"


def load(models: Sequence[str], family: str | None, device) -> Asked:
    """Return the networks of folders and checkpoint files.

    Raises
    ------
    CheckpointError
        There is no network, or it cannot be read.
    ConfigError
        Networks do not fit together, or read series.
    """
    from neuropipe.hub import finetuned, names, released

    networks, sources, folders = [], {}, []
    for model in models:
        if is_released(model):
            networks.append(released.load(model, family, device))
            sources[model] = sha256(names.locate(model))
            continue
        for folder in find(Path(model)):
            networks.append(finetuned.load(folder, device))
            sources[str(folder)] = sha256(folder / "model.safetensors")
            folders.append(folder)
    _check([one.about for one in networks], list(sources))
    for one in networks:
        one.network.requires_grad_(False)
    about = networks[0].about
    is_release = bool(about.get("released"))
    return Asked(networks, sources, _facts(networks, folders), [RELEASE_WARNING] if is_release else [])


def is_released(model: str) -> bool:
    """Return whether a name is that of a checkpoint file or of a repository, not of a folder."""
    return model.startswith(PREFIX) or (Path(model).is_file() and Path(model).suffix in CHECKPOINTS)


def find(folder: Path) -> list[Path]:
    """Return the folders of networks at or below `folder`, sorted.

    Raises
    ------
    CheckpointError
        There is none.
    """
    if (folder / "config.json").is_file():
        _refuse_series(read_json(folder / "config.json"), folder)
        return [folder]
    found = sorted(path.parent for path in folder.glob("**/config.json"))
    found = [path for path in found if not set(path.relative_to(folder).parts) & NOT_MEANT]
    if not found:
        state = "holds no network" if folder.is_dir() else "is not there"
        raise CheckpointError(
            f"{folder} {state}: expected config.json and model.safetensors in it or below. Name a folder like "
            "results/<study>/finetuned/<task>/<recipe>/seed-0, or a released checkpoint file."
        )
    for path in found:
        _refuse_series(read_json(path / "config.json"), path)
    return found


def _refuse_series(about: dict[str, Any], folder: Path) -> None:
    if about.get("content") == "series" or ("content" not in about and "region_order_hash" in about):
        raise ConfigError(
            f"{folder} reads regional series; `neuropipe predict` is for maps of anatomy and slices. Predictions of "
            "series models are in tasks/<task>/*/predictions.parquet."
        )


def _check(abouts: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Refuse networks that do not read and answer the same."""
    for about, name in zip(abouts, names, strict=True):
        for key in SHARED:
            first, other = abouts[0].get(key), about.get(key)
            if first != other:
                raise ConfigError(
                    f"{names[0]} and {name} cannot be averaged: {key} is {first!r} and {other!r}. Name networks of one "
                    "task that read the same."
                )


# ------------------------------------------------------------------ what is known


def _facts(networks: Sequence[Finetuned], folders: Sequence[Path]) -> list[tuple[str, str]]:
    """Return what a page says of the networks, as pairs of a label and words."""
    about = networks[0].about
    facts = [("Network", _name(folders, about, len(networks))), ("Trained for", _task(about))]
    if about["training"]:
        facts.append(("Trained on", _people([one.about["training"] for one in networks])))
        if (mode := about["training"].get("pretraining")) in PRETRAINED:
            facts.append(("Pretrained on", PRETRAINED[mode]))
    facts.append(("Reads", _content(about)))
    if folders:
        facts.append(judged(folders[0], about["task"]))
    if calibrations := [one.about["calibration"] for one in networks if one.about["calibration"]]:
        shown = "; ".join(f"temperature {c['temperature']:.3g}, bias {c['bias']:.3g}" for c in calibrations)
        facts.append(("Calibration", shown))
    if any(one.familiarity is not None for one in networks):
        facts.append(
            (
                "Distance",
                "of the scan’s features from those of the training people, in units of what only a few of the people "
                "held out exceed: above 1 a scan counts as unfamiliar",
            )
        )
    return facts


def _name(folders: Sequence[Path], about: dict[str, Any], n: int) -> str:
    family = f"family {about['family']}"
    if not folders:
        return f"released checkpoint, {family}"
    parts = folders[0].parts
    recipe = parts[parts.index("finetuned") + 2] if "finetuned" in parts[:-2] else folders[0].name
    return f"{recipe}, {family}" + (f", mean of {n} networks" if n > 1 else "")


def _task(about: dict[str, Any]) -> str:
    task = about["task"]
    return f"{task['target']}: {task['positive']} or not" if task["kind"] == "binary" else task["target"]


def _people(trainings: Sequence[dict[str, Any]]) -> str:
    """Return whom networks were trained on."""
    n_people = sorted({one.get("n_train") for one in trainings} - {None})
    many = (
        " to ".join(str(n) for n in dict.fromkeys((n_people[0], n_people[-1]))) if n_people else "an unknown number of"
    )
    datasets = sorted({name for one in trainings for name in one.get("datasets") or []})
    held_out = sorted({one.get("n_validation") for one in trainings} - {None})
    words = f"{many} people" + (f" of {', '.join(datasets)}" if datasets else "")
    return words + (f"; {held_out[0]} more chose when to stop and the calibration" if held_out else "")


def _content(about: dict[str, Any]) -> str:
    grid = about["grid"]
    what = (
        f"maps ({about['map']})" if about["map"] else "maps" if about["content"] == "volume" else "pictures of slices"
    )
    if about["content"] == "image" and grid:
        what = f"{(about['slices'] or {}).get('plane', 'axial')} slices of {what}"
    if not grid:
        return what
    return f"{what} in {grid.get('space') or 'an unnamed space'}, {' × '.join(map(str, grid['shape']))} voxels"


def judged(folder: Path, task: dict[str, Any]) -> tuple[str, str]:
    """Return how well such networks did on test people, from the study's metrics, where they are found."""
    metric, title = MEASURES[task["kind"]]
    row = _metric(folder, task["name"], metric)
    if row is None:
        return title, "not found beside the network; run `neuropipe evaluate` for its study"
    value = f"{row['value']:.2f}"
    if math.isfinite(row["ci_low"]):
        value += f" (95 % interval {row['ci_low']:.2f} to {row['ci_high']:.2f})"
    return f"{title} on test people", f"{value}, {row['n_test']} people of {row['dataset']}"


def _metric(folder: Path, task: str, metric: str) -> dict[str, Any] | None:
    """Return the row of the recipe's fine-tuned networks in metrics.parquet, averaged over folds."""
    import pandas as pd

    parts = folder.parts
    if "finetuned" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("finetuned")
    path = Path(*parts[:at], "metrics.parquet") if at else Path("metrics.parquet")
    if not path.is_file() or len(parts) < at + 3:
        return None
    table = pd.read_parquet(path)
    mine = table[(table["task"] == task) & (table["system"] == parts[at + 2]) & (table["readout"] == "finetune")]
    mine = mine[(mine["metric"] == metric) & (mine["fold"] == "mean")]
    return None if mine.empty else mine.iloc[0].to_dict()
