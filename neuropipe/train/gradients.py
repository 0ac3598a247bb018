"""Forward and backward of one step: whole, or piece by piece where memory is short or others compute the rest.

A step's numbers are drawn for its whole batch (`neuropipe.data.chance`). So pieces change nothing but the order of sums
where a loss is a mean over people or entries; losses that compare people compare those of a piece and, over processes,
those of all pieces computed at the same time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neuropipe.data.batch import Batch
from neuropipe.data.chance import Piece
from neuropipe.errors import NeuropipeError
from neuropipe.train.distributed import Group

log = logging.getLogger("neuropipe")

LossOf = Callable[[Batch, torch.Generator, float], dict[str, Tensor]]


def parts(mine: slice, n_parts: int) -> Iterator[slice]:
    """Cut people into at most `n_parts`, as equal as can be."""
    people = np.arange(mine.start, mine.stop)
    for part in np.array_split(people, min(n_parts, len(people))):
        yield slice(int(part[0]), int(part[-1]) + 1)


@dataclass
class Gradients:
    """Computes the gradients of a model, step by step.

    Attributes
    ----------
    model : Module
    loss_of : callable
        ``(batch, generator, progress) -> {"loss": ..., ...}``.
    autocast : context manager
        Around every forward pass.
    group : Group
        The processes that share every batch.
    compares : bool
        Whether losses compare people across them.
    n_copies : int
        Copies of a row that the loss makes; see `neuropipe.models.base`.
    n_parts : int
        Parts that this process's people are computed in; doubled whenever memory does not do.
    remember : callable
        Told the new number, so that the next process begins with it.
    what : str
        For messages.
    """

    model: nn.Module
    loss_of: LossOf
    autocast: AbstractContextManager
    group: Group
    compares: bool
    n_copies: int
    n_parts: int
    remember: Callable[[int], None]
    what: str

    def __post_init__(self) -> None:
        self.generator: torch.Generator | None = None

    def compute(self, batch: Batch, seed: int, progress: float, stop: bool) -> tuple[dict[str, Tensor], bool]:
        """Leave the gradients of the mean loss in the model; return the mean of each named loss, and who is to stop.

        Raises
        ------
        NeuropipeError
            Not even one person fits in the memory of the device; or there are several processes, which cannot go back:
            those that had memory wait inside the losses or norms that all compute together.
        """
        while True:
            self.model.zero_grad(set_to_none=True)
            try:
                return self._attempt(batch, seed, progress, stop)
            except torch.OutOfMemoryError as error:
                self._halve(batch, error)
            if batch.device.type == "cuda":  # out of the block, so that nothing holds what did not fit
                torch.cuda.empty_cache()

    def _attempt(self, batch: Batch, seed: int, progress: float, stop: bool) -> tuple[dict[str, Tensor], bool]:
        if self.group.size == 1 and self.n_parts == 1:
            if self.generator is None:
                self.generator = torch.Generator(device=batch.device)
            with self.autocast:
                losses = self.loss_of(batch, self.generator.manual_seed(seed), progress)
            losses["loss"].backward()
            return {name: value.detach() for name, value in losses.items() if name != "weight"}, stop
        sums: dict[str, Tensor] = {}
        for mine in parts(self.group.people(batch.n_people), self.n_parts):
            piece = batch.people(mine)
            with self.autocast:
                losses = self.loss_of(piece, self._generator(batch, mine, seed), progress)
            weight = losses.get("weight", batch.person.new_tensor(piece.n_people)).float()
            (losses["loss"] * weight).backward()
            for name, value in (losses | {"weight": torch.ones_like(weight)}).items():
                sums[name] = sums.get(name, 0) + value.detach() * weight
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return self.group.average(trained, sums, stop)

    def _generator(self, batch: Batch, mine: slice, seed: int) -> Piece:
        n_views = batch.n_views * self.n_copies
        n_processes = self.group.size if self.compares else 1
        return Piece.of(batch.device, seed, batch.n_people, mine, n_views, n_processes)

    def _halve(self, batch: Batch, error: BaseException) -> None:
        """Compute in parts of half the size from now on."""
        n_mine = batch.n_people // self.group.size
        if self.n_parts >= n_mine:
            raise NeuropipeError(
                f"{self.what}: not even one person fits in the memory of {batch.device}. Use a smaller model, shorter "
                "clips, precision: bf16, or another device; the last checkpoint is kept."
            ) from error
        before, self.n_parts = self.n_parts, min(2 * self.n_parts, n_mine)
        self.remember(self.n_parts)
        if self.group.size > 1:
            raise NeuropipeError(
                f"{self.what}: process {self.group.rank} of {self.group.size} lacks memory for {-(-n_mine // before)} "
                f"people at once. Run it again: all processes then go on from the last checkpoint with accumulate: "
                f"{self.n_parts}. (More GPUs spare that.)"
            ) from error
        log.warning(
            "%s: out of memory on %s: from now on a batch of %d people is computed in %d parts whose gradients are "
            "added up; the batch stays what it was.",
            self.what,
            batch.device,
            batch.n_people,
            self.n_parts,
        )
