"""Print the JSON schemas of config.yaml and of recipes, or rewrite the committed copies."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from neuropipe import config
from neuropipe.errors import ConfigError
from neuropipe.paths import write_if_changed

FOLDER = Path("workflow/schemas")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe schema``."""
    parser.add_argument("--fix", action="store_true", help=f"rewrite {FOLDER} where it is out of date")


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of the study file, of recipes, and of every family's model section."""
    from neuropipe import models
    from neuropipe.train.recipe import Recipe

    found = {"config": config.schema(), "recipe": Recipe.model_json_schema()}
    return found | {f"model-{name}": models.load(name).Config.model_json_schema() for name in models.names()}


def run(*, fix: bool) -> None:
    """Check that the committed schemas are those of the code; with `fix`, rewrite them.

    Raises
    ------
    ConfigError
        A committed schema is out of date.
    """
    stale = []
    for name, schema in schemas().items():
        path = FOLDER / f"{name}.schema.json"
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        if fix:
            write_if_changed(path, text)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path))
    if stale:
        raise ConfigError(f"Out of date: {', '.join(stale)}. Rewrite them with: neuropipe schema --fix")
