"""A model of series as a plugin for the Brainmarks suite (arXiv 2510.13768), which compares models of fMRI.

<output>/pyproject.toml                       pip install <output>, beside brainmarks
<output>/src/brainmarks/models/<name>.py      found by the suite as part of its own namespace
<output>/src/neuropipe_<name>/                weights, config.json, regions.tsv

The suite hands over whole recordings as it read them, z-scored and not cleaned, in one of its own spaces; they are
cleaned, resampled and cut here as the model's training data were, as far as that needs no confounds.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuropipe import __version__
from neuropipe.config import Clean
from neuropipe.data.batch import Batch
from neuropipe.data.clips import clip_starts, cut, zscore
from neuropipe.errors import CheckpointError, RunExcluded
from neuropipe.hub import export
from neuropipe.paths import write_text
from neuropipe.signals.band import resample
from neuropipe.signals.clean import clean
from neuropipe.signals.regions import Regions

N_CLIPS = 8  # of a recording, where the recipe does not say
# What the suite calls the series of these atlases, joined in this order: Schaefer's in the order of 7 networks first,
# of 17 second.
SPACES = {
    ("schaefer400-7n", "tian-s3", "buckner7"): ("schaefer400_tians3_buckner7", 457),
    ("schaefer400-17n",): ("schaefer400", 400),
}
PLUGIN = '''"""{name}, a model of the family {family}, for Brainmarks; written by neuropipe {version}."""

from importlib.resources import files

from brainmarks.models.base import Embeddings
from brainmarks.models.registry import register_model
from neuropipe.hub import brainmarks


@register_model("{name}")
def {name}(ckpt_path: str | None = None, **kwargs):
    """Return transform and model; `ckpt_path` names another folder of the same kind as ``{package}``."""
    return brainmarks.pair(ckpt_path or files("{package}"), Embeddings)
'''
PROJECT = """\
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "brainmarks-{hyphened}"
version = "0"
dependencies = ["neuropipe>={version}"]

[tool.setuptools.packages.find]
where = ["src"]
namespaces = true

[tool.setuptools.package-data]
{package} = ["*"]
"""


def space_of(regions: Regions) -> str:
    """Return the name that the suite has for series of these regions.

    Raises
    ------
    CheckpointError
        It cannot read series of these regions, or not in this order.
    """
    name, n_regions = SPACES.get(tuple(regions.atlases), ("", 0))
    labels = regions.table.groupby("atlas", sort=False)["label"]
    counted = all(part.tolist() == list(range(1, len(part) + 1)) for _, part in labels)
    if not name or len(regions) != n_regions or not counted:
        known = "; ".join(f"{'+'.join(atlases)} ({n} regions)" for atlases, (_, n) in SPACES.items())
        raise CheckpointError(
            f"Brainmarks has no series of {'+'.join(regions.atlases)} ({len(regions)} regions); it reads {known}, all "
            "of their regions in the order of their labels. Train on one of these to export the model for it."
        )
    return name


class Transform:
    """From a recording of the suite to clips as the model reads them.

    Parameters
    ----------
    about : mapping
        Content of the model's ``config.json``.
    n_samples : int
        Length of a clip.
    """

    def __init__(self, about: Mapping[str, Any], n_samples: int) -> None:
        self.t_r, self.n_samples = float(about["t_r"]), n_samples
        self.n_clips = about["recipe"].get("n_clips") or N_CLIPS
        self.settings = Clean.model_validate(about["clean"] | {"t_r": self.t_r, "standardize": "zscore"})

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return ``series`` (clip, time, region), ``valid_time`` (clip, time) and ``valid_region`` (region,).

        Parameters
        ----------
        sample : mapping
            ``bold``, tensor (time, region), z-scored, and ``tr`` in seconds. A region that does not vary is missing.
        """
        bold, t_r = np.asarray(sample["bold"], dtype=np.float64), float(sample["tr"])
        present = np.isfinite(bold).all(axis=0) & (bold.std(axis=0) > 0)
        series = zscore(np.nan_to_num(self.cleaned(np.where(present, bold, 0), t_r)))
        starts = clip_starts(len(series), self.n_samples, self.n_clips, "regular")
        clips, valid = cut(series, starts, self.n_samples)
        return {
            "series": torch.from_numpy(clips),
            "valid_time": torch.from_numpy(valid),
            "valid_region": torch.from_numpy(present),
        }

    def cleaned(self, bold: np.ndarray, t_r: float) -> np.ndarray:
        """Return the series (time, region) in the model's pass-band and sampling; too short a clip only resampled."""
        none = np.empty((len(bold), 0)), np.zeros(len(bold), dtype=bool)
        try:
            return clean(bold, t_r, *none, self.settings).series
        except RunExcluded:
            return resample(bold, t_r, self.t_r)


class Wrapper(nn.Module):
    """A model with the suite's face: clips in, the three kinds of embeddings out.

    Parameters
    ----------
    saved : Saved
        The model, its regions and what it reads.
    embeddings : callable
        The suite's named tuple: class embedding (batch, 1, dim), registers, patches (batch, token, dim).
    """

    def __init__(self, saved: export.Saved, embeddings: Callable[..., Any]) -> None:
        super().__init__()
        self.__space__ = space_of(saved.regions)
        self.model, self.embeddings, self.t_r = saved.model, embeddings, float(saved.about["t_r"])

    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        """Return what the model knows of each recording: means over its clips, as everywhere in neuropipe."""
        n_people, n_clips = batch["series"].shape[:2]
        clips = Batch.of_series(batch["series"].flatten(0, 1).float(), self.t_r)
        clips.valid_time.copy_(batch["valid_time"].flatten(0, 1))
        clips.valid_region.copy_(batch["valid_region"].repeat_interleave(n_clips, dim=0))
        embedded = self.model.embed(clips).unflatten(0, (n_people, n_clips)).mean(1, keepdim=True)
        patches = None
        if getattr(self.model, "tokens", None) is not None:
            tokens, present = (part.unflatten(0, (n_people, n_clips)) for part in self.model.tokens(clips))
            weight = present[..., None].to(tokens.dtype)
            patches = (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.embeddings(cls_embeds=embedded, reg_embeds=None, patch_embeds=patches)


def pair(folder: str | Path, embeddings: Callable[..., Any]) -> tuple[Transform, Wrapper]:
    """Return transform and frozen wrapper of a model's folder, as the suite's constructors do."""
    saved = export.load(folder)
    wrapper = Wrapper(saved, embeddings).eval().requires_grad_(False)
    return Transform(saved.about, saved.model.config.reads().n_samples), wrapper


def write(source: Path, output: Path) -> str:
    """Write the plugin of a finished model and return its name, by which the suite knows it.

    Raises
    ------
    CheckpointError
        `source` is no finished model of series, or of regions that the suite does not know.
    """
    saved = export.load(source)
    if saved.regions is None:
        raise CheckpointError(f"{source} reads {saved.about['content']}s; Brainmarks compares models of fMRI series.")
    space_of(saved.regions)
    if lacking := sorted({"t_r", "clean"} - set(saved.about)):
        raise CheckpointError(
            f"{source}: config.json does not say how its training data were prepared ({', '.join(lacking)}), as of "
            "released weights; name a folder that `neuropipe pretrain` trained."
        )
    name = re.sub(r"\W+", "_", output.resolve().name).strip("_").lower() or "model"
    name = name if name[0].isalpha() else f"model_{name}"
    package = f"neuropipe_{name}"
    facts = {"name": name, "package": package, "family": saved.about["family"], "version": __version__}
    held = output / "src" / package
    held.mkdir(parents=True, exist_ok=True)
    for file in ("model.safetensors", "regions.tsv", "config.json"):
        shutil.copyfile(source / file, held / file)
    write_text(held / "__init__.py", f'"""Weights of {name}."""\n')
    write_text(output / "src" / "brainmarks" / "models" / f"{name}.py", PLUGIN.format(**facts))
    write_text(output / "pyproject.toml", PROJECT.format(hyphened=name.replace("_", "-"), **facts))
    return name
