"""The rules of comparison themselves: each lets through what it should, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .reference import Folder, check

X = np.array([[1.0, 2.0], [3.0, -100.0]])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    np.savez(tmp_path / "a.npz", **{"x": X, "p.one": X[0], "p.two": X[1], "mask": np.array([1, 0])})
    np.savez(tmp_path / "half.npz", x=X.astype(np.float16), n=np.array([1]))
    (tmp_path / "b.json").write_text(json.dumps({"deep": [{"v": 1}, {"v": 2, "w": 3}]}))
    return Folder(tmp_path)


def meets(folder: Folder, outputs: dict, **rule) -> bool:
    """Whether the outputs meet one rule for ``x``."""
    try:
        check(folder, {"expected": {"x": {"rtol": 0, "atol": 0, **rule}}}, outputs)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("rule", "close", "far"),
    [
        ({}, X, X + 1e-12),
        ({"atol": 0.1}, X + 0.09, X + 0.11),
        ({"rtol": 0.01}, X + 0.9, X + 1.1),
        ({"rtol": 0.01, "elementwise": True}, X * 1.009, X + 0.9),
        ({"max_fraction": 0.25, "hard_atol": 5}, X + np.array([[0, 4], [0, 0]]), X + np.array([[0, 6], [0, 0]])),
        ({"max_fraction": 0.25, "hard_atol": 5}, X, X + np.array([[0, 4], [4, 0]])),
        ({"atol": 1e-9, "where": "mask"}, X + np.array([[0, 0], [9, 9]]), X + np.array([[9, 9], [0, 0]])),
        ({"atol": 1e-9}, X, X[:1]),
        ({"atol": 1e-9}, X, X * np.nan),
    ],
)
def test_tolerances(folder: Folder, rule: dict, close: np.ndarray, far: np.ndarray) -> None:
    expected = {"x": {"file": "a.npz", "array": "x", "rtol": 0, **rule}, "mask": {"file": "a.npz", "array": "mask"}}
    case = {"expected": expected}
    mask = {"mask": np.array([1, 0])}
    check(folder, case, {"x": close, **mask})
    with pytest.raises(AssertionError):
        check(folder, case, {"x": far, **mask})


def test_views_names_keys_and_mappings(folder: Folder) -> None:
    stored = {"file": "a.npz", "array": "p.two"}
    last_row = [{"op": "slice", "axis": 0, "start": 1, "stop": None, "step": 1}, {"op": "mean", "axes": [0]}]
    assert meets(folder, {"y": {"k": X}}, **stored, of="y", key="k", view=last_row)
    assert not meets(folder, {"y": {"k": X}}, **stored, of="y", key="k", view=last_row[:1])
    assert meets(folder, {"x": X}, value=[[2.0], [-100.0]], view=[{"op": "take", "axis": 1, "indices": [1]}])
    assert meets(folder, {"x": X}, value=[1.0, 51.0], view=[{"op": "std", "axes": [0]}])
    mapping = {"file": "a.npz", "prefix": "p.", "exclude": ["two"]}
    assert meets(folder, {"x": {"one": X[0], "more": 3}}, **mapping)
    assert not meets(folder, {"x": {"two": X[1]}}, **mapping)
    assert not meets(folder, {"y": X}, value=1)


def test_absent_values_words_and_distributions(folder: Folder) -> None:
    stored = {"value": [1.0, float("nan")], "atol": 1e-6, "nan_means": "absent"}
    assert meets(folder, {"x": [1.0, None]}, **stored) and not meets(folder, {"x": [1.0, 2.0]}, **stored)
    assert meets(folder, {"x": ["a", "b"]}, value=["a", "b"]) and not meets(folder, {"x": ["a", "c"]}, value=["a", "b"])
    assert meets(folder, {"x": [[2, 3], "float32"]}, value=[[2, 3], "float32"])
    assert not meets(folder, {"x": [[2, 4], "float32"]}, value=[[2, 3], "float32"])
    rule = {"value": {"1": 0.5, "2": 0.5}, "atol": 0.1, "compare": "distribution"}
    assert meets(folder, {"x": {"1": 0.55, "2": 0.4, "3": 0.05}}, **rule)
    assert not meets(folder, {"x": {"1": 0.5, "2": 0.5, "3": 0.2}}, **rule)
    support = {"value": [1, 2], "compare": "support"}
    assert meets(folder, {"x": lambda v: v < 3}, **support) and not meets(folder, {"x": lambda v: v < 2}, **support)


def test_references_and_casts(folder: Folder) -> None:
    assert folder.resolve({"file": "b.json", "path": ["deep", 1], "keys": ["w"]}) == {"w": 3}
    assert folder.resolve({"file": "a.npz"}) == folder.path / "a.npz"
    assert folder.resolve({"fill": 2.5, "shape": [2]}).tolist() == [2.5, 2.5]
    assert folder.resolve([{"value": 3}, "text", None]) == [3, "text", None]
    reference = {"a": {"file": "half.npz", "array": "x"}, "n": {"file": "half.npz", "array": "n"}, "literal": {"u": 1}}
    for dtype in (None, "float64"):
        found = folder.inputs({"config": {"dtype": dtype}, "inputs": reference})
        assert (
            found["a"].dtype == (dtype or "float32") and found["n"].dtype == np.int64 and found["literal"] == {"u": 1}
        )
    parts = [{"file": "a.npz", "prefix": "p."}, {"file": "a.npz", "prefix": "", "keys": ["x"]}]
    merged = folder.weights({"config": {}, "weights": {"parts": parts}})
    assert set(merged) == {"one", "two", "x"} and merged["x"].dtype == np.float32
    named = [{**part, "module": name} for part, name in zip(parts, "ab", strict=True)]
    assert set(folder.weights({"config": {}, "weights": {"parts": named}})) == {"a", "b"}
