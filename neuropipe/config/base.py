"""What every section of the configuration shares: frozen objects, names, and reading YAML."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from neuropipe.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
PACKAGE = Path(__file__).parents[1]  # recipes, presets and label maps lie in folders of their own there


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def expand(text: str) -> str:
    """Expand ``${NAME}`` and ``${NAME:-default}`` from the environment."""

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name in os.environ:
            return os.environ[name]
        if default is None:
            raise ConfigError(
                f"The environment variable {name}, named in {text!r}, is not set; set it, or write a path."
            )
        return default

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, text)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; every failure names the file and the remedy."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"No file {path}; name an existing YAML file (the demo's is config.yaml).")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, found {type(content).__name__}.")
    return content
