"""The command line: quick help, one clear line for mistakes, exit codes that scripts can trust."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from neuropipe import cli


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "neuropipe.cli", *arguments], capture_output=True, text=True)


def test_help_lists_every_command_and_imports_next_to_nothing():
    script = "import sys; from neuropipe import cli; cli.main([]); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)
    modules = done.stdout.splitlines()[-1]
    assert not any(f"'{name}'" in modules for name in ("numpy", "torch", "pandas", "pydantic", "yaml"))


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"neuropipe {command}" in capsys.readouterr().out


def test_help_is_quick():
    best = min(timed_help() for _ in range(5))
    assert best < 0.5


def timed_help() -> float:
    begun = time.perf_counter()
    run("--help")
    return time.perf_counter() - begun


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = run("index", "--config", str(tmp_path / "absent.yaml"), "--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("neuropipe index: No file") and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path):
    done = run("index", "--config", str(tmp_path / "absent.yaml"), "--output", str(tmp_path / "out"), "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_an_unknown_command_names_the_known_ones():
    done = run("parcelate")
    assert done.returncode == 2 and "parcellate" in done.stderr


def test_version():
    assert run("--version").stdout.startswith("neuropipe ")
