"""Progress: rate and remaining time, on a terminal and in a log."""

from __future__ import annotations

import logging

import pytest

from neuropipe.train import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves by hand, in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock, caplog):
    caplog.set_level(logging.INFO, logger="neuropipe")
    counted = progress.Progress("train", total=100, done=40)
    for _ in range(20):
        clock[0] += 1
        counted.advance("loss 0.5")
    assert caplog.messages == ["train: 55/100 steps, 1.00/s, 45 s left loss 0.5"]
    counted.close()
    assert caplog.messages[-1] == "train: 60/100 steps, 1.00/s, 40 s left"


def test_a_terminal_gets_a_bar_with_the_rate(clock, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    counted = progress.Progress("train", total=10)
    clock[0] += 2
    counted.advance("loss 0.5")
    task = counted.bar.tasks[0]
    assert (task.completed, task.total, task.fields["note"]) == (1, 10, "0.50/s loss 0.5")
    counted.close()


def test_a_log_may_get_a_line_for_every_step_and_none_twice(clock, caplog, capsys):
    caplog.set_level(logging.INFO, logger="neuropipe")
    counted = progress.Progress("parcellate study", total=3, done=1, unit="runs", log_every_s=0)
    for name in ("sub-02", "sub-03"):
        clock[0] += 4
        counted.advance(name)
    counted.close()
    assert caplog.messages == [
        "parcellate study: 2/3 runs, 0.25/s, 4 s left sub-02",
        "parcellate study: 3/3 runs, 0.25/s, 0 s left sub-03",
    ]
    assert "\r" not in "".join(capsys.readouterr())
