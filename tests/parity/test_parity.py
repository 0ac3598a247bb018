"""Golden vectors: every case of every folder in ``NEUROPIPE_PARITY`` against the production code.

A folder's `system` decides which adapter runs its cases; sizes, seeds and file names are known to
the folder's ``cases.json`` only.
"""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from .reference import Folder, check, root

LARGE = 1_000_000


def adapter_name(folder: Folder) -> str:
    """Return the module that runs a folder's cases, whatever the folder is called."""
    return "." + folder.index["system"].replace("-", "_")


def is_large(case: dict) -> bool:
    """Return whether a case generates an input of more than `LARGE` numbers: a whole brain takes a minute."""
    inputs = (item for item in case["inputs"].values() if isinstance(item, dict))
    return any(math.prod(item.get("procedural", {}).get("shape", [0])) > LARGE for item in inputs)


def collect() -> list:
    """Return one test per case, one skip per folder without adapter, one failure per folder without case."""
    if not root().is_dir():
        return [pytest.param(None, None, id="absent", marks=pytest.mark.skip(f"no parity folder at {root()}"))]
    folders = [Folder(path) for path in sorted(root().iterdir()) if path.is_dir()]
    tests = [] if folders else [pytest.param(None, None, id="empty")]
    for folder in folders:
        name = folder.path.name
        if not folder.index.get("cases"):
            tests.append(pytest.param(folder, None, id=f"{name}-without-a-case"))
        elif find_spec(adapter_name(folder), __package__) is None:
            reason = f"{folder.index['system']}: this family is not in this version"
            tests.append(pytest.param(folder, None, id=f"{name}-no-family", marks=pytest.mark.skip(reason)))
        else:
            tests += [
                pytest.param(folder, case, id=f"{name}-{case['id']}", marks=[pytest.mark.slow] * is_large(case))
                for case in folder.index["cases"]
            ]
    return tests


@pytest.mark.parametrize(("folder", "case"), collect())
def test_case(folder: Folder | None, case: dict | None) -> None:
    """The production code gives the stored numbers."""
    assert folder is not None, f"{root()} holds no parity folder"
    assert case is not None, f"{folder.path} has no case in its cases.json"
    adapter = import_module(adapter_name(folder), __package__)
    kind = getattr(adapter, case["kind"], None)
    assert kind is not None, f"{adapter.__name__} does not know the kind {case['kind']!r}"
    torch.manual_seed(0)
    inputs = folder.inputs(case, as_stored=case["kind"] in getattr(adapter, "AS_STORED", ()))
    check(folder, case, kind(case["config"], folder.weights(case), inputs))
