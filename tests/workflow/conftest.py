"""A folder with the workflow and a small simulated study in it, where snakemake can be run, killed and run again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from neuropipe.demo.people import Site
from neuropipe.demo.study import make_plan, write_study

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "envs", "profiles", "config.yaml", "workflow")
SITES = (
    Site("alder", t_r=2.0, n_volumes=120, n_pairs=6, gain=1.0, noise_percent=1.2),
    Site("birch", t_r=1.5, n_volumes=150, n_pairs=4, gain=0.7, noise_percent=1.4),
)


def furnish(folder: Path) -> Path:
    """Copy to a folder what a user's checkout has beside the package."""
    for part in PARTS:
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / part)
    return folder


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A copy of what a user's checkout has beside the package."""
    return furnish(tmp_path)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty simulated people with short runs."""
    folder = tmp_path_factory.mktemp("small") / "study"
    write_study(folder, make_plan(0, SITES), jobs=1)
    return folder


def move_in(workplace: Path, small_data: Path) -> Path:
    """Make a workplace's config.yaml that of the small study: two chunks, six steps of training."""
    shutil.copytree(small_data, workplace / "results" / "demo" / "study")
    content = yaml.safe_load((workplace / "config.yaml").read_text())
    content["datasets"]["demo"]["n_chunks"] = 2
    content["exclude"]["min_degrees_of_freedom"] = 5
    content["evaluate"] |= {"bootstrap": 200, "permutations": 20}
    recipe = yaml.safe_load((ROOT / "neuropipe" / "recipes" / "semantoks-demo.yaml").read_text())
    recipe["train"] |= {"n_steps": 6, "batch_size": 8, "log_every": 2, "checkpoint_every": 2}
    (workplace / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    content["pretrain"] = {"tiny": {"datasets": ["demo"], "recipe": "tiny.yaml"}}
    del content["datasets"]["demo-vbm"]  # test_volumes_line.py has a line of maps
    content["tasks"] = {name: task for name, task in content["tasks"].items() if task["datasets"] == ["demo"]}
    (workplace / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return workplace


@pytest.fixture
def small_study(workplace: Path, small_data: Path) -> Path:
    """A workplace whose config.yaml is the small study."""
    return move_in(workplace, small_data)


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs one program of this environment in a folder."""

    def run(folder: Path, program: str, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [Path(sys.executable).with_name(program), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == expect, done.stdout[-4000:] + done.stderr[-4000:]
        return done

    return run
