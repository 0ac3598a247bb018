"""A finished model on disk: weights as safetensors, and beside them all that is needed to use them rightly.

<folder>/model.safetensors   weights, nothing else
<folder>/config.json         family, its Config, order and names of the regions, t_r, cleaning, training data
<folder>/regions.tsv         the region table, with the networks the model was built on
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from neuropipe import models
from neuropipe.errors import CheckpointError
from neuropipe.models.base import ModelConfig
from neuropipe.paths import atomic
from neuropipe.provenance import read_json, write_json
from neuropipe.signals.regions import Regions


@dataclass(frozen=True)
class Saved:
    """A model that was read back.

    Attributes
    ----------
    model : Module
        With its weights, in evaluation mode.
    regions : Regions
        What its input columns are.
    about : dict
        The content of ``config.json``.
    """

    model: nn.Module
    regions: Regions
    about: dict[str, Any]


def build(family: str, config: ModelConfig, regions: Regions, seed: int) -> nn.Module:
    """Return a freshly initialised model; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return models.load(family).Model(config, regions)


def save(
    folder: Path, *, family: str, config: ModelConfig, model: nn.Module, regions: Regions, facts: dict[str, Any]
) -> None:
    """Write a model; ``config.json`` comes last and says that the folder is complete."""
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with atomic(folder / "model.safetensors") as temporary:
        save_file(weights, str(temporary))
    regions.write(folder / "regions.tsv")
    about = {
        "family": family,
        "model": config.model_dump(mode="json"),
        "region_order_hash": regions.order_hash,
        "atlases": regions.atlases,
        "n_regions": len(regions),
        **facts,
    }
    write_json(folder / "config.json", about)


def load(folder: str | Path) -> Saved:
    """Read a model that `save` wrote; every weight must be there and fit.

    Raises
    ------
    CheckpointError
        The folder is incomplete, the weights are damaged, or names or shapes do not match.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json: it is not a finished model; run `neuropipe pretrain` for it."
        )
    about = read_json(folder / "config.json")
    regions = Regions.read(folder / "regions.tsv")
    family = models.load(about["family"])
    model = family.Model(family.Config.model_validate(about["model"]), regions)
    try:
        model.load_state_dict(load_file(str(folder / "model.safetensors")), strict=True)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / 'model.safetensors'} does not fit {about['family']}: {error}") from error
    return Saved(model.eval(), regions, about)
