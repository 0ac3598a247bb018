"""Parts that several families share: transformer block, position table, projection head, seeded dropout.

Whatever is random draws from the generator that is passed in, and nothing is dropped where none is
passed: the result of a forward pass does not depend on ``train()`` and ``eval()``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data import chance


def sincos_table(n_positions: int, dim: int) -> Tensor:
    """Return the fixed position table, float32 of shape (n_positions, dim): sines, then cosines.

    Frequencies are ``10000 ** (-i / (dim / 2))``; computed in double precision.
    """
    half = dim // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(n_positions, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Zero entries of `x` with probability `rate` and rescale the rest; nothing without a generator."""
    if rate == 0 or generator is None:
        return x
    keep = chance.rand(x.shape, generator) >= rate
    return x * keep / (1 - rate)


def drop_path(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Zero whole samples (first axis) of `x` with probability `rate` and rescale the rest."""
    if rate == 0 or generator is None:
        return x
    shape = (x.shape[0],) + (1,) * (x.dim() - 1)
    keep = chance.rand(shape, generator) >= rate
    return x * keep / (1 - rate)


class Attention(nn.Module):
    """Multi-head self-attention; the rows of ``qkv`` are queries, keys, values, each split in heads.

    Where `drop_rate` is not 0, who looks at whom is dropped at that rate when a generator is given.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = False, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.drop_rate = drop_rate
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attend: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Map (batch, token, dim) to the same shape.

        `attend` is False at tokens to ignore (batch, token), or where one ignores another (batch, query, key).
        """
        q, k, v = self._heads(x)
        mask = None if attend is None else attend.unsqueeze(1) if attend.dim() == 3 else attend[:, None, None, :]
        if self.drop_rate and generator is not None:  # the fused kernel would draw from the global generator
            looks = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            looks = looks if mask is None else looks.masked_fill(~mask, -torch.inf)
            out = dropout(looks.softmax(-1), self.drop_rate, generator) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor) -> Tensor:
        """Return how much every token looks at every other, (batch, head, token, token); rows sum to 1."""
        q, k, _ = self._heads(x)
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each (batch, head, token, dim/head)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (batch, token, 3, head, dim/head)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map (..., dim) to the same shape."""
        hidden = dropout(F.gelu(self.fc1(x)), self.drop_rate, generator)
        return dropout(self.fc2(hidden), self.drop_rate, generator)


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last axis of `x`."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block.

    Parameters
    ----------
    dim, num_heads, hidden_dim : int
        Token width, attention heads, width inside the MLP.
    layer_scale : float, optional
        Initial factor on both branches; None leaves the factors out.
    qkv_bias : bool
        Bias of queries, keys and values.
    drop_rate, drop_path_rate : float
        Share of MLP activations and of whole branches that are dropped when a generator is given.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        layer_scale: float | None = None,
        qkv_bias: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_dim, drop_rate)
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, attend: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Map (batch, token, dim) to the same shape; `attend` (batch, token) is False at tokens to ignore."""
        x = x + drop_path(self.ls1(self.attn(self.norm1(x), attend)), self.drop_path_rate, generator)
        return x + drop_path(self.ls2(self.mlp(self.norm2(x), generator)), self.drop_path_rate, generator)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


class SequenceBlock(nn.Module):
    """Transformer block with layer norm before its branches (GPT-2) or after their sums (BERT).

    Parameters
    ----------
    dim, num_heads, hidden_dim : int
        Token width, attention heads, width inside the MLP.
    norm_first : bool
        Where the norms stand.
    eps : float
        Of the norms.
    activation : str
        Key of `ACTIVATIONS`.
    drop_rate, attn_drop_rate : float
        Dropout on both branches and on the attention, when a generator is given.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        norm_first: bool,
        eps: float,
        activation: str = "gelu_tanh",
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_first, self.drop_rate = norm_first, drop_rate
        self.activation = ACTIVATIONS[activation]
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qkv_bias=True, drop_rate=attn_drop_rate)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor, attend: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Map (batch, token, dim) to the same shape; `attend` as in `Attention`."""
        if self.norm_first:
            x = x + dropout(self.attn(self.norm1(x), attend, generator), self.drop_rate, generator)
            return x + dropout(self._mlp(self.norm2(x)), self.drop_rate, generator)
        x = self.norm1(x + dropout(self.attn(x, attend, generator), self.drop_rate, generator))
        return self.norm2(x + dropout(self._mlp(x), self.drop_rate, generator))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class ProjectionHead(nn.Module):
    """MLP with GELU between its layers, whose output is divided by its length.

    With one layer it is a single linear map from `dim` to `out_dim`.
    """

    def __init__(self, dim: int, hidden_dim: int, out_dim: int, n_layers: int = 2) -> None:
        super().__init__()
        widths = [dim] + [hidden_dim] * (n_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        for layer in self.layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to unit vectors (..., out_dim) in float32."""
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return F.normalize(self.layers[-1](x).float(), dim=-1)


class SameConv(nn.Module):
    """Convolution over time that keeps the length; `depthwise` filters each channel first and mixes them then.

    With an even number of taps (times `dilation`) the extra zero is padded on the right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1, depthwise: bool = False
    ) -> None:
        super().__init__()
        total = dilation * (kernel_size - 1)
        self.padding = (total // 2, total - total // 2)
        if depthwise:
            self.filter = nn.Conv1d(in_channels, in_channels, kernel_size, dilation=dilation, groups=in_channels)
            self.mix: nn.Module = nn.Conv1d(in_channels, out_channels, 1)
        else:
            self.filter = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation)
            self.mix = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (item, in_channels, sample) to (item, out_channels, sample)."""
        return self.mix(self.filter(F.pad(x, self.padding)))


class StructuredConv(nn.Module):
    """Long convolution per region whose kernel is made of a few pieces of growing length (SGConv).

    Piece ``i`` has `kernel_size` taps, stretched by ``2 ** max(0, i - 1)`` and scaled by
    ``decay ** (n_scales - 1 - i)``. The kernel is divided by `kernel_norm`, the length that it had
    before training; trained kernels keep the old divisor, so it is part of the weights.

    Parameters
    ----------
    n_regions, n_heads : int
        Every region is filtered by `n_heads` kernels; region ``c`` and head ``h`` make channel
        ``c * n_heads + h``.
    kernel_size, n_scales : int
        Taps of the shortest piece, number of pieces; the kernel has ``kernel_size * 2 ** (n_scales - 1)`` taps.
    decay_min, decay_max : float
        ``decay`` of the first and the last region; linear between.
    padding : {"zeros", "circular"}
        What lies beyond the ends.
    stretch : {"nearest", "linear"}
        Repeat taps, or interpolate between them.
    """

    def __init__(
        self,
        n_regions: int,
        n_heads: int,
        kernel_size: int,
        n_scales: int,
        decay_min: float = 2.0,
        decay_max: float = 2.0,
        padding: Literal["zeros", "circular"] = "zeros",
        stretch: Literal["nearest", "linear"] = "nearest",
    ) -> None:
        super().__init__()
        self.pad_mode = "constant" if padding == "zeros" else padding
        self.stretch = stretch
        self.length = kernel_size * 2 ** (n_scales - 1)
        shape = (n_heads, n_regions, kernel_size)
        self.kernels = nn.ParameterList(nn.Parameter(torch.randn(shape)) for _ in range(n_scales))
        self.skip = nn.Parameter(torch.randn(n_heads, n_regions))
        self.register_buffer("decay", torch.linspace(decay_min, decay_max, n_regions).view(1, -1, 1))
        self.register_buffer("kernel_norm", torch.ones(n_heads, n_regions, 1))
        self.freeze_norm()

    @torch.no_grad()
    def freeze_norm(self) -> None:
        """Set the divisor to the length of the present kernels."""
        self.kernel_norm.copy_(self.raw_kernel().norm(dim=-1, keepdim=True))

    def raw_kernel(self) -> Tensor:
        """Return the kernels before division, (head, region, `length`)."""
        pieces = []
        for i, taps in enumerate(self.kernels):
            factor = 2 ** max(0, i - 1)
            if self.stretch == "nearest":
                taps = taps.repeat_interleave(factor, dim=-1)
            else:
                taps = F.interpolate(taps, scale_factor=factor, mode="linear")
            pieces.append(taps * self.decay ** (len(self.kernels) - 1 - i))
        return torch.cat(pieces, dim=-1)

    def kernel(self) -> Tensor:
        """Return the kernels that are applied, (head, region, `length`)."""
        return self.raw_kernel() / self.kernel_norm

    def forward(self, x: Tensor) -> Tensor:
        """Map (item, region, sample) to (item, region * head, sample): centred convolution plus scaled input."""
        n_heads, n_regions = self.skip.shape
        weight = self.kernel().flip(-1).transpose(0, 1).reshape(n_regions * n_heads, 1, self.length)
        left = (self.length - 1) // 2
        padded = F.pad(x, (left, self.length - 1 - left), mode=self.pad_mode)
        through = x.unsqueeze(2) * self.skip.t()[:, :, None]  # (item, region, head, sample)
        return F.conv1d(padded, weight, groups=n_regions) + through.flatten(1, 2)
