"""The weights of a model or a network in its folder: ``model.safetensors``, and nothing else in it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from neuropipe.errors import CheckpointError
from neuropipe.paths import atomic

FILE = "model.safetensors"


def write(folder: Path, module: nn.Module) -> None:
    """Write all weights of a module, atomically."""
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    with atomic(folder / FILE) as temporary:
        save_file(weights, str(temporary))


def read_into(module: nn.Module, folder: Path, family: str) -> None:
    """Give a module the weights of a folder; every one must be there and fit.

    Raises
    ------
    CheckpointError
        The file is damaged, or names or shapes do not match.
    """
    try:
        module.load_state_dict(load_file(str(folder / FILE)), strict=True)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / FILE} does not fit {family}: {error}") from error
