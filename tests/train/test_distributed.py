"""Two processes over gloo learn what one does: the same losses, the same weights, whatever the family."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import pytest
import torch

from neuropipe import models
from neuropipe.errors import ConfigError, NeuropipeError
from neuropipe.train.distributed import Group, place

sys.path.append(str(Path(__file__).parents[1] / "models"))  # the small models of `test_contract`
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the server of new processes
import side_by_side

MEASURED = {"step", "seconds", "samples_per_s"}
NORMED = {"yaware-demo", "yaware-other", "neuroclr-other"}  # batch norms: rounding of four people's statistics grows


def run(size: int, folder: Path, *names: str, code: int = 0, **changes) -> Path:
    """Train small models with `size` processes (see `side_by_side`); return where the results are."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("forkserver")  # torch is imported once, not once per process
    context.set_forkserver_preload(["side_by_side"])
    rest = [str(size), port, str(folder), json.dumps(changes), *names]
    started = [context.Process(target=side_by_side.main, args=(str(rank), *rest)) for rank in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=300)
    assert [process.exitcode for process in started] == [code] * size
    return folder


def result(folder: Path, name: str, rank: int = 0) -> dict:
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


def assert_same(found: dict, wanted: dict, rtol: float, weights_atol: float) -> None:
    """Compare the losses of all steps with all their parts, and the weights after the last one."""
    for row, other in zip(found["rows"], wanted["rows"], strict=True):
        assert row.keys() == other.keys()
        for part in row.keys() - MEASURED:
            assert row[part] == pytest.approx(other[part], rel=rtol, abs=1e-6), (part, row["step"])
    for name, value in wanted["model"].items():
        torch.testing.assert_close(found["model"][name], value, rtol=0, atol=weights_atol)


@pytest.fixture(scope="session")
def everyone(tmp_path_factory) -> tuple[Path, Path]:
    """Results of all families by one process and by two."""
    folder = tmp_path_factory.mktemp("side_by_side")
    return run(1, folder / "one"), run(2, folder / "two")


@pytest.mark.parametrize("family", models.names())
def test_two_processes_learn_what_one_does(everyone, family):
    one, two = everyone
    names = {path.name.rpartition("-")[0] for path in one.glob(f"{family}-*-0.pt")}
    assert names
    for name in names:
        exact = name not in NORMED
        assert_same(result(two, name), result(one, name), 1e-5 if exact else 1e-2, 2e-3 if exact else 0.1)
        first, second = (result(two, name, rank)["model"] for rank in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_signal_stops_all_and_another_number_of_processes_goes_on(everyone, tmp_path):
    one, _ = everyone
    run(2, tmp_path, "csm-demo", code=75, warned_at=1)
    assert [path.name for path in (tmp_path / "csm-demo").iterdir()] == ["step-00000002.pt"]
    run(1, tmp_path, "csm-demo")
    assert_same(result(tmp_path, "csm-demo"), result(one, "csm-demo"), 1e-5, 2e-3)


def test_each_process_may_compare_its_own_people_only(everyone, tmp_path):
    """Then coding rates are those of half the people: another loss, but the weights are still the same everywhere."""
    one, _ = everyone
    run(2, tmp_path, "semantoks-demo", across_processes=False)
    first, second = (result(tmp_path, "semantoks-demo", rank) for rank in range(2))
    assert abs(first["rows"][0]["loss"] / result(one, "semantoks-demo")["rows"][0]["loss"] - 1) > 1e-3
    assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"])


def test_accumulated_parts_draw_and_learn_what_the_whole_does(everyone, tmp_path):
    one, _ = everyone
    names = ["autoencoder-other", "csm-other", "linear_baseline-demo", "multiscale_vit-other"]
    run(1, tmp_path, *names, accumulate=3)
    for name in names:
        assert_same(result(tmp_path, name), result(one, name), 1e-5, 2e-3)


def test_people_that_do_not_divide_are_refused():
    assert Group(1, 4).people(8) == slice(2, 4)
    with pytest.raises(ConfigError, match="A batch of 9 people cannot be shared out evenly to 4 processes"):
        Group(1, 4).people(9)


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, Group(1, 2)),
        ({"RANK": None, "WORLD_SIZE": None}, Group()),
        ({"RANK": None, "WORLD_SIZE": "1", "MASTER_ADDR": None}, Group()),  # a service that knows one machine
        ({"RANK": None, "WORLD_SIZE": ""}, Group()),
        ({"RANK": None}, "WORLD_SIZE=2 says that 2 processes train together, but nothing tells RANK: .*torchrun"),
        ({"RANK": "0", "MASTER_ADDR": None, "MASTER_PORT": None}, "nothing tells MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "2"}, "RANK: expected 0 to 1, as WORLD_SIZE=2; found 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a whole number .*'two'"),
    ],
)
def test_the_place_that_the_environment_tells(monkeypatch, changes, found):
    for name, value in (TORCHRUN | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    if isinstance(found, Group):
        assert place() == found
    else:
        with pytest.raises(NeuropipeError, match=found):
            place()
