"""Reading ``cases.json`` of a parity folder: references, casts, views and the rules of comparison.

The words are those of the READMEs of the parity folders ("Reading cases.json", "Comparing").
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
FLOATS = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
REDUCTIONS = {"mean": np.mean, "std": np.std}


def root() -> Path:
    """Return the folder of parity folders, ``NEUROPIPE_PARITY`` or ``../shared/parity``."""
    return (REPOSITORY / os.environ.get("NEUROPIPE_PARITY", "../shared/parity")).resolve()


@dataclass(frozen=True)
class Folder:
    """One parity folder; what it holds is known from its ``cases.json`` only."""

    path: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of ``cases.json``; empty without one."""
        path = self.path / "cases.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def _files(self) -> dict[str, Any]:
        return {}

    def content(self, name: str) -> Any:
        """Return a JSON file's value, or all arrays of an array file by name."""
        if name not in self._files:
            self._files[name] = _read(self.path / name)
        return self._files[name]

    def resolve(self, reference: Any) -> Any:
        """Return what a reference stands for; mappings of references and lists of them are resolved inside."""
        if isinstance(reference, list):
            return [self.resolve(item) for item in reference]
        if not isinstance(reference, dict):
            return reference
        if "value" in reference:
            return reference["value"]
        if "fill" in reference:
            return np.full(reference["shape"], reference["fill"])
        if "file" in reference:
            return self._resolve_file(reference)
        return {name: self.resolve(item) for name, item in reference.items()}

    def _resolve_file(self, reference: dict) -> Any:
        if not {"array", "prefix", "path"} & set(reference):
            return self.path / reference["file"]
        content = self.content(reference["file"])
        if "array" in reference:
            return content[reference["array"]]
        if "path" in reference:
            for step in reference["path"]:
                content = content[step]
            return _select(content, reference) if isinstance(content, dict) else content
        prefix = reference["prefix"]
        found = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
        return _select(found, reference)

    def weights(self, case: dict) -> Any:
        """Return a case's weights, cast: one mapping, or one per module where the parts name modules."""
        reference = case["weights"]
        if reference is None or "parts" not in reference:
            return _cast(self.resolve(reference), case)
        merged: dict[str, Any] = {}
        for part in reference["parts"]:
            into = merged.setdefault(part["module"], {}) if "module" in part else merged
            into.update(self.resolve(part))
        return _cast(merged, case)

    def inputs(self, case: dict, as_stored: bool = False) -> dict[str, Any]:
        """Return a case's inputs, viewed, and cast unless they are asked for as they are stored."""
        resolved = {}
        for name, reference in case["inputs"].items():
            steps = reference.get("view", []) if isinstance(reference, dict) else []
            value = self.resolve(reference)
            resolved[name] = view(value if as_stored else _cast(value, case), steps)
        return resolved


def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(arrays)
    return {name: value.numpy() for name, value in torch.load(path, weights_only=True).items()}


def _select(content: Mapping[str, Any], reference: dict) -> dict[str, Any]:
    dropped = set(reference.get("exclude", ()))
    kept = reference.get("keys", list(content))
    return {name: content[name] for name in kept if name not in dropped}


def _cast(value: Any, case: dict) -> Any:
    """Cast floating arrays to the case's ``dtype``, float32 where it names none."""
    if isinstance(value, dict):
        return {name: _cast(item, case) for name, item in value.items()}
    if isinstance(value, list):
        return [_cast(item, case) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(FLOATS[case["config"].get("dtype") or "float32"])
    return value


def view(array: Any, steps: list[dict]) -> Any:
    """Apply the ``view`` steps of a reference to an array."""
    for step in steps:
        if step["op"] == "take":
            array = np.take(array, step["indices"], axis=step["axis"])
        elif step["op"] == "slice":
            part = slice(step["start"], step["stop"], step["step"])
            array = array[(slice(None),) * step["axis"] + (part,)]
        else:
            array = REDUCTIONS[step["op"]](array, axis=tuple(step["axes"]))
    return array


# ------------------------------------------------------------------ comparing


def check(folder: Folder, case: dict, outputs: Mapping[str, Any]) -> None:
    """Raise AssertionError at the first expected value that the outputs do not meet."""
    for name, rule in case["expected"].items():
        of = rule.get("of", name)
        assert of in outputs, f"{name}: the adapter gives no output {of!r}; it gives {sorted(outputs)}"
        computed, stored = outputs[of], folder.resolve(rule)
        if "key" in rule:
            computed = computed[rule["key"]]
        if rule.get("compare") == "support":
            for i, example in enumerate(stored):
                assert computed(example), f"{name}[{i}] is not a possible draw"
        elif rule.get("compare") == "distribution":
            _check_distribution(name, computed, stored, rule["atol"])
        elif isinstance(stored, dict):
            for key in stored:
                assert key in computed, f"{name}: no entry {key!r}"
                check_array(f"{name}[{key}]", computed[key], stored[key], rule)
        elif isinstance(stored, list) and stored and isinstance(stored[0], dict):
            assert len(computed) == len(stored), f"{name}: {len(computed)} entries, expected {len(stored)}"
            for i, entry in enumerate(stored):
                _check_nested(f"{name}[{i}]", computed[i], entry, rule)
        else:
            mask = folder.resolve(case["expected"][rule["where"]]) == 1 if "where" in rule else None
            check_array(name, computed, stored, rule, mask)


def _check_distribution(name: str, computed: Mapping, stored: Mapping, atol: float) -> None:
    for key in set(computed) | set(stored):
        a, b = computed.get(key, 0), stored.get(key, 0)
        if isinstance(a, Mapping) or isinstance(b, Mapping):
            _check_distribution(f"{name}[{key}]", a or {}, b or {}, atol)
        else:
            assert abs(a - b) <= atol, f"{name}[{key}]: probability {a}, expected {b} +- {atol}"


def _check_nested(name: str, computed: Any, stored: Any, rule: dict) -> None:
    if not isinstance(stored, dict):
        return check_array(name, computed, stored, rule)
    for key in stored:
        assert key in computed, f"{name}: no entry {key!r}"
        _check_nested(f"{name}[{key}]", computed[key], stored[key], rule)
    return None


def check_array(name: str, computed: Any, stored: Any, rule: dict, mask: np.ndarray | None = None) -> None:
    """Compare one output with one stored value by the rule's tolerances."""
    computed, stored = view(_array(computed), rule.get("view", [])), _array(stored)
    assert computed.shape == stored.shape, f"{name}: shape {computed.shape}, expected {stored.shape}"
    if mask is not None:
        computed, stored = computed[mask], stored[mask]
    rtol, atol = rule.get("rtol", 0), rule.get("atol", 0)
    exact = rtol == atol == 0 and "max_fraction" not in rule
    if stored.dtype.kind not in "f" or exact:
        same = (computed == stored) | _both_nan(computed, stored)
        assert np.all(same), f"{name}: {np.sum(~same)} of {same.size} differ; {computed!r:.200} for {stored!r:.200}"
        return
    computed, stored = computed.astype(np.float64), stored.astype(np.float64)
    absent = np.isnan(stored)
    assert np.array_equal(np.isnan(computed), absent), f"{name}: NaN at other places than stored"
    difference, size = np.abs(computed - stored)[~absent], np.abs(stored)[~absent]
    if difference.size == 0:
        return
    bound = atol + rtol * (size if rule.get("elementwise") else size.max())
    worst = f"{name}: largest difference {difference.max():.3g}"
    if "max_fraction" in rule:
        assert np.mean(difference > bound) <= rule["max_fraction"], f"{worst}, too many beyond {np.max(bound):.3g}"
        assert difference.max() <= rule["hard_atol"], f"{worst}, beyond {rule['hard_atol']}"
    else:
        assert np.all(difference <= bound), f"{worst}, allowed {np.max(bound):.3g}"


def _both_nan(a: np.ndarray, b: np.ndarray) -> np.ndarray | bool:
    return np.isnan(a) & np.isnan(b) if a.dtype.kind == b.dtype.kind == "f" else False


def _array(value: Any) -> np.ndarray:
    """Return a value as array; an absent value (None) is NaN."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, list) and any(item is None for item in value):
        value = [np.nan if item is None else item for item in value]
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of unequal length: entries are compared as they are
        return np.array(value, dtype=object)
    return array.astype(str) if array.dtype.kind == "S" else array
