"""Mistakes in words: each by its dotted path, with the value found and the nearest known key."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError


def mistakes(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """Return every mistake that pydantic found in a file, each with its dotted path and the value found."""
    return message(lines_of(error, model), source)


def message(lines: list[str], source: str) -> str:
    """Return one message of all mistakes of a file."""
    count = f"{len(lines)} mistakes" if len(lines) > 1 else "one mistake"
    return f"{source} has {count}:\n" + "\n".join(f"  {line}" for line in lines)


def lines_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per mistake, each with its dotted path and the value found."""
    lines: dict[str, str] = {}
    for mistake in error.errors():
        # Steps like "literal[...]" or "AtlasFile" name the tried member of a union, not a key of the file.
        steps = [s for s in mistake["loc"] if not (isinstance(s, str) and (s[0].isupper() or "[" in s or s == "str"))]
        where = ".".join(str(step) for step in steps)
        if mistake["type"] == "extra_forbidden":
            line = f"{where}: unknown key; {with_hint(steps[-1], _known_keys(model, tuple(mistake['loc'][:-1])))}"
        elif mistake["type"] == "value_error":
            line = f"{where}: {mistake['ctx']['error']}"
        elif mistake["type"] == "missing":
            line = f"{where}: required, but not there"
        else:
            line = f"{where}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}, found {mistake['input']!r}"
        if mistake["type"] == "value_error":  # says more than that a section is not the text that it might be
            lines[where] = line
        lines.setdefault(where, line)
    return list(lines.values())


def with_hint(name: str, known: Any) -> str:
    """Return what was found and what is known, the nearest first."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"found {name!r}{hint} (known: {', '.join(map(str, known)) or 'none'})"


def _known_keys(model: type[BaseModel], location: tuple) -> list[str]:
    """Return the keys that are known where `location` (without the wrong key itself) leads to in `model`."""
    inside_names = False  # the next step is a name that the user gave: of a dataset, split, task ...
    for step in location:
        if inside_names or step not in model.model_fields:
            inside_names = False
            continue
        annotation = model.model_fields[step].annotation
        inside_names = getattr(annotation, "__origin__", None) is dict
        model = _section_of(annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> Any:
    """Return the model inside an annotation like ``dict[Name, Task]`` or ``str | AtlasFile``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _section_of(part)) is not None:
            return found
    return None
