"""A model card joined to the README of an exported repository, as the Hugging Face hub shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from neuropipe.errors import InputError

FENCE = "---\n"


def join(readme: str, card: str) -> str:
    """Return how to load a model, then its card, under one front matter.

    What both say at their heads is taken from the README, which knows how the model is loaded; tags are joined.
    """
    (head, how), (known, about) = _parts(readme), _parts(card)
    tags = list(dict.fromkeys([*head.get("tags", []), *known.get("tags", [])]))
    front = known | head | ({"tags": tags} if tags else {})
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"{FENCE}{text}{FENCE}{how.rstrip()}\n\n{about}"


def read(path: Path) -> str:
    """Return a card that ``neuropipe report`` wrote."""
    if not path.is_file():
        raise InputError(f"No card at {path}; neuropipe report writes one of every recipe to <study>/report/models/.")
    return path.read_text(encoding="utf-8")


def _parts(text: str) -> tuple[dict[str, Any], str]:
    """Return front matter and body; an empty mapping where a text has none."""
    if not text.startswith(FENCE) or f"\n{FENCE}" not in text[len(FENCE) :]:
        return {}, text
    front, body = text[len(FENCE) :].split(f"\n{FENCE}", 1)
    return yaml.safe_load(front) or {}, body
