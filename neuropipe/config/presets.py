"""Presets: the preprocessing of published systems, filled in where a study is silent."""

from __future__ import annotations

from typing import Any

from neuropipe.config.base import PACKAGE, read_yaml

PRESETS = PACKAGE / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def with_preset(content: dict[str, Any]) -> dict[str, Any]:
    """Return raw content with what its preset says where it is silent itself, key by key of ``clean`` and ``exclude``.

    An unknown preset changes nothing; `parse` reports it.
    """
    name = content.get("preset")
    if name not in preset_names():
        return content
    filled = dict(content)
    for section, given in read_yaml(PRESETS / f"{name}.yaml").items():
        own = content.get(section)
        if isinstance(given, dict):
            filled[section] = given | own if isinstance(own, dict) else given if own is None else own
        else:
            filled[section] = own or given
    return filled
