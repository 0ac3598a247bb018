"""A finished model on disk: weights as safetensors, and beside them all that is needed to use them rightly.

<folder>/model.safetensors   weights, nothing else
<folder>/config.json         family, its Config, what it reads and how that was prepared, training data
<folder>/regions.tsv         of series: the region table, with the networks the model was built on

What a model reads is named by ``content`` and, of series, by the order of the regions; of volumes, and of the slices
that are cut from them, by ``grid`` (space, shape, affine), ``map`` (gm, wm, t1w), ``volumes`` (how maps were prepared)
and ``slices`` (how they are cut).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuropipe import models
from neuropipe.data.slices import Slicing
from neuropipe.data.source import Source, check_reads
from neuropipe.errors import CheckpointError
from neuropipe.hub import weights
from neuropipe.models.base import ModelConfig
from neuropipe.provenance import read_json, write_json
from neuropipe.shards.read import Grid
from neuropipe.signals.regions import Regions


@dataclass(frozen=True)
class Saved:
    """A model that was read back.

    Attributes
    ----------
    model : Module
        With its weights, in evaluation mode.
    regions : Regions or None
        What its input columns are; None of a model of volumes or slices.
    about : dict
        The content of ``config.json``.
    """

    model: nn.Module
    regions: Regions | None
    about: dict[str, Any]

    @property
    def grid(self) -> Grid | None:
        """Where the voxels lay that it learned from, where that is known."""
        return Grid.from_json(self.about["grid"]) if self.about.get("grid") else None

    @property
    def slicing(self) -> Slicing | None:
        """How volumes are cut into what it reads; None where it does not read slices."""
        return Slicing.model_validate(self.about["slices"]) if self.about.get("slices") else None

    def check_reads(self, source: Source, what: str) -> None:
        """Raise where `source` holds what the model was not made for: other content, regions, or voxels."""
        check_reads(self.model.config.reads(), source.datasets, what)
        if self.regions is not None and source.regions is not None:
            self.regions.check_same(source.regions, what)
        if self.grid is not None and source.grid is not None:
            self.grid.check_same(source.grid, what)

    def check_map(self, found: str | None, what: str) -> None:
        """Raise where a model of one tissue is asked to read another: both look alike to it."""
        if (expected := self.about.get("map")) and found and expected != found:
            raise CheckpointError(
                f"{what} learned from maps {expected}, but the datasets hold {found}; set map: {expected} for them."
            )


def build(family: str, config: ModelConfig, regions: Regions | None, seed: int) -> nn.Module:
    """Return a freshly initialised model; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return models.load(family).Model(config, regions)


def save(
    folder: Path, *, family: str, config: ModelConfig, model: nn.Module, regions: Regions | None, facts: dict[str, Any]
) -> None:
    """Write a model; ``config.json`` comes last and says that the folder is complete."""
    weights.write(folder, model)
    about = {"family": family, "model": config.model_dump(mode="json"), "content": config.reads().content}
    (folder / "regions.tsv").unlink(missing_ok=True)
    if regions is not None:
        regions.write(folder / "regions.tsv")
        about |= {"region_order_hash": regions.order_hash, "atlases": regions.atlases, "n_regions": len(regions)}
    write_json(folder / "config.json", about | facts)


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
    regions = Regions.read(folder / "regions.tsv") if "region_order_hash" in about else None
    family = models.load(about["family"])
    model = family.Model(family.Config.model_validate(about["model"]), regions)
    weights.read_into(model, folder, about["family"])
    return Saved(model.eval(), regions, about)
