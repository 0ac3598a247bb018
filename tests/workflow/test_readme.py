"""Every command of the README and of docs/your-data.md is run, in the order in which it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("make", "neuropipe", "snakemake")
BIN = Path(sys.executable).parent


def commands(text: str) -> list[str]:
    """Return the commands of fenced blocks and of inline code, in order, each once."""
    found = []
    for fenced, inline in re.findall(r"```bash\n(.*?)```|`([^`\n]+)`", text, flags=re.DOTALL):
        for line in (fenced or inline).splitlines():
            line = line.partition(" #")[0].strip()
            if line.split(" ")[0] in PROGRAMS and line not in found:
                found.append(line)
    return found


def test_the_readme_has_the_two_commands_and_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert commands(text)[:2] == ["make demo", "make test"]
    assert len(text.splitlines()) < 90


def test_every_linked_file_is_there():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("line", ["neuropipe atlas list", "snakemake -n"])
def test_quick_commands(workplace, command, line):
    assert line in commands((ROOT / "README.md").read_text())
    program, *arguments = shlex.split(line)
    command(workplace, program, *arguments)


@pytest.mark.slow
def test_all_commands_in_order(workplace, published_data):
    """The whole demo; `make` finds this environment already set up, and `make test` is this test."""
    shutil.copy(ROOT / "Makefile", workplace)
    shutil.copy(workplace / "config.yaml", workplace / "my.yaml")
    lines = commands((ROOT / "README.md").read_text()) + commands((ROOT / "docs" / "your-data.md").read_text())
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NEUROPIPE_DATA": str(published_data)}
    for line in lines:
        words = shlex.split(line)
        if line == "make test" or "fetch" in words:  # nothing can be fetched here; tests/stages/test_atlas.py does
            continue
        if words[0] == "make":
            words += ["-o", "setup", f"VENV={BIN.parent}"]
        if words[0] == "snakemake" and "--profile" not in words and "-n" not in words and "--cores" not in words:
            words += ["--cores", "2"]
        done = subprocess.run(words, cwd=workplace, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert (workplace / "results" / "demo" / "report" / "index.html").is_file()
