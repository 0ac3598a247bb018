"""One file per model family; the file name is the model name, there is no registry."""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from types import ModuleType

from neuropipe.errors import ConfigError

SHARED = {"__init__", "base", "embedder", "layers", "network", "resnet1d", "together"}


def names() -> list[str]:
    """Return the names of the families that ship, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED)


def load(name: str) -> ModuleType:
    """Import a family by name; a name with a dot is imported from outside the package."""
    if "." in name:
        return import_module(name)
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"Unknown model family {name!r}; known: {', '.join(names())}.{hint}")
    return import_module(f"neuropipe.models.{name}")
