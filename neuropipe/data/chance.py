"""Random numbers of a whole batch, of which only some people are at hand.

A batch can be computed in pieces: by several processes, or one after the other where memory is short. What is drawn
for a person must not depend on that. So every piece draws for everyone, from the same seed, and keeps its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Piece(torch.Generator):
    """The generator of a piece of a batch, which knows whose rows these are.

    Rows are people; views (clips, scans, copies) of all people lie behind each other; regions or the like of one row
    side by side: row ``(view * n_people + person) * n_beside + i``.

    Attributes
    ----------
    n_people : int
        Of the whole batch.
    mine : slice
        The people of this piece.
    n_views : int
        Views of every person.
    n_processes : int
        Processes that compute pieces of the same size side by side and compare their people; 1 where they do not.
    """

    n_people: int
    mine: slice
    n_views: int
    n_processes: int

    @classmethod
    def of(
        cls, device: torch.device, seed: int, n_people: int, mine: slice, n_views: int = 1, n_processes: int = 1
    ) -> Piece:
        """Return the generator of the people `mine`, seeded as that of the whole batch would be."""
        piece = cls(device=device)
        piece.n_people, piece.mine, piece.n_views, piece.n_processes = n_people, mine, n_views, n_processes
        piece.manual_seed(seed)
        return piece

    def drawn(self, kind: Callable[[list[int], torch.Generator], Tensor], shape: Sequence[int], axis: int) -> Tensor:
        """Return this piece's rows, along `axis`, of what `kind` draws for the whole batch."""
        n_mine = self.mine.stop - self.mine.start
        times, left = divmod(shape[axis], n_mine)
        if left:  # rows that only the data know, such as the regions that recordings have: nobody else's numbers
            seed = int(torch.randint(2**62, (), generator=self, device=self.device)) + self.mine.start
            return kind(list(shape), torch.Generator(device=self.device).manual_seed(seed))
        n_views = self.n_views if times % self.n_views == 0 else 1
        whole = list(shape)
        whole[axis] = times * self.n_people
        drawn = kind(whole, self).unflatten(axis, (n_views, self.n_people, times // n_views))
        return drawn.narrow(axis + 1, self.mine.start, n_mine).flatten(axis, axis + 2)


def rand(
    shape: Sequence[int], generator: torch.Generator, *, axis: int = 0, dtype: torch.dtype | None = None
) -> Tensor:
    """Return uniform numbers in [0, 1) on the generator's device, as `torch.rand`; rows of a batch lie along `axis`."""

    def kind(size: list[int], source: torch.Generator) -> Tensor:
        return torch.rand(size, generator=source, device=source.device, dtype=dtype)

    return _drawn(kind, shape, generator, axis)


def randn(shape: Sequence[int], generator: torch.Generator, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return normal numbers on the generator's device, as `torch.randn`, for rows of a batch."""

    def kind(size: list[int], source: torch.Generator) -> Tensor:
        return torch.randn(size, generator=source, device=source.device, dtype=dtype)

    return _drawn(kind, shape, generator)


def randint(low: int, high: int, n: int, generator: torch.Generator) -> Tensor:
    """Return integers in [low, high) on the generator's device, as `torch.randint`, for `n` rows of a batch."""

    def kind(size: list[int], source: torch.Generator) -> Tensor:
        return torch.randint(low, high, size, generator=source, device=source.device)

    return _drawn(kind, (n,), generator)


def bernoulli(keep: float, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Return ones with odds `keep` and zeros on the generator's device, for rows of a batch."""

    def kind(size: list[int], source: torch.Generator) -> Tensor:
        return torch.empty(size, device=source.device, dtype=dtype).bernoulli_(keep, generator=source)

    return _drawn(kind, shape, generator)


def _drawn(
    kind: Callable[[list[int], torch.Generator], Tensor], shape: Sequence[int], generator: torch.Generator, axis=0
) -> Tensor:
    if isinstance(generator, Piece):
        return generator.drawn(kind, shape, axis)
    return kind(list(shape), generator)
