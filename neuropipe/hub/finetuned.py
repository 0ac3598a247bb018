"""A network for one task on disk, and what it says about a person.

<folder>/model.safetensors   weights, nothing else
<folder>/config.json         family, its Config, what it reads, the task, calibration, scaling, training
<folder>/familiarity.npz     whom it was trained on: says which new people are unlike them
<folder>/regions.tsv         of networks for series: the regions in order
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuropipe import models
from neuropipe.data.batch import Batch
from neuropipe.data.slices import Slicing
from neuropipe.errors import CheckpointError
from neuropipe.hub import weights
from neuropipe.hub.familiarity import Familiarity
from neuropipe.models.base import ModelConfig, Spec
from neuropipe.models.network import Network, Norm, Reading, on_top_of, one_view, read
from neuropipe.provenance import read_json, write_json
from neuropipe.shards.read import Grid
from neuropipe.signals.regions import Regions


@dataclass(frozen=True)
class Decision:
    """What a fine-tuned network says about one person.

    Attributes
    ----------
    value : float
        Calibrated probability of the positive class, or a number in the target's unit.
    logit : float
        Calibrated log odds; NaN for numbers.
    raw : float
        Probability before calibration; NaN for numbers.
    std : float
        Population standard deviation over passes with dropout, in units of `value`; NaN without passes.
    entropy, mutual_information : float
        Of the probability, in nats: of its mean over passes, and the part of it that passes disagree about; NaN for
        numbers and without passes.
    distance : float
        From the training people.
    is_far : bool
        Whether that is more than is usual: the network never saw anyone alike.
    """

    value: float
    logit: float
    raw: float
    std: float
    entropy: float
    mutual_information: float
    distance: float
    is_far: bool


@dataclass(frozen=True)
class Finetuned:
    """A network that was read back.

    Attributes
    ----------
    network : Network
        In evaluation mode.
    about : dict
        The content of ``config.json``.
    familiarity : Familiarity
    regions : Regions, optional
        What the columns of series are.
    """

    network: Network
    about: dict[str, Any]
    familiarity: Familiarity
    regions: Regions | None = None

    @property
    def spec(self) -> Spec:
        """What a row of a batch is: the length of a clip, the size of a slice."""
        return one_view(models.load(self.about["family"]).Config.model_validate(self.about["model"]).reads())

    @property
    def grid(self) -> Grid | None:
        """Where the voxels lay that it learned from; None where it reads no volumes."""
        return Grid.from_json(self.about["grid"]) if self.about.get("grid") else None

    @property
    def slicing(self) -> Slicing | None:
        """How volumes are cut into what it reads; None where they are not."""
        return Slicing.model_validate(self.about["slices"]) if self.about.get("slices") else None

    def predict(self, recordings: Sequence[Batch], seed: int = 0) -> Decision:
        """Return what the network says about one person.

        Parameters
        ----------
        recordings : sequence of Batch
            One per recording or scan, whose rows are its clips or slices; each recording weighs the same.
        seed : int
            Of the passes with dropout. Equal seeds give equal numbers, in any number of threads.
        """
        reading = read(self.network, recordings, self.about["n_passes"], seed)
        return decide(reading, self.about["calibration"], self.about["scaling"], self.familiarity)


def decide(
    reading: Reading,
    calibration: dict[str, float] | None,
    scaling: dict[str, float] | None,
    familiarity: Familiarity,
) -> Decision:
    """Return a reading in the task's terms.

    Parameters
    ----------
    calibration : dict, optional
        Classes: ``temperature`` and ``bias``; log odds are ``value / temperature + bias``.
    scaling : dict, optional
        Numbers: ``mean`` and ``sd`` of the training side, in the target's unit.
    """
    nan, std, entropy, mutual = float("nan"), float("nan"), float("nan"), float("nan")
    if scaling is not None:
        value, logit, raw = reading.value * scaling["sd"] + scaling["mean"], nan, nan
        std = float(reading.passes.std() * scaling["sd"]) if len(reading.passes) else nan
    else:
        assert calibration is not None
        logits = np.append(reading.passes, reading.value) / calibration["temperature"] + calibration["bias"]
        logit, value, raw = float(logits[-1]), _probability(logits[-1]), _probability(reading.value)
        if len(reading.passes):
            p = np.array([_probability(x) for x in logits[:-1]])
            std, entropy = float(p.std()), _entropy(p.mean())
            mutual = entropy - float(np.mean([_entropy(q) for q in p]))
    distance = familiarity.distance(reading.features)
    far = bool(distance > familiarity.threshold)
    return Decision(value, logit, raw, std, entropy, mutual, float(distance), far)


def _probability(logit: float) -> float:
    return float(0.5 * (1 + np.tanh(logit / 2)))  # a logistic function that never overflows


def _entropy(p: float) -> float:
    """Return the entropy of a yes-no answer, in nats."""
    return float(-sum(q * np.log(q) for q in (p, 1 - p) if q > 0))


def build(
    family: str,
    config: ModelConfig,
    regions: Regions | None,
    *,
    drop_rate: float | None = None,
    hidden_dim: int | None = None,
    norm: Norm | None = None,
    seed: int = 0,
) -> Network:
    """Return a freshly initialised network with one output (see `on_top_of`); equal seeds give equal weights."""
    torch.manual_seed(seed)
    return on_top_of(models.load(family).Model(config, regions), 1, drop_rate, hidden_dim, norm)


def save(
    folder: Path,
    *,
    family: str,
    config: ModelConfig,
    network: Network,
    familiarity: Familiarity,
    regions: Regions | None,
    facts: dict[str, Any],
) -> None:
    """Write a network; ``config.json`` comes last and says that the folder is complete.

    Parameters
    ----------
    facts : dict
        ``content``, ``slices``, ``volumes``, ``grid``, ``map``, ``task``, ``calibration``, ``scaling``,
        ``n_passes``, ``drop_rate`` and ``training`` at least, and ``head`` (``hidden_dim``, ``norm``) where it is
        not the family's own.
    """
    weights.write(folder, network)
    familiarity.save(folder / "familiarity.npz")
    if regions is not None:
        regions.write(folder / "regions.tsv")
    write_json(folder / "config.json", {"family": family, "model": config.model_dump(mode="json"), **facts})


def load(folder: str | Path, device: torch.device | str = "cpu") -> Finetuned:
    """Read a network that `save` wrote; every weight must be there and fit.

    Raises
    ------
    CheckpointError
        The folder is incomplete, a file is damaged, or names or shapes do not match.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json: it is not a finished network; run `neuropipe finetune` for it."
        )
    about = read_json(folder / "config.json")
    if missing := sorted({"task", "calibration", "scaling", "n_passes"} - about.keys()):
        raise CheckpointError(
            f"{folder / 'config.json'} lacks {', '.join(missing)}: it is not that of a network for a task. "
            "Give a folder below finetuned/."
        )
    path = folder / "regions.tsv"
    regions = Regions.read(path) if about["content"] == "series" else None
    config = models.load(about["family"]).Config.model_validate(about["model"])
    head = about.get("head", {"hidden_dim": None, "norm": None})
    network = build(
        about["family"],
        config,
        regions,
        drop_rate=about["drop_rate"],
        hidden_dim=head["hidden_dim"],
        norm=head["norm"],
    )
    weights.read_into(network, folder, about["family"])
    familiarity = Familiarity.load(folder / "familiarity.npz")
    return Finetuned(network.to(device).eval(), about, familiarity, regions)
