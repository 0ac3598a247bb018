"""Every family in a few steps of training, by however many processes; `test_distributed` starts it.

``python side_by_side.py RANK SIZE PORT FOLDER CHANGE NAME...`` leaves ``CHANGE/NAME-RANK.pt`` of each small config of
`test_contract`, or of all of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import test_contract as small
import torch

from neuropipe.data.batch import Batch
from neuropipe.errors import Interrupted
from neuropipe.train import distributed, loop
from neuropipe.train.recipe import TrainSettings


class Changing:
    """A source of another small batch at every step; one person lacks a region, another the end of a clip."""

    device = torch.device("cpu")

    def __init__(self, config) -> None:
        self.config = config

    def training_batch(self, spec, batch_size: int, seed: int, step: int) -> Batch:
        batch = small.batch(self.config, spec.n_views, seed=step)
        if batch.series is None:
            return batch
        valid_time, valid_region = batch.valid_time.clone(), batch.valid_region.clone()
        valid_time[1, -3:] = False
        valid_region[:: small.N_PEOPLE, 5] = False
        return replace(batch, valid_time=valid_time, valid_region=valid_region)


class Warned:
    """The first process is sent a real signal after a step."""

    stopped = False

    def __init__(self, at: int) -> None:
        self.at = at

    def look(self, step: int) -> None:
        if step == self.at and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGUSR1)

    def state(self) -> dict:
        return {}

    def restore(self, state: dict) -> None:
        pass


def trained(name: str, folder: Path, warned_at: int = 0, **changes) -> dict:
    """Return metrics and weights after a few steps with the small config `name`."""
    model, config = small.make(name)
    chosen = {"n_steps": 3, "batch_size": small.N_PEOPLE, "lr": 1e-2, "warmup": 0.0, "log_every": 1} | changes
    settings, spec = TrainSettings(**chosen), config.reads()
    watch = Warned(warned_at)
    rows = loop.train(model, Changing(config), spec, settings, seed=3, folder=folder, identity="x", watch=watch)
    return {"rows": rows, "model": model.state_dict()}


def main(rank: str, size: str, port: str, folder: str, changes: str, *names: str) -> None:
    """Train beside the other processes."""
    torch.set_num_threads(1)
    os.environ.update(RANK=rank, WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with distributed.joined(torch.device("cpu")):
        for name in names or sorted(small.configs()):
            try:
                found = trained(name, Path(folder) / name, **json.loads(changes))
            except Interrupted as error:
                sys.exit(error.exit_code)
            torch.save(found, Path(folder) / f"{name}-{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
