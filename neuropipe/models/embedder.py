"""What the families of learning-from-brains share: windows, embedder, reconstruction, decoding network.

Every time point of a window is mapped linearly to a token and gets the embedding of its time in seconds;
special tokens live in the space of the series and pass through the same map (Thomas, Re, Poldrack, NeurIPS
2022). Not a family: `csm`, `sequence_bert`, `network_bert` and `autoencoder` are built on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data import chance
from neuropipe.data.batch import Batch, throughout
from neuropipe.errors import ConfigError
from neuropipe.models.base import ClipSpec, ModelConfig
from neuropipe.models.layers import dropout
from neuropipe.models.network import LinearNetwork
from neuropipe.models.together import shared_count

NO_TIME = -1.0  # the time of a special token


class WindowConfig(ModelConfig):
    """Fields that the families share: windows, projection, time."""

    # Windows
    n_samples: int = Field(50, ge=4)
    """Length of the longest window in samples."""
    min_samples: int = Field(10, ge=4)
    """Length of the shortest window in samples; every window of a batch draws its own length."""
    draw_longest: bool = True
    """Whether `n_samples` itself is among the lengths that are drawn; in the release it is not."""

    # Embedder
    embed_dim: int = Field(768, ge=2)
    """Width of a token."""
    projection_layers: int = Field(1, ge=1)
    """Linear layers from the series to a token, each with layer norm."""
    reconstruction_layers: int = Field(1, ge=0)
    """Linear layers from a token back to the series; 0 where a token is as wide as the series has regions."""
    drop_rate: float = Field(0.1, ge=0, lt=1)
    """Dropout after the projection and inside the network, in training."""
    time_embedding: Literal["continuous", "table"] = "continuous"
    """``continuous``: sines and cosines of the time in seconds, for any repetition time and length; ``table``
    (release): one learned row per `time_step_s` up to `time_span_s`, and one per position where positions count."""
    time_step_s: float = Field(0.2, gt=0)
    """Seconds from one row of the table to the next; the shortest wave of ``continuous`` is 6.3 steps long."""
    time_span_s: float = Field(300.0, gt=0)
    """End of the table in seconds; a window that reaches it is refused."""

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        if self.min_samples > self.n_samples - (not self.draw_longest):
            raise ValueError(f"min_samples {self.min_samples} leaves no length up to n_samples {self.n_samples}")
        if self.embed_dim % 2:
            raise ValueError(f"embed_dim {self.embed_dim} must be even")
        return self

    @property
    def lengths(self) -> tuple[int, int]:
        """The shortest window in samples, and one more than the longest."""
        return self.min_samples, self.n_samples + self.draw_longest

    def reads(self) -> ClipSpec:
        """One clip of the longest length; shorter windows are its beginning."""
        return ClipSpec(n_samples=self.n_samples)


class TransformerConfig(WindowConfig):
    """Fields that the transformers among them share."""

    depth: int = Field(4, ge=1)
    """Transformer blocks."""
    num_heads: int = Field(12, ge=1)
    """Attention heads."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width inside the MLP over `embed_dim`."""
    activation: Literal["gelu_tanh", "gelu", "relu"] = "gelu_tanh"
    """Inside the MLP."""
    attn_drop_rate: float = Field(0.0, ge=0, lt=1)
    """Dropout on the attention, in training; without it the fused kernel is used."""
    n_positions: int = Field(512, ge=1)
    """Rows of the learned table of positions (``time_embedding: table``); a longer sequence is refused."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads}")
        return self


# ------------------------------------------------------------------ windows


class Window(NamedTuple):
    """Windows as tensors, padded to one length."""

    series: Tensor  # (batch, time, region), zero where nothing was measured
    attend: Tensor  # bool (batch, time), False at padding and censored samples
    time_s: Tensor  # (batch, time), seconds from the window's first sample
    region: Tensor  # bool (batch, region), False where a recording lacks the region


def whole(batch: Batch) -> Window:
    """Return the clips of a batch as they are."""
    return Window(batch.measured(), batch.valid_time, seconds(batch.t_r, batch.series.shape[1]), batch.valid_region)


def draw_windows(batch: Batch, config: WindowConfig, generator: torch.Generator) -> Window:
    """Return the beginning of every clip of a batch, each of a length of its own."""
    window = whole(batch)
    position = torch.arange(window.attend.shape[1], device=batch.device)
    attend = window.attend & (position < draw_lengths(config, len(batch), generator)[:, None])
    return window._replace(series=window.series * attend[:, :, None], attend=attend)


def measured(attend: Tensor, region: Tensor) -> Tensor:
    """Return bool (batch, time, region): samples that are attended of regions that a recording has.

    A view where no region is missing (see `neuropipe.data.batch.throughout`).
    """
    if throughout(region):
        return attend[:, :, None].expand(-1, -1, region.shape[1])
    return attend[:, :, None] & region[:, None, :]


def draw_lengths(config: WindowConfig, n: int, generator: torch.Generator) -> Tensor:
    """Return `n` lengths in samples (int64), all from the shortest to the longest with equal odds."""
    return chance.randint(*config.lengths, n, generator)


def seconds(t_r: Tensor, n_samples: int) -> Tensor:
    """Return the times (batch, n_samples) in seconds of samples every `t_r` (batch,) seconds, from 0."""
    return torch.arange(n_samples, device=t_r.device) * t_r[:, None]


# ------------------------------------------------------------------ time


def time_rows(time_s: Tensor, step_s: float, span_s: float) -> Tensor:
    """Return the row of the table for every time (int64), as the release rounds it in single precision.

    Special tokens (`NO_TIME`) have the last row, which the release gives to the last half step too.

    Raises
    ------
    ConfigError
        A time lies beyond the table.
    """
    if bool((time_s >= span_s).any()):
        raise ConfigError(
            f"Expected times below {span_s:g} s, found {time_s.max().item():g} s: the window reaches beyond the time "
            "table. Use shorter windows, a larger time_span_s, or time_embedding: continuous."
        )
    steps = (time_s / step_s).round()
    rows = ((steps * step_s) * int(1 / step_s)).long()
    return torch.where(rows < 0, int(span_s / step_s), rows)


def time_waves(time_s: Tensor, dim: int, step_s: float) -> Tensor:
    """Return sines and cosines (..., dim) of times (...), zero for special tokens.

    Frequencies are those of `neuropipe.models.layers.sincos_table`, with `step_s` seconds as one position.
    """
    half = dim // 2
    frequency = 10000.0 ** (-torch.arange(half, device=time_s.device) / half)
    angle = (time_s / step_s)[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1) * (time_s >= 0)[..., None]


# ------------------------------------------------------------------ embedder and its way back


class Projection(nn.Module):
    """Linear layers; the first `n_norms` have layer norm and dropout, all but the last exact GELU."""

    def __init__(self, widths: list[int], n_norms: int, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1 : n_norms + 1])

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map (..., widths[0]) to (..., widths[-1])."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self.norms[i](x) if i < len(self.norms) else x
            x = F.gelu(x) if i < len(self.layers) - 1 else x
            x = dropout(x, self.drop_rate, generator) if i < len(self.norms) else x
        return x


class Embedder(nn.Module):
    """From series to tokens that know their time.

    Parameters
    ----------
    config : WindowConfig
    n_regions : int
    tokens : dict of str to tuple of int
        Shapes of the special tokens that the family needs, all in the space of the series: each must be
        broadcastable to (batch, time, region). Drawn from a standard normal distribution.
    """

    def __init__(self, config: WindowConfig, n_regions: int, tokens: dict[str, tuple[int, ...]] | None = None) -> None:
        super().__init__()
        self.config = config
        widths = [n_regions] + [config.embed_dim] * config.projection_layers
        self.projection = Projection(widths, config.projection_layers, config.drop_rate)
        self.tokens = nn.ParameterDict({name: torch.randn(shape) for name, shape in (tokens or {}).items()})
        n_rows = int(config.time_span_s / config.time_step_s) + 1
        self.time_table = nn.Embedding(n_rows, config.embed_dim) if config.time_embedding == "table" else None

    def forward(self, x: Tensor, time_s: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map series (batch, time, region) at `time_s` (batch, time) to tokens (batch, time, embed_dim).

        `time_s` is `NO_TIME` at special tokens; nothing is dropped without a generator.
        """
        return self.projection(x, generator) + self.time(time_s)

    def time(self, time_s: Tensor) -> Tensor:
        """Return the embedding (batch, time, embed_dim) of times in seconds."""
        config = self.config
        if self.time_table is None:
            return time_waves(time_s, config.embed_dim, config.time_step_s)
        return self.time_table(time_rows(time_s, config.time_step_s, config.time_span_s))


def unembedder(config: WindowConfig, n_regions: int) -> nn.Module:
    """Return the map from tokens (..., embed_dim) back to series (..., region)."""
    if config.reconstruction_layers:
        widths = [config.embed_dim] * config.reconstruction_layers + [n_regions]
        return Projection(widths, config.reconstruction_layers - 1, config.drop_rate)
    if config.embed_dim != n_regions:
        raise ConfigError(
            f"reconstruction_layers: 0 needs tokens as wide as the series; embed_dim is {config.embed_dim}, the series "
            f"have {n_regions} regions. Use reconstruction_layers: 1."
        )
    return Projection([n_regions], 0, 0.0)


class Sequence(NamedTuple):
    """What goes through a network, and what its outputs are compared with, place by place."""

    tokens: Tensor  # (batch, token, region), in the space of the series
    time_s: Tensor  # (batch, token), `NO_TIME` at special tokens
    attend: Tensor  # bool (batch, token)
    target: Tensor  # (batch, token, region)
    counted: Tensor  # bool (batch, token, region), which outputs are judged
    visible: Tensor  # bool (batch, token, region), which entries of `target` the network is told
    part: Tensor | None = None  # int64 (batch, token), 1 in the second part of a pair


class Reconstruction(NamedTuple):
    """What a family says of hidden or future entries of the series, and what they were."""

    predicted: Tensor  # (batch, token, region)
    target: Tensor  # the same shape
    counted: Tensor  # bool, which entries are judged
    visible: Tensor  # bool, which entries of `target` were told


def with_cls(window: Window, cls: Tensor, first: bool) -> Sequence:
    """Return windows with the class token before their first or after their last attended sample.

    `cls` is (1, 1, region). Nothing is to be reconstructed.
    """
    series, attend, time_s, _ = window
    if first:
        tokens = torch.cat([cls.expand(len(series), -1, -1), series], dim=1)
        time_s, attend = F.pad(time_s, (1, 0), value=NO_TIME), F.pad(attend, (1, 0), value=True)
    else:
        place = after_last(attend)[:, None] == torch.arange(attend.shape[1] + 1, device=attend.device)
        tokens = torch.where(place[:, :, None], cls, F.pad(series, (0, 0, 0, 1)))
        time_s = F.pad(time_s, (0, 1)).masked_fill(place, NO_TIME)
        attend = F.pad(attend, (0, 1)) | place
    nothing = torch.zeros_like(tokens, dtype=torch.bool)
    return Sequence(tokens, time_s, attend, tokens, nothing, nothing)


def after_last(attend: Tensor) -> Tensor:
    """Return the first place (batch,) after the last True of every row of `attend` (batch, token)."""
    places = torch.arange(1, attend.shape[1] + 1, device=attend.device)
    return (attend * places).amax(1)


def mean_attended(hidden: Tensor, attend: Tensor) -> Tensor:
    """Return the mean (batch, embed_dim) of the tokens (batch, token, embed_dim) that are attended to."""
    weight = attend[:, :, None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


class Pooler(nn.Module):
    """Linear layer, tanh, dropout: from one token to the pooled vector."""

    def __init__(self, dim: int, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map (batch, dim) to the same shape."""
        return dropout(self.fc(x).tanh(), self.drop_rate, generator)


class Positions(nn.Module):
    """Learned rows for the places of a sequence, or nothing where time in seconds is enough."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.n_positions, config.embed_dim) if config.time_embedding == "table" else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the places to tokens (batch, token, embed_dim)."""
        if self.table is None:
            return x
        if x.shape[1] > len(self.table.weight):
            raise ConfigError(
                f"Expected at most n_positions = {len(self.table.weight)} tokens, found {x.shape[1]}. Use shorter "
                "windows, a larger n_positions, or time_embedding: continuous."
            )
        return x + self.table.weight[: x.shape[1]]


def init_transformer(module: nn.Module) -> None:
    """Draw linear layers and tables as GPT-2 and BERT do: normal with standard deviation 0.02, biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


def mean_error(predicted: Tensor, target: Tensor, counted: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return the mean absolute difference over the entries that are counted (broadcast); 0 where there are none.

    With a `generator` the sum is divided by what all processes count on average; see `neuropipe.models.together`.
    """
    error = (predicted - target).abs() * counted
    return error.sum() / shared_count(counted.expand_as(error).sum(), generator)


# ------------------------------------------------------------------ decoding and optimisation


def decay_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    lr_scale_of: Callable[[str], float],
) -> list[dict]:
    """Return trained parameters by learning rate and decay: biases and layer norms do not decay.

    `lr_scale_of` gives the factor on the learning rate by a parameter's name; see `neuropipe.train.optim`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decays = not (name.endswith("bias") or "norm" in name)
            groups.setdefault((lr_scale_of(name), float(decays)), []).append(parameter)
    return [
        {"params": params, "lr_scale": scale, "weight_decay": decay * weight_decay, "weight_decay_scale": decay}
        for (scale, decay), params in groups.items()
    ]


def layer_scale_of(name: str, depth: int, layer_decay: float) -> float:
    """Return the factor on the learning rate of a transformer's parameter: the embedder learns slowest."""
    if name.startswith(("embedder.", "decoder.positions.", "decoder.parts.", "decoder.norm.")):
        return layer_decay ** (depth + 1)
    if name.startswith("decoder.blocks."):
        return layer_decay ** (depth - int(name.split(".")[2]))
    return 1.0


def parts_read(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters that features depend on, by the first word of their names; the rest is in ``unused``."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not name.startswith(tuple(model.unused)):
            found.setdefault(name.partition(".")[0], []).append(parameter)
    return found


class DecodingNetwork(LinearNetwork):
    """A family's features of a window with one linear layer; what only pretraining uses is left alone.

    The model has ``features(batch, generator)``, ``param_groups`` and ``unused``: names of parts that no
    feature depends on.
    """

    def __init__(self, model: nn.Module, n_outputs: int, drop_rate: float | None, norm: bool) -> None:
        super().__init__(model.embed_dim, n_outputs, drop_rate, norm)
        self.model = model.requires_grad_(True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(model.unused)))

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the features of every window, (rows, embed_dim)."""
        return self.model.features(batch, generator)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return self.model.param_groups(weight_decay, layer_decay) + self.head_groups(weight_decay)
