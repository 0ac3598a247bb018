"""The door for released checkpoints: `published("semantoks", path)` gives a model with the released weights.

A family with a release has a file ``neuropipe/hub/layouts/<family>.py`` with

    SECTION                                            key under which a checkpoint file keeps its weights
    read(weights, regions, config) -> Model            the model, every tensor accounted for
    config_beside(path) -> Config                      optional: the settings in a file beside a checkpoint

and describes its keys as `Entry` objects, which `fill` copies strictly.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from neuropipe import models
from neuropipe.errors import CheckpointError, ConfigError
from neuropipe.hub import names
from neuropipe.models.base import ModelConfig
from neuropipe.signals.regions import Regions

log = logging.getLogger("neuropipe")

SHOWN = 8  # keys that an error message names
NO_TENSOR = ("dropped", "checked", "absent")  # what became of a key that fills no tensor of ours


def _all_of(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Entry:
    """One key of a released state dict.

    Attributes
    ----------
    key : str
        Name in the release.
    name : str
        Our tensor that it fills, or whose shape it has; empty for a fact.
    use : {"weight", "dead", "copy", "fact"}
        ``weight`` is copied, ``dead`` was never used by the released forward pass and is dropped,
        ``copy`` must equal `name`, ``fact`` is no weight; the family's layout says what becomes of it.
    fact : tensor, optional
        What a fact, or a dead weight without a name of ours, looks like: its shape and type.
    optional : bool
        A weight that a checkpoint may lack; our tensor then stays as it is.
    place : callable
        The view of `name` that the key fills, in the shape of the release: all of it, it transposed, some rows.
    """

    key: str
    name: str
    use: Literal["weight", "dead", "copy", "fact"] = "weight"
    fact: Tensor | None = None
    optional: bool = False
    place: Callable[[Tensor], Tensor] = _all_of


class Fate(NamedTuple):
    """What became of one key when a checkpoint was loaded; `fill` leaves the list as the module's `load_report`."""

    key: str
    shape: tuple[int, ...]
    became: str  # our tensor, or one of `NO_TENSOR`; "set aside": it was of no use to an encoder alone


def published(
    family: str,
    path: str | Path | Mapping[str, Tensor],
    regions: Regions | None = None,
    config: ModelConfig | None = None,
) -> nn.Module:
    """Return the released model of a family, in evaluation mode; its `load_report` says what became of every key.

    Parameters
    ----------
    family : str
        Name of the family, e.g. ``"semantoks"``.
    path : path, str or mapping
        A ``.safetensors`` file, a file written by ``torch.save`` (only tensors and plain containers
        are unpickled), a folder with one of them, an ``hf:owner/name[@revision][:file]``, or the state dict itself.
    regions : Regions, optional
        The regions of the data the model will see; default the released ones. An order that the
        weights were not made for is refused.
    config : ModelConfig, optional
        Default what a ``config.json`` of the release beside the file says, else the family's ``Config.published()``.

    Raises
    ------
    CheckpointError
        The file cannot be read, has an unknown key, lacks a key, or a tensor does not fit.
    """
    layout = _layout(family)
    if not isinstance(path, Mapping):
        path = names.locate(path)
        if config is None and hasattr(layout, "config_beside"):
            config = layout.config_beside(path)
    return layout.read(read_weights(path, layout.SECTION), regions, config).eval()


def embedder(
    family: str,
    path: str | Path | Mapping[str, Tensor],
    regions: Regions | None = None,
    config: ModelConfig | None = None,
) -> tuple[nn.Module, Regions | None]:
    """Return a released encoder as the family's `Model`, and the regions that it reads (None where it reads none).

    A release that is a classifier gives its encoder; its head is set aside, and what a `Model` has beside the
    encoder (decoder, projection head) stays as it is initialised with the seed 0: `embed` does not use it.
    Parameters and errors are those of `published`.
    """
    layout = _layout(family)
    if regions is None and hasattr(layout, "released_regions"):
        regions = layout.released_regions()
    released, wanted = published(family, path, regions, config), models.load(family).Model
    if isinstance(released, wanted):
        return released, regions
    part = next(name for name, _ in released.named_children() if name in ("encoder", "backbone"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = wanted(released.config, regions)
    getattr(model, part).load_state_dict(getattr(released, part).state_dict())
    model.load_report = [
        fate if fate.became.startswith(f"{part}.") or fate.became in NO_TENSOR else fate._replace(became="set aside")
        for fate in released.load_report
    ]
    return model.eval(), regions


def _layout(family: str) -> ModuleType:
    try:
        return import_module(f"neuropipe.hub.layouts.{family}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"No released checkpoint is known for the family {family!r} ({error}).") from error


def read_weights(path: str | Path | Mapping[str, Tensor], section: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by key, without any leading ``module.`` of parallel wrappers.

    The weights are the mapping itself, or lie in it under `section` or ``state_dict``; what lies beside them
    (epoch, optimiser) is not read into memory.
    """
    content = path if isinstance(path, Mapping) else _read_file(names.locate(path))
    for name in (section, "state_dict"):
        if isinstance(content.get(name), Mapping):
            content = content[name]
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise CheckpointError(
            f"Expected a state dict, or one under {section!r}; found {_some(strangers)}, which are no tensors."
        )
    return {re.sub(r"^(module\.)+", "", key): value for key, value in content.items()}


def _read_file(path: Path) -> Mapping:
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        mapped = zipfile.is_zipfile(path)  # files of old versions of torch are no archives
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {error}. Expected .safetensors, or a file of torch.save with "
            "nothing but tensors and plain containers; fetch it again."
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a mapping of names to tensors.")
    return content


def fill(module: nn.Module, entries: Iterable[Entry], weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into `module`; every key must be known, every tensor of ours must be there and fit.

    Raises
    ------
    CheckpointError
        A key is unknown or missing, a shape differs, or a copy is not one.
    """
    entries = list(entries)
    own = module.state_dict()
    unknown = sorted(set(weights) - {entry.key for entry in entries})
    if unknown:
        raise CheckpointError(
            f"The checkpoint has {len(unknown)} unknown key(s): {_some(unknown)}. It is of another family or version, "
            "or was made with other settings; pass the config it was made with."
        )
    missing = [entry.key for entry in entries if _needed(entry) and entry.key not in weights]
    if missing:
        raise CheckpointError(f"The checkpoint lacks {len(missing)} key(s): {_some(missing)}.")
    there = [entry for entry in entries if entry.key in weights]
    for entry in there:
        like = entry.place(own[entry.name]) if entry.fact is None else entry.fact
        expected, found = tuple(like.shape), tuple(weights[entry.key].shape)
        if expected != found:
            raise CheckpointError(
                f"{entry.key}: expected shape {expected}, found {found}. The weights were made for other regions, "
                "another grouping into networks, or other sizes; use the regions and the config they were made with."
            )
    ours = {entry.name: own[entry.name].clone() for entry in entries if entry.use == "weight"}
    for entry in there:
        if entry.use == "weight":
            entry.place(ours[entry.name]).copy_(weights[entry.key])
    module.load_state_dict(ours, strict=True)
    own = module.state_dict()
    for entry in there:
        if entry.use == "copy" and not torch.equal(
            weights[entry.key].to(own[entry.name]), entry.place(own[entry.name])
        ):
            raise CheckpointError(f"{entry.key} should equal the weights it is shared with, but differs.")
    dead = [entry for entry in there if entry.use == "dead"]
    if dead:
        n_numbers = sum(weights[entry.key].numel() for entry in dead)
        log.info("Dropped %d tensors (%d numbers) that the released model never uses.", len(dead), n_numbers)
    became = {"weight": None, "dead": "dropped", "copy": "checked", "fact": "checked"}
    module.load_report = [Fate(e.key, tuple(weights[e.key].shape), became[e.use] or e.name) for e in there]
    module.load_report += [Fate(e.key, (), "absent") for e in entries if e.key not in weights]
    _say(module.load_report)


def _needed(entry: Entry) -> bool:
    return entry.use == "weight" and not entry.optional


def _say(report: list[Fate]) -> None:
    """Log what became of the keys, each one on the level of debugging."""
    counts = Counter(fate.became if fate.became in NO_TENSOR else "loaded" for fate in report)
    log.info("Checkpoint: %s.", ", ".join(f"{n} tensors {what}" for what, n in sorted(counts.items())))
    for fate in report:
        log.debug("%s %s: %s", fate.key, fate.shape, fate.became)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(map(str, keys[:SHOWN])) + more
