"""The public 1-D ResNet (resnet1d) that reads NeuroCLR's features, regions as channels.

The names of its parts are those of the public code, so that weights need no renaming. The file needs torch
alone: an exported repository holds a copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn import functional as F

Drop = Callable[[Tensor], Tensor]


def keep(x: Tensor) -> Tensor:
    """Drop nothing."""
    return x


def pad(x: Tensor, total: int) -> Tensor:
    """Add `total` zeros at the ends of the last axis, the odd one on the right."""
    return F.pad(x, (total // 2, total - total // 2))


class PaddedConv(nn.Module):
    """Convolution whose output has ``ceil(length / stride)`` samples."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (row, in_channels, length) to (row, out_channels, ceil(length / stride))."""
        (kernel_size,), (stride,) = self.conv.kernel_size, self.conv.stride
        n_out = -(-x.shape[-1] // stride)
        return self.conv(pad(x, max(0, (n_out - 1) * stride + kernel_size - x.shape[-1])))


class BasicBlock(nn.Module):
    """Two convolutions behind norm, ReLU and dropout, beside an identity that is pooled and widened where they are.

    The first block of a network leaves the first norm, ReLU and dropout out; its ``bn1`` is there and unused.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int, use_bn: bool, first: bool
    ) -> None:
        super().__init__()
        self.first, self.stride = first, stride
        self.n_added = out_channels - in_channels
        self.bn1 = nn.BatchNorm1d(in_channels) if use_bn else nn.Identity()
        self.conv1 = PaddedConv(in_channels, out_channels, kernel_size, stride, groups)
        self.bn2 = nn.BatchNorm1d(out_channels) if use_bn else nn.Identity()
        self.conv2 = PaddedConv(out_channels, out_channels, kernel_size, 1, groups)
        if first:
            self.bn1.requires_grad_(False)

    def forward(self, x: Tensor, drop: Drop = keep) -> Tensor:
        """Map (row, in_channels, length) to (row, out_channels, ceil(length / stride))."""
        out = x if self.first else drop(F.relu(self.bn1(x)))
        out = self.conv2(drop(F.relu(self.bn2(self.conv1(out)))))
        if self.stride > 1:
            x = F.max_pool1d(pad(x, self.stride - 1), self.stride)
        if self.n_added:
            x = F.pad(x, (0, 0, self.n_added // 2, self.n_added - self.n_added // 2))
        return out + x


class ResNet1D(nn.Module):
    """Stem, blocks, mean over the last axis, linear layer.

    Parameters
    ----------
    in_channels, n_outputs : int
        Regions, and labels.
    base_filters : int
        Channels after the stem; doubled at every block whose number is a multiple of `increasefilter_gap`.
    kernel_size, stride, groups : int
        Of the convolutions; every block with ``number % downsample_gap == 1`` strides, and the stem is not grouped.
    n_block : int
        Blocks.
    downsample_gap, increasefilter_gap : int
        Blocks between two strides, and between two doublings.
    use_bn, use_do : bool
        Whether there are batch norms, and whether dropout is applied.
    """

    def __init__(
        self,
        in_channels: int,
        n_outputs: int,
        *,
        base_filters: int = 256,
        kernel_size: int = 16,
        stride: int = 2,
        groups: int = 32,
        n_block: int = 48,
        downsample_gap: int = 6,
        increasefilter_gap: int = 12,
        use_bn: bool = True,
        use_do: bool = True,
    ) -> None:
        super().__init__()
        self.use_do = use_do
        self.first_block_conv = PaddedConv(in_channels, base_filters, kernel_size)
        self.first_block_bn = nn.BatchNorm1d(base_filters) if use_bn else nn.Identity()
        self.basicblock_list = nn.ModuleList()
        width = base_filters
        for i in range(n_block):
            wider = 2 * width if i > 0 and i % increasefilter_gap == 0 else width
            block_stride = stride if i % downsample_gap == 1 else 1
            self.basicblock_list.append(
                BasicBlock(width, wider, kernel_size, block_stride, groups, use_bn, first=i == 0)
            )
            width = wider
        self.final_bn = nn.BatchNorm1d(width) if use_bn else nn.Identity()
        self.norm = nn.Identity()  # the release has none
        self.dense = nn.Linear(width, n_outputs)

    def stages(self, x: Tensor, drop: Drop = keep) -> Iterator[Tensor]:
        """Yield what comes out of every block, for `x` (row, in_channels, length)."""
        drop = drop if self.use_do else keep
        x = F.relu(self.first_block_bn(self.first_block_conv(x)))
        for block in self.basicblock_list:
            x = block(x, drop)
            yield x

    def features(self, x: Tensor, drop: Drop = keep) -> Tensor:
        """Return what the linear layer reads, (row, channel)."""
        last = x
        for out in self.stages(x, drop):
            last = out
        return F.relu(self.final_bn(last)).mean(-1)

    def forward(self, x: Tensor, drop: Drop = keep) -> Tensor:
        """Map (row, in_channels, length) to (row, n_outputs); `drop` is the dropout of the blocks."""
        return self.dense(self.norm(self.features(x, drop)))
