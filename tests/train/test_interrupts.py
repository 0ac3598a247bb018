"""A training that is told to stop by a real signal saves its work, says so, and goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from test_loop import SPEC, Toy, same, settings, trained

from neuropipe.data.recordings import Recordings
from neuropipe.errors import Interrupted, NeuropipeError
from neuropipe.train import checkpoint, distributed, interrupts, loop


class Sender:
    """A watch that sends a signal to its own process after a step."""

    stopped = False

    def __init__(self, number: int, at: int) -> None:
        self.number, self.at = number, at

    def look(self, step: int) -> None:
        if step == self.at:
            os.kill(os.getpid(), self.number)

    def state(self) -> dict:
        return {}

    def restore(self, state: dict) -> None:
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_step_at_hand_is_saved_and_the_run_goes_on_from_it(toy_shards, tmp_path, number):
    torch.manual_seed(0)
    model, before = Toy(9), signal.getsignal(number)
    with pytest.raises(Interrupted, match="asked to stop, saved at step 10 of 24; run it again") as raised:
        watch = Sender(number, at=10)  # no checkpoint was due
        loop.train(
            model, Recordings([toy_shards]), SPEC, settings(), seed=3, folder=tmp_path / "a", identity="x", watch=watch
        )
    assert raised.value.exit_code == 75
    assert signal.getsignal(number) is before
    assert checkpoint.latest(tmp_path / "a")["step"] == 10
    resumed, _ = trained(toy_shards, tmp_path / "a")
    whole, _ = trained(toy_shards, tmp_path / "b")
    assert same(resumed, whole) and len(resumed.steps_seen) == 14


def test_a_signal_while_the_last_step_is_saved_is_not_lost(toy_shards, tmp_path, monkeypatch):
    """The next fold would begin, and be killed with all that it had learned since its last checkpoint."""
    save = checkpoint.save

    def interrupted(folder, step, state) -> None:
        if step == 24:
            os.kill(os.getpid(), signal.SIGTERM)
        save(folder, step, state)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    with pytest.raises(Interrupted, match="saved at step 24 of 24"):
        trained(toy_shards, tmp_path)
    monkeypatch.setattr(checkpoint, "save", save)
    resumed, _ = trained(toy_shards, tmp_path)
    assert resumed.steps_seen == []


def test_processes_that_see_different_checkpoints_do_not_train_together(toy_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed.Group, "agreed", lambda group, value: 12)
    with pytest.raises(NeuropipeError, match=r"process 0 finds step 0 saved in .*, the first one another"):
        trained(toy_shards, tmp_path)


def test_a_thread_that_hears_no_signals_trains_all_the_same():
    given = []

    def work() -> None:
        with interrupts.noticed() as notice:
            given.append(notice.given)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert given == [False]
