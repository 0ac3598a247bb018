"""Several processes that train one model: each computes its people of every batch, then gradients are averaged.

``torchrun`` starts them and tells each its place in the environment. All hold the same weights, draw the same numbers
(`neuropipe.data.chance`) and take the same steps, so that nothing but the time of a training depends on their number;
a run can go on with another number of them. Only the first one writes.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from neuropipe.errors import ConfigError, NeuropipeError

log = logging.getLogger("neuropipe")


@dataclass(frozen=True)
class Group:
    """The processes that train together, and which of them this one is.

    Attributes
    ----------
    rank : int
        From 0; the first one writes.
    size : int
        1 where a process is alone.
    """

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and says how far the training is."""
        return self.rank == 0

    def people(self, n_people: int) -> slice:
        """Return which people of a batch are this process's.

        Raises
        ------
        ConfigError
            They cannot be shared out evenly, as comparing people across processes needs.
        """
        each, left = divmod(n_people, self.size)
        if left or not each:
            raise ConfigError(
                f"A batch of {n_people} people cannot be shared out evenly to {self.size} processes: set batch_size to "
                f"a multiple of {self.size} that the training side can fill, or use another number of GPUs."
            )
        return slice(self.rank * each, (self.rank + 1) * each)

    def share_weights(self, model: nn.Module) -> None:
        """Take over the first process's weights and buffers."""
        if self.size > 1:
            for value in model.state_dict().values():
                distributed.broadcast(value.data, 0)

    def agreed(self, value: Any) -> Any:
        """Return the first process's `value`, whatever the others hold."""
        if self.size == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, 0)
        return held[0]

    def average(self, parameters: Sequence[nn.Parameter], sums: Mapping[str, Tensor], stop: bool) -> tuple[dict, bool]:
        """Make weighted sums of gradients and losses over pieces of a batch their means over all processes.

        Parameters
        ----------
        parameters : sequence of Parameter
            Their gradients are sums times weights; replaced by the means. One that no process needed in this step
            keeps no gradient.
        sums : mapping of str to Tensor ()
            Named losses times weights, and ``"weight"``, their sum.
        stop : bool
            Whether this process was asked to stop.

        Returns
        -------
        means : dict of str to Tensor ()
        stop : bool
            Whether any of them was.
        """
        values = torch.stack([value.detach().float() for value in sums.values()])
        if self.size > 1:
            there = [float(p.grad is not None) for p in parameters]
            flags = torch.tensor([*there, float(stop)], device=values.device)
            gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
            flat = torch.cat([*gradients, values, flags])
            distributed.all_reduce(flat)
            sizes = [p.numel() for p in parameters] + [len(values), len(flags)]
            *gradients, values, flags = flat.split(sizes)
            *there, stop = (flags > 0).tolist()  # the device is waited for: all are to agree
            for p, gradient, needed in zip(parameters, gradients, there, strict=True):
                p.grad = torch.empty_like(p).copy_(gradient.view(p.shape)) if needed else None
        means = dict(zip(sums, values, strict=True))
        weight = means.pop("weight").clamp(min=1e-12)
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], weight)
        return {name: value / weight for name, value in means.items()}, stop


def place() -> Group:
    """Return the processes that ``torchrun`` started, whether they have met or not; alone without it.

    A world of one needs nothing else: some schedulers and cloud services set ``WORLD_SIZE=1`` and no more.

    Raises
    ------
    NeuropipeError
        The environment tells of several processes, but not what they need to meet.
    """
    size = _number("WORLD_SIZE") or 1
    if size == 1:
        return Group()
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not os.environ.get(name, "").strip()]:
        raise NeuropipeError(
            f"WORLD_SIZE={size} says that {size} processes train together, but nothing tells {', '.join(missing)}: "
            "start them with torchrun or --gpus, or `unset WORLD_SIZE` to train with this process alone."
        )
    rank = _number("RANK")
    if not 0 <= rank < size:
        raise NeuropipeError(f"RANK: expected 0 to {size - 1}, as WORLD_SIZE={size}; found {rank}. Use torchrun.")
    return Group(rank, size)


def _number(name: str) -> int | None:
    """Return a whole number out of the environment; None where it is not set, or empty."""
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise NeuropipeError(
            f"{name}: expected a whole number in the environment, as torchrun sets it; found {text!r}."
        )
    return int(text) if text else None


def current() -> Group:
    """Return the processes that have met; alone where there are none."""
    if distributed.is_available() and distributed.is_initialized():
        return Group(distributed.get_rank(), distributed.get_world_size())
    return Group()


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Meet the other processes that ``torchrun`` started, over NCCL on GPUs and gloo otherwise; alone without it."""
    if place().size == 1:
        yield Group()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    log.info("process %d of world size %d computes on %s", distributed.get_rank(), distributed.get_world_size(), device)
    yield current()
    distributed.destroy_process_group()  # not after an error: the others may be waiting, and are ended by torchrun


def launch(n_processes: int, arguments: Sequence[str]) -> None:
    """Become ``torchrun``, which starts `n_processes` of ``neuropipe`` with these arguments on this machine.

    Raises
    ------
    NeuropipeError
        The machine has fewer GPUs.
    """
    if torch.cuda.is_available() and torch.cuda.device_count() < n_processes:
        raise NeuropipeError(
            f"--gpus {n_processes}: expected as many GPUs, found {torch.cuda.device_count()} visible ones; ask the "
            "cluster for more (resources: gpu), or use fewer."
        )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    line += ["--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", "-m", "neuropipe", *arguments]
    log.info("%s", shlex.join(line))
    os.execv(sys.executable, line)
