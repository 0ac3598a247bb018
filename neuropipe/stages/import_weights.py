"""Take a released checkpoint over: weights as safetensors, config.json, and a report of what became of every key."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from neuropipe.paths import write_text
from neuropipe.provenance import describe, sha256

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe import``."""
    parser.add_argument(
        "checkpoint", help="a file of torch.save, a .safetensors, a folder with one, or hf:owner/name[@revision][:file]"
    )
    parser.add_argument(
        "--family", required=True, help="whose release it is: semantoks, yaware, multiscale_vit, neuroclr"
    )
    parser.add_argument("--recipe", type=Path, help="recipe whose model section it was made with; default: as released")
    parser.add_argument(
        "--regions", type=Path, help="series: regions.tsv of the data it will read; default: as released"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")


def run(*, checkpoint: str, family: str, recipe: Path | None, regions: Path | None, output: Path) -> None:
    """Write a model folder that ``neuropipe embed`` reads, and ``keys.tsv`` beside it.

    Raises
    ------
    CheckpointError
        The file cannot be found or read, or a key is unknown, missing or does not fit.
    """
    from neuropipe.signals.regions import Regions
    from neuropipe.train.recipe import read

    take(
        checkpoint,
        family,
        output,
        read(recipe) if recipe else None,
        Regions.read(regions) if regions else None,
    )
    log.info("import: %s is in %s; keys.tsv says what became of every key", checkpoint, output)


def take(
    checkpoint: str, family: str, output: Path, recipe=None, regions=None, facts: dict[str, Any] | None = None
) -> None:
    """Write a released encoder as a model of ours.

    Parameters
    ----------
    checkpoint : str
        Path or ``hf:`` name.
    family : str
        Whose release it is.
    output : path
        Folder of the model.
    recipe : Recipe, optional
        Its ``model`` section is the config the weights were made with; default the family's ``Config.published()``.
    regions : Regions, optional
        Series: the regions of the data; default those of the release.
    facts : dict, optional
        More for ``config.json``.
    """
    from neuropipe.data.slices import Slicing
    from neuropipe.hub import export, names, published

    path = names.locate(checkpoint)
    config = recipe.model_settings() if recipe is not None else None
    model, regions = published.embedder(family, path, regions, config)
    spec = model.config.reads()
    slicing = recipe.slicing(spec) if recipe is not None else Slicing() if spec.content == "image" else None
    settings = {"n_clips": 8} if recipe is None else recipe.model_dump(mode="json", exclude={"finetune"})
    made = describe("import", inputs={path.name: sha256(path)}, packages=("torch", "numpy"))
    about = {
        "recipe": settings,
        "seed": 0,
        "origin": checkpoint,
        "slices": None if slicing is None else slicing.model_dump(mode="json"),
        "training": {"mode": "external"},
        **{key: made[key] for key in ("GeneratedBy", "Inputs", "GeneratedAt")},
    }
    fates = [(fate.key, "x".join(map(str, fate.shape)), fate.became) for fate in model.load_report]
    keys = pd.DataFrame(fates, columns=["key", "shape", "became"])
    write_text(output / "keys.tsv", keys.to_csv(sep="\t", index=False))
    export.save(output, family=family, config=model.config, model=model, regions=regions, facts=about | (facts or {}))
