"""What several processes know of one batch together: rows gathered, counts summed, batch norms shared.

Who takes part is told by the generator that a loss is given (`neuropipe.data.chance.Piece`); with any other nothing is
exchanged. Gradients of all processes are averaged after backward, so that a loss which every process computes for all
people, and a mean over the people of each, both get exactly the gradient that one process would find.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from neuropipe.data.chance import Piece


class _Gather(torch.autograd.Function):
    """Rows of all processes in the order of their ranks; gradients of all processes come back, summed."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x)
        ctx.rows = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)  # others may hold the same gradient
        distributed.all_reduce(grad)
        return grad[distributed.get_rank() * ctx.rows :][: ctx.rows]


class _Sum(torch.autograd.Function):
    """The sum over all processes, and of their gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone()
        distributed.all_reduce(grad)
        return grad


def several(generator: torch.Generator) -> bool:
    """Return whether other processes compute other people of the same batch, to be compared with those at hand."""
    return isinstance(generator, Piece) and generator.n_processes > 1


def gather(x: Tensor, generator: torch.Generator, dim: int = 0) -> Tensor:
    """Return `x` with the people of all processes along `dim`, each of which must have as many; `x` where it is alone.

    Every process then computes the loss of the whole batch.
    """
    if not several(generator):
        return x
    rows = x.movedim(dim, 0).contiguous()
    found = _Gather.apply(rows.byte()).bool() if x.dtype == torch.bool else _Gather.apply(rows)
    return found.movedim(0, dim)


def shared_count(count: Tensor, generator: torch.Generator) -> Tensor:
    """Return how much all processes count on average, at least 1: what a sum is to be divided by to make one mean."""
    if several(generator):
        count = count.detach().float()
        distributed.all_reduce(count)
        count = count / generator.n_processes
        return count.clamp(min=1 / generator.n_processes)
    return count.clamp(min=1)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm whose statistics are those of all processes; also on a processor, where torch has none."""

    @classmethod
    def of(cls, norm: nn.Module) -> SharedBatchNorm:
        """Return `norm` with its own parameters and statistics, shared from now on."""
        own = cls.__new__(cls)
        own.__dict__ = norm.__dict__
        return own

    def _check_input_dim(self, x: Tensor) -> None:
        """Take any number of axes."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, ...) to the same shape."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        n_here = wide.new_full((1,), x.numel() / x.shape[1])
        sums = _Sum.apply(torch.cat([wide.sum(axes), n_here]))
        n, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        shape = [1, -1] + [1] * (x.dim() - 2)
        variance = _Sum.apply((wide - mean.view(shape)).square().sum(axes)) / n
        self._remember(mean.detach(), variance.detach() * n / (n - 1).clamp(min=1))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is None:
            return ((wide - mean.view(shape)) * scale.view(shape)).to(x.dtype)
        scaled = (wide - mean.view(shape)) * (scale * self.weight).view(shape)
        return (scaled + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased: Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        if self.running_mean is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def share_batch_norms(model: nn.Module) -> int:
    """Let every batch norm of `model` see the people of all processes; return how many there are."""
    kinds, found = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in kinds:
                setattr(parent, name, SharedBatchNorm.of(child))
                found += 1
    return found
