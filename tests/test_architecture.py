"""The house: imports go down only, the core stands alone, schemas follow the code, recipes are valid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from neuropipe import models
from neuropipe.stages import schema
from neuropipe.train import recipe

ROOT = Path(__file__).resolve().parents[1]
CORE = "torch numpy scipy sklearn pandas pyarrow h5py safetensors pydantic yaml"
OUTSIDE_CORE = "nibabel nilearn bids templateflow pooch isal PIL snakemake webdataset rich tensorboard jinja2 plotly"


def test_floors():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_floors_two_to_four_import_with_the_core_alone():
    script = f"""
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OUTSIDE_CORE.split()!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
for floor in ("models", "data", "train", "hub", "evaluate", "shards", "splits"):
    package = importlib.import_module(f"neuropipe.{{floor}}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_committed_schemas_are_those_of_the_code(monkeypatch):
    monkeypatch.chdir(ROOT)
    schema.run(fix=False)


@pytest.mark.parametrize("path", sorted((ROOT / "neuropipe" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_how_to_launch_it(path):
    assert recipe.read(path).family in models.names()
    assert f"snakemake model_{path.stem}" in path.read_text()


def test_only_the_command_line_prints():
    printing = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "neuropipe").rglob("*.py")
        if path.name != "cli.py" and "\n    print(" in path.read_text()
    ]
    assert printing == []


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_style(arguments):
    done = subprocess.run([Path(sys.executable).with_name("ruff"), *arguments, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
