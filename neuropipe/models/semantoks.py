"""Brain-Semantoks: self-distillation on tokens of functional networks (arXiv 2512.11582).

Regions are grouped in networks and time is cut in patches. One small convolutional tokenizer per
network makes a token of (regions of the network x one patch); a transformer reads all tokens behind
a class token. A student that sees some tokens hidden learns to agree with a slowly following
teacher that sees them all, on two clips of the same recording; a coding-rate term keeps the
embeddings spread out (SimDINO).

Defaults are corrected where the release has a defect; `Config.published` reproduces the release.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data import augment, chance
from neuropipe.data.batch import Batch
from neuropipe.errors import AtlasError, ConfigError
from neuropipe.models.base import ClipSpec, ModelConfig
from neuropipe.models.layers import Block, ProjectionHead, SameConv, StructuredConv, dropout, sincos_table
from neuropipe.models.network import LinearNetwork
from neuropipe.models.together import gather
from neuropipe.signals.regions import Regions

CANONICAL = (
    "Vis",
    "SomMot",
    "DorsAttn",
    "SalVentAttn",
    "Limbic",
    "Cont",
    "Default",
)  # Yeo 2011, as Schaefer writes them
CANONICAL_OF = {"TempPar": "Default"}  # of the 17 networks the one whose name does not begin like one of the 7

FIRST_LAYER = ("encoder.cls_token", "encoder.mask_token", "encoder.network_embed")
TOKENIZERS = ("encoder.tokenizers.", "encoder.region_projection.")


class Branch(BaseModel):
    """One of the parallel convolutions of a tokenizer."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["dense", "dilated", "sgconv"]
    """``dense`` and ``dilated`` are ordinary convolutions, ``sgconv`` is a long structured one."""
    out_channels: int = Field(ge=1)
    """Channels that this branch adds to the token; all branches together make `Config.embed_dim`."""
    kernel_size: int = Field(3, ge=1)
    """Taps; of the shortest piece in ``sgconv``."""
    dilation: int = Field(1, ge=1)
    """Samples between taps (not for ``sgconv``)."""
    depthwise: bool = False
    """Filter each region by itself first, then mix regions (not for ``sgconv``)."""
    n_scales: int = Field(3, ge=1)
    """Pieces of the ``sgconv`` kernel, whose length is ``kernel_size * 2 ** (n_scales - 1)``."""
    decay_min: float = 2.0
    """Factor between the sizes of neighbouring pieces for the first region (``sgconv``)."""
    decay_max: float = 2.0
    """The same for the last region; linear between."""


class Config(ModelConfig):
    """Sizes, losses and schedules; times are in samples of the data's repetition time (published: 2 s)."""

    # Input
    n_samples: int = Field(100, ge=1)
    """Length of a training clip in samples."""
    patch_size: int = Field(20, ge=1)
    """Samples of one patch."""
    patch_stride: int | None = None
    """Samples between the starts of patches; None is `patch_size`."""
    spatial_unit: Literal["network", "region", "brain"] = "network"
    """What a token stands for: a network of the region table, one region, or all regions together."""
    augmentation: augment.Levels = augment.Levels()
    """Strength of the augmentations of a training clip; student and teacher see the same."""
    finetune_augmentation: augment.Levels = augment.Levels(spatial=0)
    """The same while the encoder is trained for a task."""
    keep_partial_patch: bool = True
    """Fill up the last patch with padding; the release drops trailing samples."""
    missing: Literal["excluded", "mask_token"] = "excluded"
    """Tokens without data: nobody attends to them and they enter no mean, or (release) they are mask tokens."""

    # Tokenizer
    branches: tuple[Branch, ...] = (
        Branch(kind="dense", out_channels=384, kernel_size=3),
        Branch(kind="sgconv", out_channels=384, kernel_size=4),
    )
    """Parallel convolutions of every tokenizer."""
    pooling: Literal["mean", "max", "attention"] = "mean"
    """How the samples of a patch become one token."""
    token_norm: bool = True
    """Layer norm on the token."""

    # Encoder
    embed_dim: int = Field(768, ge=2)
    """Width of a token."""
    depth: int = Field(8, ge=0)
    """Transformer blocks."""
    num_heads: int = Field(12, ge=1)
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Width inside the MLP over `embed_dim`."""
    layer_scale: float | None = 0.1
    """Initial factor on both branches of a block; None leaves it out."""
    qkv_bias: bool = False
    """Bias of queries, keys and values."""
    pos_drop_rate: float = 0.0
    """Dropout on the tokens that enter the first block."""
    proj_drop_rate: float = 0.0
    """Dropout inside the MLPs."""
    drop_path_rate: float = 0.0
    """Share of dropped branches in the last block, rising linearly from 0 in the first."""
    teacher_drops: bool = False
    """Whether dropout and drop path hit the teacher too, as in the release."""
    feature: Literal["cls", "cls_avg"] = "cls_avg"
    """What `embed` returns: the class token, or the mean of the other tokens followed by the class token."""

    # Masks
    mask_token: bool = True
    """Whether there is a mask token (if anything uses it); without it nothing is hidden."""
    mask_probability: float = Field(0.5, ge=0, le=1)
    """Share of steps in which the student has tokens hidden."""
    mask_kind: Literal["slice", "network", "time"] = "slice"
    """Hide whole networks, one block of patches, or (``slice``) one of the two with equal odds per clip."""
    mask_share: tuple[float, float] = (0.65, 0.85)
    """Range of the hidden share."""
    mask_count: Literal["rounded", "published"] = "rounded"
    """``rounded``: the drawn share to the nearest count. ``published``: the largest number of networks never
    occurs and a block is one patch short, which hides 0.63 of the tokens instead of 0.75."""
    canonical_masks: bool = False
    """Hide finer networks (Yeo's 17, or single regions) together, as the 7 that they divide."""

    # Heads and losses
    head_hidden_dim: int = Field(1024, ge=1)
    """Width inside the projection heads."""
    head_dim: int = Field(128, ge=1)
    """Width of the projections that the losses compare."""
    head_layers: int = Field(2, ge=1)
    """Linear layers of a head."""
    separate_mask_head: bool = False
    """A second head for hidden tokens."""
    compression_weight: float = 1.0
    """Weight of the agreement term against the expansion term."""
    expansion_of: Literal["both", "student"] = "both"
    """Whose projections are spread out: the mean of student and teacher, or the student's."""
    expansion_eps: float = 0.05
    """Squared distortion of the coding rate."""
    mask_loss_weight: float = 0.5
    """Weight of the loss on hidden tokens."""
    network_loss_weight: float = 0.5
    """Weight of the loss on networks averaged over time, before it decays."""
    network_loss_delay: float = Field(0.0, ge=0)
    """Share of training before the network loss starts."""
    network_loss_decay: float = Field(0.05, ge=0)
    """Share of training over which the network loss decays to 0; 0 keeps it."""
    network_loss_schedule: Literal["cosine", "linear"] = "cosine"
    """Shape of the decay."""

    # Teacher and optimiser
    teacher_momentum: float = Field(0.99, ge=0, le=1)
    """Share of the teacher that one step keeps at the start; rises to 1 on a half cosine."""
    decay_biases_and_norms: bool = False
    """Weight decay on every parameter, as the release has it."""
    tokenizers_first: bool = True
    """Under layer decay tokenizers learn slowest, as first layers do; in the release they learn fastest."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        width = sum(branch.out_channels for branch in self.branches)
        if self.spatial_unit != "region" and width != self.embed_dim:
            raise ValueError(f"the branches make {width} channels together, but embed_dim is {self.embed_dim}")
        if self.embed_dim % 2 or self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be even and a multiple of num_heads {self.num_heads}")
        return self

    @classmethod
    def published(cls) -> Config:
        """Return the settings that reproduce the released model and its training."""
        return cls(
            keep_partial_patch=False,
            missing="mask_token",
            mask_count="published",
            teacher_drops=True,
            decay_biases_and_norms=True,
            tokenizers_first=False,
        )

    def reads(self) -> ClipSpec:
        """Two clips of `n_samples`, each drawn on its own."""
        return ClipSpec(n_samples=self.n_samples, n_views=2)


# ------------------------------------------------------------------ which region belongs to which network


def join_maps(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Return one int64 network id per region from one map per atlas, ids consecutive atlas by atlas."""
    joined: list[np.ndarray] = []
    first_free = 0
    for ids in maps:
        ids = np.asarray(ids).astype(np.int64)
        joined.append(ids - ids.min() + first_free)
        first_free = int(joined[-1].max()) + 1
    return np.concatenate(joined)


def networks_of(regions: Regions, config: Config) -> np.ndarray:
    """Return the network id of every region, int64 (n_regions,), as `config.spatial_unit` asks.

    An atlas whose regions have no network names is one network of its own (see
    `neuropipe.data.networks` for deriving some); networks of the same name in two atlases are two.
    """
    if config.spatial_unit == "region":
        return np.arange(len(regions))
    if config.spatial_unit == "brain":
        return np.zeros(len(regions), dtype=np.int64)
    maps = []
    for atlas in regions.atlases:
        named = regions.network_ids[regions.of_atlas(atlas)]
        if named.min() < 0 <= named.max():
            raise AtlasError(
                f"Atlas {atlas}: {(named < 0).sum()} of {len(named)} regions have no network, the others have. "
                "Name the network of every region in the atlas table, or of none."
            )
        maps.append(np.unique(named, return_inverse=True)[1])  # names keep the order of their first region
    return join_maps(maps)


def mask_groups(regions: Regions, network_ids: np.ndarray, config: Config) -> np.ndarray:
    """Return the group of networks that each network is hidden with, int64 (n_networks,), 0 to n_groups - 1.

    With `Config.canonical_masks` the groups of an atlas are Yeo's seven networks, told by the names of its networks;
    a network with other names is a group of its own. One that lies across several groups follows the one that holds
    most of its regions, or, as released, the last.
    """
    n_networks = int(network_ids.max()) + 1
    if not config.canonical_masks:
        return np.arange(n_networks)
    names = [
        f"{atlas}/{found}" if (found := canonical(network)) else f"#{own}"
        for atlas, network, own in zip(regions.table["atlas"], regions.table["network"], network_ids, strict=True)
    ]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of_region = np.array([number[name] for name in names])
    last = config.mask_count == "published"
    members = [of_region[network_ids == network] for network in range(n_networks)]
    chosen = [int(ids.max()) if last else int(np.bincount(ids).argmax()) for ids in members]
    return np.unique(chosen, return_inverse=True)[1]


def canonical(network: str) -> str | None:
    """Return which of Yeo's 7 networks one of the 17 (or of the 7) belongs to; None for any other name."""
    if network in CANONICAL_OF:
        return CANONICAL_OF[network]
    return next((name for name in CANONICAL if network.startswith(name)), None)


# ------------------------------------------------------------------ tokenizer


def plain_branch(n_regions: int, branch: Branch) -> SameConv:
    """Return an ordinary convolution, (item, region, sample) to (item, channel, sample)."""
    return SameConv(n_regions, branch.out_channels, branch.kernel_size, branch.dilation, branch.depthwise)


class StructuredBranch(nn.Module):
    """Structured convolution, then a linear map over channels."""

    def __init__(self, n_regions: int, branch: Branch) -> None:
        super().__init__()
        n_heads = math.ceil(branch.out_channels / n_regions)
        self.conv = StructuredConv(
            n_regions, n_heads, branch.kernel_size, branch.n_scales, branch.decay_min, branch.decay_max
        )
        self.projection = nn.Linear(n_heads * n_regions, branch.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (item, region, sample) to (item, channel, sample)."""
        return self.projection(self.conv(x).transpose(1, 2)).transpose(1, 2)


class Tokenizer(nn.Module):
    """Turns patches of one network's regions into tokens as wide as all branches together."""

    def __init__(self, n_regions: int, branches: Sequence[Branch], pooling: str = "mean", norm: bool = True) -> None:
        super().__init__()
        width = sum(branch.out_channels for branch in branches)
        self.pooling = pooling
        self.branches = nn.ModuleList(
            StructuredBranch(n_regions, branch) if branch.kind == "sgconv" else plain_branch(n_regions, branch)
            for branch in branches
        )
        if pooling == "attention":
            self.attention = nn.Linear(width, 1, bias=False)
            nn.init.xavier_uniform_(self.attention.weight)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (item, region, sample) to (item, width)."""
        x = F.gelu(torch.cat([branch(x) for branch in self.branches], dim=1))  # (item, width, sample)
        if self.pooling == "mean":
            x = x.mean(-1)
        elif self.pooling == "max":
            x = x.amax(-1)
        else:
            x = x.transpose(1, 2)
            x = (x * self.attention(x).softmax(dim=1)).sum(1)
        return self.norm(x)


# ------------------------------------------------------------------ encoder


class Encoder(nn.Module):
    """Tokenizers, positions and transformer; any length of time that makes at least one patch.

    Parameters
    ----------
    config : Config
    network_ids : int array (n_regions,)
        Network of every region, 0 to n_networks - 1.
    """

    def __init__(self, config: Config, network_ids: np.ndarray) -> None:
        super().__init__()
        self.config = config
        sizes = np.bincount(network_ids)
        self.n_networks, self.sizes = len(sizes), sizes.tolist()
        self.stride = config.patch_stride or config.patch_size
        self.per_region = len(sizes) == len(network_ids) and config.spatial_unit != "brain"
        dim = config.embed_dim
        if self.per_region:
            self.region_projection = nn.Linear(config.patch_size, dim)
        else:
            settings = (config.branches, config.pooling, config.token_norm)
            self.tokenizers = nn.ModuleList(Tokenizer(n, *settings) for n in self.sizes)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        hides = config.mask_token and (config.mask_probability > 0 or config.missing == "mask_token")
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, dim)) if hides else None
        self.network_embed = nn.Parameter(0.02 * torch.randn(self.n_networks, dim))
        rates = np.linspace(0, config.drop_path_rate, config.depth).tolist()
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                round(dim * config.mlp_ratio),
                layer_scale=config.layer_scale,
                qkv_bias=config.qkv_bias,
                drop_rate=config.proj_drop_rate,
                drop_path_rate=rate,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim)
        order = torch.from_numpy(np.argsort(network_ids, kind="stable"))
        self.register_buffer("order", order, persistent=False)  # regions, network by network
        self.register_buffer("membership", F.one_hot(torch.from_numpy(network_ids)).float(), persistent=False)
        self.register_buffer("positions", sincos_table(self.n_patches(config.n_samples), dim), persistent=False)

    def n_patches(self, n_samples: int) -> int:
        """Return how many patches a clip of `n_samples` makes."""
        beyond = n_samples - self.config.patch_size
        if self.config.keep_partial_patch:
            return max(0, math.ceil(beyond / self.stride)) + 1
        return max(-1, beyond // self.stride) + 1

    def patches(self, x: Tensor) -> Tensor:
        """Cut (batch, time, ...) into (batch, patch, ..., patch_size), zeros (False) where time ends early."""
        size, n = self.config.patch_size, self.n_patches(x.shape[1])
        if n == 0:
            raise ConfigError(
                f"A clip of {x.shape[1]} samples is shorter than one patch of {size}. Use a smaller patch_size, or "
                "keep_partial_patch: true."
            )
        short = (n - 1) * self.stride + size - x.shape[1]
        if short > 0:
            x = torch.cat([x, x.new_zeros(x.shape[0], short, *x.shape[2:])], dim=1)
        return x.unfold(1, size, self.stride)[:, :n]

    def tokenize(self, series: Tensor) -> Tensor:
        """Map series (batch, time, region) to tokens (batch, network, patch, embed_dim)."""
        x = self.patches(series.index_select(2, self.order))  # (batch, patch, region, sample)
        if self.per_region:
            return self.region_projection(x).transpose(1, 2)
        by_network = x.flatten(0, 1).split(self.sizes, dim=1)
        tokens = [tokenizer(part) for tokenizer, part in zip(self.tokenizers, by_network, strict=True)]
        return torch.stack(tokens, dim=1).unflatten(0, x.shape[:2]).transpose(1, 2)

    def present(self, valid_time: Tensor, valid_region: Tensor) -> Tensor:
        """Return bool (batch, network, patch): tokens with at least one valid region and one valid sample."""
        network = valid_region.to(self.membership.dtype) @ self.membership > 0
        return network[:, :, None] & self.patches(valid_time).any(-1)[:, None, :]

    def forward(
        self,
        series: Tensor,
        hidden: Tensor | None = None,
        present: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Encode clips.

        Parameters
        ----------
        series : tensor (batch, time, region)
            Z-scored, zero where nothing was measured.
        hidden : bool tensor (batch, network, patch), optional
            Tokens that are replaced by the mask token.
        present : bool tensor (batch, network, patch), optional
            False at tokens without data, which are treated as `Config.missing` says.
        generator : torch.Generator, optional
            Draws what is dropped; without one nothing is.

        Returns
        -------
        tensor (batch, 1 + network * patch, embed_dim)
            Class token first, then tokens network by network.
        """
        tokens = self.tokenize(series)
        attend = None
        if present is not None and self.config.missing == "mask_token":
            hidden = ~present if hidden is None else hidden | ~present
        elif present is not None:
            attend = F.pad(present.flatten(1), (1, 0), value=True)  # (batch, 1 + network * patch)
        if hidden is not None:
            tokens = torch.where(hidden[..., None], self._mask_token(), tokens)
        tokens = tokens + self.network_embed[:, None] + self._positions(tokens.shape[2])
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens.flatten(1, 2)], dim=1)
        x = dropout(x, self.config.pos_drop_rate, generator)
        for block in self.blocks:
            x = block(x, attend, generator)
        return self.norm(x)

    def _mask_token(self) -> Tensor:
        if self.mask_token is None:
            raise ConfigError(
                "Tokens are to be hidden or are missing, but this model was built without a mask token. "
                "Use missing: excluded, or mask_token: true and weights that were trained with masks."
            )
        return self.mask_token

    def _positions(self, n: int) -> Tensor:
        if n <= len(self.positions):
            return self.positions[:n]
        return sincos_table(n, self.config.embed_dim).to(self.positions.device)


# ------------------------------------------------------------------ masks


def draw_masks(config: Config, batch: int, n_networks: int, n_patches: int, generator: torch.Generator) -> Tensor:
    """Return bool (batch, network, patch), True = hidden from the student; one mask per clip."""
    rows = _hidden_networks(config, batch, n_networks, generator)[:, :, None]
    columns = _hidden_patches(config, batch, n_patches, generator)[:, None, :]
    if config.mask_kind == "network":
        by_network = torch.ones(batch, 1, 1, dtype=torch.bool, device=generator.device)
    elif config.mask_kind == "time":
        by_network = torch.zeros(batch, 1, 1, dtype=torch.bool, device=generator.device)
    else:
        by_network = chance.rand((batch, 1, 1), generator) < 0.5
    return torch.where(by_network, rows, columns)


def _hidden_networks(config: Config, batch: int, n: int, generator: torch.Generator) -> Tensor:
    draw = chance.rand((batch,), generator)
    low, high = config.mask_share
    if config.mask_count == "published":
        fewest, most = max(1, math.floor(n * low)), min(n, math.floor(n * high)) - 1
        count = fewest + (draw * (most - fewest + 1)).floor().clamp(max=most - fewest)
    else:
        count = (n * (low + (high - low) * draw)).round().clamp(1, n - 1)
    return augment.random_ranks(batch, n, generator) < count[:, None]


def _hidden_patches(config: Config, batch: int, n: int, generator: torch.Generator) -> Tensor:
    low, high = config.mask_share
    share = low + (high - low) * chance.rand((batch,), generator)
    if config.mask_count == "published":
        length = (share * n).ceil().clamp(1, n) - 1
    else:
        length = (share * n).round().clamp(1, n - 1)
    return augment.random_block(length, n, generator)


def check_masks(config: Config, n_networks: int, n_patches: int) -> None:
    """Raise where the masks that `config` asks for cannot be drawn."""
    low, high = config.mask_share
    few = max(1, math.floor(n_networks * low)) >= min(n_networks, math.floor(n_networks * high))
    if config.mask_kind != "time" and (n_networks < 2 or (config.mask_count == "published" and few)):
        raise ConfigError(
            f"mask_kind {config.mask_kind!r} with mask_share {low}-{high} cannot hide some but not all of "
            f"{n_networks} network(s). Use mask_kind: time, a wider mask_share, or mask_probability: 0."
        )
    if config.mask_kind != "network" and n_patches < 2:
        raise ConfigError(
            f"mask_kind {config.mask_kind!r} needs at least 2 patches, but {config.n_samples} samples make "
            f"{n_patches} of {config.patch_size}. Use a smaller patch_size, mask_kind: network, or mask_probability: 0."
        )


# ------------------------------------------------------------------ losses


def compression(student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the mean agreement between a teacher view and *another* student view.

    Parameters
    ----------
    student, teacher : tensors (view, row, dim)
        Unit vectors; view ``i`` of both is the same clip.
    rows : bool tensor (view, row), optional
        Rows that count.
    """
    agreement = torch.einsum("amd,bmd->abm", teacher, student)
    if rows is None:
        pairs = agreement.mean(-1)
    else:
        counts = (rows[: len(teacher), None] & rows[None]).to(agreement.dtype)
        pairs = (agreement * counts).sum(-1) / counts.sum(-1).clamp(min=1)
    same = torch.eye(*pairs.shape, device=pairs.device)
    return (pairs * (1 - same)).sum() / (pairs.numel() - min(pairs.shape))


def half_logdet(views: Tensor, n_rows: Tensor, eps: float) -> Tensor:
    """Return ``logdet(I + dim / (n_rows * eps) * E^T E) / 2`` of each view E, (view,).

    `views` is (view, row, dim) with zero rows where a row does not count, `n_rows` (view,) their number.
    """
    dim = views.shape[-1]
    if views.shape[1] < dim:  # the smaller of the two Gram matrices has the same determinant
        views = views.transpose(1, 2)
    gram = views.transpose(1, 2) @ views * (dim / (n_rows * eps))[:, None, None]
    factor, _ = torch.linalg.cholesky_ex(gram + torch.eye(gram.shape[-1], device=gram.device))
    return factor.diagonal(dim1=1, dim2=2).log().sum(-1)


def expansion(views: Tensor, eps: float, rows: Tensor | None = None) -> Tensor:
    """Return the coding rate of `views` (view, row, dim), balanced over rows and dimensions, mean over views."""
    _, n, dim = views.shape
    if rows is None:
        n_rows = views.new_full((len(views),), n)
    else:
        n_rows = rows.sum(1).clamp(min=1).to(views.dtype)
        views = views * rows[..., None]
    return (half_logdet(views, n_rows, eps) * (dim + n_rows) / (dim * n_rows)).mean()


class CodingRate(NamedTuple):
    """The loss against collapse and its two terms."""

    loss: Tensor
    agreement: Tensor
    rate: Tensor


def coding_rate(student: Tensor, teacher: Tensor, config: Config, rows: Tensor | None = None) -> CodingRate:
    """Weigh agreement between views against the spread of all of them (SimDINO); shapes as in `compression`."""
    n_views = len(teacher)
    spread = student[:n_views]
    if config.expansion_of == "both":
        spread = (spread + teacher) / 2
    agreement = compression(student, teacher, rows)
    rate = expansion(spread, config.expansion_eps, None if rows is None else rows[:n_views])
    return CodingRate(-config.compression_weight * agreement - rate, agreement, rate)


def hidden_token_loss(student: Tensor, teacher: Tensor, hidden: Tensor) -> Tensor:
    """Return minus the cosine at hidden tokens, averaged within each clip, then over all clips.

    `student` and `teacher` are (clip, token, dim), `hidden` bool (clip, token); a clip without
    hidden tokens adds zero.
    """
    agreement = F.cosine_similarity(student, teacher, dim=-1) * hidden
    return -(agreement.sum(-1) / hidden.sum(-1).clamp(min=1)).mean()


# ------------------------------------------------------------------ the model


class Projections(NamedTuple):
    """What the losses compare: unit vectors of one side, views stacked on the first axis."""

    cls: Tensor  # (view * batch, head_dim)
    networks: Tensor  # (view * batch, network, head_dim), tokens averaged over the patches present
    tokens: Tensor | None  # (view * batch, network * patch, head_dim); None in a step without masks


class Side(nn.Module):
    """Student or teacher: an encoder and its projection heads."""

    def __init__(self, config: Config, network_ids: np.ndarray) -> None:
        super().__init__()
        self.encoder = Encoder(config, network_ids)
        sizes = (config.embed_dim, config.head_hidden_dim, config.head_dim, config.head_layers)
        self.head = ProjectionHead(*sizes)
        self.mask_head = ProjectionHead(*sizes) if config.separate_mask_head else None

    def forward(
        self,
        series: Tensor,
        hidden: Tensor | None,
        present: Tensor | None,
        generator: torch.Generator | None,
        with_tokens: bool,
    ) -> Projections:
        """Encode and project, single tokens only if asked; arguments as in `Encoder.forward`."""
        encoded = self.encoder(series, hidden, present, generator)
        cls, tokens = encoded[:, 0], encoded[:, 1:]
        by_network = tokens.unflatten(1, (self.encoder.n_networks, -1))
        networks = by_network.mean(2) if present is None else mean_present(by_network, present, dim=2)
        projected = (self.mask_head or self.head)(tokens) if with_tokens else None
        return Projections(self.head(cls), self.head(networks), projected)


def cls_avg(encoded: Tensor, present: Tensor | None = None) -> Tensor:
    """Return (batch, 2 * embed_dim): the mean of the other tokens (of those present), then the class token."""
    cls, tokens = encoded[:, 0], encoded[:, 1:]
    mean = tokens.mean(1) if present is None else mean_present(tokens, present.flatten(1), dim=1)
    return torch.cat([mean, cls], dim=1)


def mean_present(tokens: Tensor, present: Tensor, dim: int) -> Tensor:
    """Return the mean of `tokens` over `dim`, counting those that are present (one axis less than `tokens`)."""
    weight = present.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(dim) / weight.sum(dim).clamp(min=1)


class Model(nn.Module):
    """The family `semantoks`.

    Parameters
    ----------
    config : Config
    regions : Regions
        Regions of the series in order; their networks make the tokens.
    network_ids : int array (n_regions,), optional
        Network of every region where it is not that of the table.

    Attributes
    ----------
    embed_dim : int
        Width of what `embed` returns.
    """

    def __init__(self, config: Config, regions: Regions, network_ids: np.ndarray | None = None) -> None:
        super().__init__()
        self.config = config
        ids = networks_of(regions, config) if network_ids is None else np.asarray(network_ids)
        self.student = Side(config, ids)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.embed_dim = config.embed_dim * (1 if config.feature == "cls" else 2)
        encoder = self.student.encoder
        groups = torch.from_numpy(mask_groups(regions, ids, config))
        self.register_buffer("mask_groups", groups, persistent=False)  # what is hidden together, (network,)
        self.n_mask_groups = int(groups.max()) + 1
        if self._masks():
            check_masks(config, self.n_mask_groups, encoder.n_patches(config.n_samples))

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return the training loss and its parts, detached except ``"loss"``.

        Everything random is drawn from `generator`, which must live on the device of `batch`.
        """
        series, hidden, present = self.prepare(batch, generator)
        student, teacher = self.project(series, hidden, present, generator)
        weight = self.network_loss_weight(progress)
        return self.compare(student, teacher, hidden, present, weight, batch.n_views, generator)

    @torch.compiler.disable  # drawing from a generator cannot be compiled, what follows can
    def prepare(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return augmented series, and which tokens are hidden (None without masks) and present."""
        draws = augment.draw(tuple(batch.series.shape), self.config.augmentation, generator)
        series = clean(augment.apply(batch.series, draws), batch)
        present = self.student.encoder.present(batch.valid_time, batch.valid_region)
        if not self._masks():
            return series, None, present
        coin = torch.rand((), generator=generator, device=generator.device)  # one for the whole batch
        size = (len(present), self.n_mask_groups, present.shape[2])
        hidden = draw_masks(self.config, *size, generator) & (coin < self.config.mask_probability)
        return series, hidden[:, self.mask_groups], present

    def project(
        self, series: Tensor, hidden: Tensor | None, present: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Projections, Projections]:
        """Run all views through the student in one pass, and without masks through the teacher in another."""
        masks = hidden is not None
        student = self.student(series, hidden, present, generator, with_tokens=masks)
        drops = generator if self.config.teacher_drops else None
        with torch.no_grad():
            teacher = self.teacher(series, None, present, drops, with_tokens=masks)
        return student, teacher

    def compare(
        self,
        student: Projections,
        teacher: Projections,
        hidden: Tensor | None,
        present: Tensor | None,
        network_weight: float,
        n_views: int,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses between the projections of both sides.

        Agreement and coding rate are those of the people of all processes, where `generator` says that there are some.
        """

        def everyone(x: Tensor) -> Tensor:
            return gather(x.unflatten(0, (n_views, -1)), generator, dim=1)  # (view, person, ...)

        student_cls, teacher_cls = everyone(student.cls), everyone(teacher.cls)
        zero = student_cls.new_zeros(())
        parts = {"class_loss": zero, "network_loss": zero, "mask_loss": zero}
        with torch.autocast(zero.device.type, enabled=False):  # determinants need float32
            parts["class_loss"] = coding_rate(student_cls, teacher_cls, self.config).loss
            if network_weight > 0:
                pairs = [everyone(side.networks).flatten(1, 2) for side in (student, teacher)]
                rows = None if present is None else everyone(present.any(-1)).flatten(1, 2)
                parts["network_loss"] = network_weight * coding_rate(*pairs, self.config, rows).loss
            if hidden is not None:
                counted = hidden if present is None else hidden & present
                agreement = hidden_token_loss(student.tokens, teacher.tokens, counted.flatten(1))
                parts["mask_loss"] = self.config.mask_loss_weight * agreement
        loss = parts["class_loss"] + parts["network_loss"] + parts["mask_loss"]
        spread = {"student_std": student_cls[0].std(0).mean(), "teacher_std": teacher_cls[0].std(0).mean()}
        return {"loss": loss} | {name: value.detach() for name, value in (parts | spread).items()}

    def embed(self, batch: Batch) -> Tensor:
        """Return the teacher's features, (batch, embed_dim)."""
        return self.features(self.teacher.encoder, batch)

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the teacher's tokens (batch, network * patch, embed_dim), network by network, and which have data."""
        encoder = self.teacher.encoder
        present = encoder.present(batch.valid_time, batch.valid_region)
        return encoder(clean(batch.series, batch), present=present)[:, 1:], present.flatten(1)

    def features(self, encoder: Encoder, batch: Batch) -> Tensor:
        """Return the features of `encoder` (`self.teacher.encoder` or `self.student.encoder`)."""
        return features(encoder, self.config, batch)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return what `embed` reads: ``embedder`` (tokenizers, class token, positions) and ``transformer``."""
        found: dict[str, list[nn.Parameter]] = {"embedder": [], "transformer": []}
        for name, parameter in self.teacher.encoder.named_parameters():
            found["transformer" if name.startswith(("blocks.", "norm.")) else "embedder"].append(parameter)
        return found

    def classifier(self, n_outputs: int, drop_rate: float | None = None) -> SeriesNetwork:
        """Return the teacher's encoder, which is what `embed` reads, with one linear layer on its features."""
        return SeriesNetwork(self.config, self.teacher.encoder, n_outputs, drop_rate)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher's parameters towards the student's; buffers are left alone."""
        keep = self.teacher_momentum(progress)
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - keep)

    def teacher_momentum(self, progress: float) -> float:
        """Return the share of the teacher that a step keeps."""
        return 1 - (1 - self.config.teacher_momentum) * (1 + math.cos(math.pi * progress)) / 2

    def network_loss_weight(self, progress: float) -> float:
        """Return the weight of the network loss: nothing during the delay, then decaying to 0."""
        config = self.config
        if progress < config.network_loss_delay:
            return 0.0
        if config.network_loss_decay == 0:
            return config.network_loss_weight
        elapsed = (progress - config.network_loss_delay) / config.network_loss_decay
        if elapsed >= 1:
            return 0.0
        left = (1 + math.cos(math.pi * elapsed)) / 2 if config.network_loss_schedule == "cosine" else 1 - elapsed
        return config.network_loss_weight * left

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the student's parameters by learning-rate and weight-decay multiplier.

        Parameters
        ----------
        weight_decay : float
            Decay of the groups that decay at all.
        layer_decay : float
            Factor on the learning rate from one layer to the one before it; 1 gives all the same.

        Returns
        -------
        list of dict
            ``params``, ``lr_scale``, ``weight_decay`` and ``weight_decay_scale`` of each group.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.student.named_parameters():
            groups.setdefault(multipliers(name, self.config, layer_decay), []).append(parameter)
        return [
            {"params": params, "lr_scale": lr, "weight_decay": decay * weight_decay, "weight_decay_scale": decay}
            for (lr, decay), params in groups.items()
        ]

    def multipliers(self, name: str, layer_decay: float) -> tuple[float, float]:
        """Return the factors on learning rate and weight decay of one parameter of a `Side`."""
        return multipliers(name, self.config, layer_decay)

    def _masks(self) -> bool:
        return self.config.mask_token and self.config.mask_probability > 0


@torch.compiler.disable  # drawing from a generator cannot be compiled
def augmented(batch: Batch, levels: augment.Levels, generator: torch.Generator) -> Batch:
    """Return `batch` with augmented series; what was not measured stays marked."""
    return replace(
        batch, series=augment.apply(batch.series, augment.draw(tuple(batch.series.shape), levels, generator))
    )


def clean(series: Tensor, batch: Batch) -> Tensor:
    """Return `series` (batch, time, region) with zeros wherever `batch` marks it as not measured."""
    return series.masked_fill(~(batch.valid_time[:, :, None] & batch.valid_region[:, None, :]), 0)


def features(encoder: Encoder, config: Config, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
    """Return what `encoder` knows of each clip, (batch, embed_dim); nothing is dropped without a generator."""
    present = encoder.present(batch.valid_time, batch.valid_region)
    encoded = encoder(clean(batch.series, batch), present=present, generator=generator)
    if config.feature == "cls":
        return encoded[:, 0]
    return cls_avg(encoded, present if config.missing == "excluded" else None)


def multipliers(name: str, config: Config, layer_decay: float) -> tuple[float, float]:
    """Return the factors on learning rate and weight decay of one parameter of an encoder or its heads."""
    last = config.depth + 1
    layer = last
    if name.startswith("encoder.blocks."):
        layer = int(name.split(".")[2]) + 2
    elif name.startswith(FIRST_LAYER + TOKENIZERS * config.tokenizers_first):
        layer = 0
    exempt = name.endswith(".bias") or "norm" in name or "gamma" in name
    decays = config.decay_biases_and_norms or not exempt
    return layer_decay ** (last - layer), float(decays)


class SeriesNetwork(LinearNetwork):
    """An encoder with one linear layer on its features."""

    def __init__(self, config: Config, encoder: Encoder, n_outputs: int, drop_rate: float | None) -> None:
        super().__init__(config.embed_dim * (1 if config.feature == "cls" else 2), n_outputs, drop_rate)
        self.config, self.encoder = config, encoder.requires_grad_(True)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the features of every clip, (rows, n_features); clips are augmented where something is dropped."""
        if generator is not None:
            batch = augmented(batch, self.config.finetune_augmentation, generator)
        return features(self.encoder, self.config, batch, generator)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.encoder.named_parameters():
            groups.setdefault(multipliers(f"encoder.{name}", self.config, layer_decay), []).append(parameter)
        return [
            {"params": params, "lr_scale": lr, "weight_decay": decay * weight_decay, "weight_decay_scale": decay}
            for (lr, decay), params in groups.items()
        ] + self.head_groups(weight_decay)
