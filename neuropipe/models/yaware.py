"""y-Aware contrastive learning on volumes (arXiv 2106.08808).

Two augmented copies of every volume go through a 3-D DenseNet121 (or U-Net encoder) and a small
projection head. Each copy is pulled towards the other copy of its own volume and, less so, towards
the volumes of people who are alike by a proxy such as age, and pushed away from everyone else.
Without proxies this is SimCLR.

Defaults are corrected where the release has a defect; `Config.published` reproduces the release.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data import augment_volume
from neuropipe.data.augment_volume import POLICIES, Policy
from neuropipe.data.batch import Batch
from neuropipe.errors import ConfigError, InputError
from neuropipe.models.base import ModelConfig, VolumeSpec
from neuropipe.models.layers import dropout
from neuropipe.models.network import LinearNetwork
from neuropipe.models.together import gather
from neuropipe.signals.regions import Regions

GRID_FEATURES = 10_000  # most features that `feature: grid` makes, as in the authors' linear probe


class Proxy(BaseModel):
    """A column of participants.tsv by which people are alike, and how alike."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    column: str
    """Name of the column."""
    kernel: Literal["rbf", "laplacian", "category"] = "rbf"
    """``rbf``: exp(-d^2 / (2 sigma^2)); ``laplacian``: exp(-d / sigma); ``category``: 1 if equal, else 0."""
    sigma: float | None = Field(5.0, gt=0)
    """Width of the kernel in units of the column (years for age), not squared; unused by ``category``."""
    weight: float = Field(1.0, gt=0)
    """Weight in a sum of proxies; unused in a product."""

    @model_validator(mode="after")
    def _check(self) -> Proxy:
        if self.kernel != "category" and self.sigma is None:
            raise ValueError(f"the {self.kernel} kernel of {self.column!r} needs a sigma")
        return self


class Config(ModelConfig):
    """Sizes, input, proxies and loss; lengths are in voxels."""

    # Input
    input_shape: tuple[int, int, int] | None = None
    """Cropped or padded about the centre to this size, then z-scored; None takes volumes as they come. The released
    weights were most likely trained at (128, 128, 128)."""
    augmentation: Literal["none", "all", "cutout", "crop"] | Policy = "cutout"
    """Augmentations of a view: a recipe of the paper by name, or each with its own probability."""

    # Backbone
    in_channels: int = Field(1, ge=1)
    """Maps per person; grey matter alone is 1."""
    backbone: Literal["densenet", "unet"] = "densenet"
    """3-D DenseNet, or the encoder of a 3-D U-Net."""
    growth_rate: int = Field(32, ge=1)
    """Channels that a layer of the DenseNet adds."""
    block_config: tuple[int, ...] = (6, 12, 24, 16)
    """Layers of each dense block; the default is DenseNet121."""
    n_init_features: int = Field(64, ge=1)
    """Channels of the DenseNet's first convolution."""
    bn_size: int = Field(4, ge=1)
    """Width of a layer's bottleneck over `growth_rate`."""
    drop_rate: float = Field(0.0, ge=0, lt=1)
    """Dropout on what a layer adds."""
    final_norm: bool = False
    """Batch norm after the last dense block; the released classifiers have it, the released encoders do not."""
    unet_width: int = Field(16, ge=1)
    """Channels of the U-Net's first level, doubled at each further one."""
    unet_depth: int = Field(5, ge=1)
    """Levels of the U-Net."""
    feature: Literal["pooled", "grid"] = "pooled"
    """What `embed` returns: the map after ReLU averaged over space (1024 numbers), or, as in the authors' linear
    probe, before ReLU averaged on the finest cubic grid that makes at most 10,000 numbers (2^3 cells, 8192)."""

    # Head and loss
    head_hidden_dim: int = Field(512, ge=1)
    """Width inside the projection head."""
    head_dim: int = Field(128, ge=1)
    """Width of the projections that the loss compares."""
    temperature: float = Field(0.1, gt=0)
    """Divides the cosines of projections."""
    proxies: tuple[Proxy, ...] = (Proxy(column="age", sigma=5.0),)
    """By what people are alike; none makes it SimCLR."""
    combine: Literal["product", "sum"] = "product"
    """How several proxies make one similarity: alike by all of them, or the weighted mean."""
    normalisation: Literal["row", "column"] = "row"
    """``row``: the weights of each anchor sum to 1, as published; ``column``: as released, where people in sparsely
    sampled ranges of the proxy count less."""
    negatives: Literal["all", "softened", "decoupled"] = "all"
    """Whom an anchor is pushed away from: everyone; everyone with cosines times (1 - similarity) (L_exp, arXiv
    2211.08326); or everyone in the share (1 - similarity), which leaves out the other view (DCL, arXiv 2110.06848)."""
    forward_passes: Literal["joint", "per_view"] = "joint"
    """Both views in one pass with common batch statistics, or, as released, one pass after the other."""
    decay_biases_and_norms: bool = False
    """Weight decay on every parameter, as the release has it."""

    @classmethod
    def published(cls) -> Config:
        """Return the settings of the released training (its optimiser was Adam with the decay in the gradient)."""
        return cls(
            input_shape=(128, 128, 128),
            augmentation="cutout",
            normalisation="column",
            forward_passes="per_view",
            decay_biases_and_norms=True,
        )

    def reads(self) -> VolumeSpec:
        """One scan per person; its views are made in the loss."""
        return VolumeSpec(n_copies=2)

    def labels(self) -> dict[str, Literal["number", "category"]]:
        """Return the columns of the proxies."""
        return {proxy.column: "category" if proxy.kernel == "category" else "number" for proxy in self.proxies}

    @property
    def policy(self) -> Policy:
        """Augmentations of a view."""
        return POLICIES[self.augmentation] if isinstance(self.augmentation, str) else self.augmentation


# ------------------------------------------------------------------ backbones


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve `x` (batch, channel, x, y, z) with kernels of one voxel, as one matrix product over voxels.

    On a processor this takes a third of the time of a convolution; channels lie last in memory, so nothing is copied.
    """
    return F.linear(x.permute(0, 2, 3, 4, 1), weight.flatten(1)).permute(0, 4, 1, 2, 3)


def halve(x: Tensor) -> Tensor:
    """Return the mean of every 2^3 voxels of `x` (batch, channel, x, y, z); an odd last plane is left out.

    Planes are pooled first: a processor has no pooling of volumes whose channels lie last, and would copy them.
    """
    planes = F.avg_pool2d(x.transpose(1, 2).flatten(0, 1), 2).unflatten(0, (len(x), -1))  # (batch, x, channel, y, z)
    n = planes.shape[1] // 2
    return planes[:, : 2 * n].unflatten(1, (n, 2)).mean(2).transpose(1, 2)


def first_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve volumes (batch, channel, x, y, z) with kernels of 7^3, stride 2 and padding 3.

    A GPU multiplies matrices in pieces of eight channels and has nothing to multiply where there is one. There the
    eight voxels of every 2^3 cell become channels: the same sums, as a convolution of 4^3 without stride.
    """
    if not x.is_cuda:
        return F.conv3d(x.contiguous(memory_format=torch.channels_last_3d), weight, stride=2, padding=3)
    pad = [edge for n in reversed(x.shape[2:]) for edge in (3, 2 * ((n + 1) // 2) + 3 - n)]
    cells = F.pad(x, pad).unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).unflatten(6, (-1, 2))
    cells = cells.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).permute(0, 4, 1, 2, 3)  # channels last in memory
    kernel = F.pad(weight, [0, 1] * 3).unflatten(2, (4, 2)).unflatten(4, (4, 2)).unflatten(6, (4, 2))
    kernel = kernel.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    return F.conv3d(cells, kernel.contiguous(memory_format=torch.channels_last_3d))


def norm_relu(norm: nn.BatchNorm3d, x: Tensor) -> Tensor:
    """Apply a batch norm, then ReLU in place of its result."""
    return F.relu(norm(x), inplace=True)


class DenseLayer(nn.Module):
    """Bottleneck of one voxel, then a convolution of 3^3 to `growth_rate` new channels."""

    def __init__(self, n_channels: int, growth_rate: int, bn_size: int, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.norm1 = nn.BatchNorm3d(n_channels)
        self.conv1 = nn.Conv3d(n_channels, bn_size * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(bn_size * growth_rate)
        self.conv2 = nn.Conv3d(bn_size * growth_rate, growth_rate, 3, padding=1, bias=False)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map (batch, n_channels, x, y, z) to the new channels."""
        x = pointwise(norm_relu(self.norm1, x), self.conv1.weight)
        return dropout(self.conv2(norm_relu(self.norm2, x)), self.drop_rate, generator)


class Transition(nn.Module):
    """Between two dense blocks: half the channels, half the edge."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(n_channels)
        self.conv = nn.Conv3d(n_channels, n_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Average 2^3 voxels, then mix channels: the order of the two does not matter, but this one is cheaper."""
        return pointwise(halve(norm_relu(self.norm, x)), self.conv.weight)


class DenseNet(nn.Module):
    """3-D DenseNet; every axis must have at least `smallest` voxels.

    Attributes
    ----------
    n_features : int
        Channels of the last map.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        n = config.n_init_features
        self.conv0 = nn.Conv3d(config.in_channels, n, 7, stride=2, padding=3, bias=False)
        self.norm0 = nn.BatchNorm3d(n)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for b, n_layers in enumerate(config.block_config):
            if b > 0:
                self.transitions.append(Transition(n))
                n //= 2
            widths = [n + i * config.growth_rate for i in range(n_layers)]
            settings = (config.growth_rate, config.bn_size, config.drop_rate)
            self.blocks.append(nn.ModuleList(DenseLayer(width, *settings) for width in widths))
            n += n_layers * config.growth_rate
        self.final_norm = nn.BatchNorm3d(n) if config.final_norm else None
        self.n_features = n
        self.smallest = 4 * 2 ** (len(config.block_config) - 1) - 3
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map volumes (batch, in_channels, x, y, z) to the last map (batch, n_features, ...), before its ReLU."""
        check_size(x, self.smallest, 1)
        x = norm_relu(self.norm0, first_convolution(x, self.conv0.weight))
        x = F.max_pool3d(x, 3, stride=2, padding=1)
        for b, block in enumerate(self.blocks):
            if b > 0:
                x = self.transitions[b - 1](x)
            for layer in block:
                x = torch.cat([x, layer(x, generator)], dim=1)
        return x if self.final_norm is None else self.final_norm(x)


class DoubleConv(nn.Module):
    """Two convolutions of 3^3, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(out_channels)
        self.norm2 = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, x, y, z) to (batch, out_channels, x, y, z)."""
        return norm_relu(self.norm2, self.conv2(norm_relu(self.norm1, self.conv1(x))))


class UNetEncoder(nn.Module):
    """The way down of a 3-D U-Net; attributes as in `DenseNet`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [config.unet_width * 2**level for level in range(config.unet_depth)]
        self.levels = nn.ModuleList(map(DoubleConv, [config.in_channels, *widths], widths))
        self.n_features, self.smallest = widths[-1], 2 ** (config.unet_depth - 1)
        init_unet(self)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map volumes (batch, in_channels, x, y, z) to the deepest map; nothing is dropped, `generator` is unused."""
        return self.maps(x)[-1]

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the map of every level, each half the edge of the one before."""
        check_size(x, self.smallest, 1)
        maps = [self.levels[0](x.contiguous(memory_format=torch.channels_last_3d))]
        for level in self.levels[1:]:
            maps.append(level(F.max_pool3d(maps[-1], 2)))
        return maps


def init_unet(module: nn.Module) -> None:
    """Initialise convolutions and linear layers as the U-Net of the release."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d | nn.ConvTranspose3d | nn.Linear):
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.01)
            else:
                nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)


def check_size(x: Tensor, smallest: int, divisor: int) -> None:
    """Raise where a volume is too small, or not divisible by what the network halves."""
    shape = tuple(x.shape[2:])
    if min(shape) < smallest:
        raise InputError(
            f"Expected volumes of at least {smallest} voxels along every axis, found {shape}. "
            "Use fewer blocks (block_config, unet_depth), or input_shape: to pad them."
        )
    if any(n % divisor for n in shape):
        raise InputError(
            f"Expected volumes divisible by {divisor} along every axis, found {shape}. Set input_shape: to such a size."
        )


def build_backbone(config: Config) -> DenseNet | UNetEncoder:
    """Return the backbone that `config` asks for."""
    return DenseNet(config) if config.backbone == "densenet" else UNetEncoder(config)


# ------------------------------------------------------------------ heads and whole networks


class Head(nn.Module):
    """Two linear layers; `forward` also returns the first one's result, before its activation.

    Parameters
    ----------
    dim, hidden_dim, out_dim : int
        Widths.
    slope : float
        Of the activation between the layers below zero; 0 is ReLU.
    activate_output : bool
        The activation on the output too, as the classifier of the released U-Net has it.
    """

    def __init__(
        self, dim: int, hidden_dim: int, out_dim: int, slope: float = 0.0, activate_output: bool = False
    ) -> None:
        super().__init__()
        self.slope, self.activate_output = slope, activate_output
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)
        for layer in (self.fc1, self.fc2):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, dim) to (batch, out_dim) and (batch, hidden_dim)."""
        hidden = self.fc1(x)
        out = self.fc2(F.leaky_relu(hidden, self.slope))
        return F.leaky_relu(out, self.slope) if self.activate_output else out, hidden


def pool(last_map: Tensor) -> Tensor:
    """Return the mean over space of the last map after ReLU, (batch, n_features)."""
    return F.relu(last_map).mean((2, 3, 4))


class Classifier(nn.Module):
    """A backbone with logits on top; the released DenseNet has one linear layer there, the U-Net two.

    Parameters
    ----------
    config : Config
        ``final_norm=True`` for the released DenseNet.
    n_classes : int
        Logits.
    hidden_dim : int, optional
        Width between two layers; None is one layer.
    activate_output : bool
        The released U-Net's leaky ReLU on the logits.
    """

    def __init__(
        self, config: Config, n_classes: int, hidden_dim: int | None = None, activate_output: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        n = self.backbone.n_features
        self.head = (
            nn.Linear(n, n_classes) if hidden_dim is None else Head(n, hidden_dim, n_classes, 0.01, activate_output)
        )
        if config.backbone == "unet":
            init_unet(self.head)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        """Map z-scored volumes (batch, 1, x, y, z) to logits (batch, n_classes)."""
        out = self.head(pool(self.backbone(x)))
        return out[0] if isinstance(out, tuple) else out


class Segmenter(nn.Module):
    """The whole U-Net, down and up: one score per class and voxel; edges must be divisible by ``2 ** (depth - 1)``."""

    def __init__(self, config: Config, n_classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = UNetEncoder(config)
        widths = [config.unet_width * 2**level for level in reversed(range(config.unet_depth))]
        self.upconvs = nn.ModuleList(nn.ConvTranspose3d(a, a // 2, 2, stride=2) for a in widths[:-1])
        self.levels = nn.ModuleList(DoubleConv(a, a // 2) for a in widths[:-1])
        self.conv_final = nn.Conv3d(config.unet_width, n_classes, 1)
        init_unet(self)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        """Map z-scored volumes (batch, 1, x, y, z) to (batch, n_classes, x, y, z)."""
        check_size(x, self.backbone.smallest, self.backbone.smallest)
        *skips, x = self.backbone.maps(x)
        for upconv, level, skip in zip(self.upconvs, self.levels, reversed(skips), strict=True):
            x = level(torch.cat([skip, upconv(x)], dim=1))
        return self.conv_final(x)


# ------------------------------------------------------------------ who is alike


def similarity(labels: Mapping[str, Tensor], proxies: Sequence[Proxy], combine: str, n: int, device=None) -> Tensor:
    """Return how alike people are, (n, n) in [0, 1] with ones on the diagonal.

    A proxy that is unknown for one of two people has no say about them: it is left out of their product
    or mean. Two people with no known proxy in common are not alike at all; without proxies nobody is.

    Parameters
    ----------
    labels : mapping of str to tensor (n,)
        Float with NaN, or codes with -1, where unknown.
    proxies : sequence of Proxy
    combine : {"product", "sum"}
    """
    own = torch.eye(n, dtype=torch.bool, device=device)
    if not proxies:
        return own.float()
    kernels, known = zip(*(_kernel(labels[proxy.column], proxy) for proxy in proxies), strict=True)
    kernels, known = torch.stack(kernels), torch.stack(known)  # (proxy, n, n)
    if combine == "product":
        alike = torch.where(known, kernels, 1).prod(0)
    else:
        weights = known * kernels.new_tensor([proxy.weight for proxy in proxies])[:, None, None]
        total = weights.sum(0)
        alike = (weights * torch.where(known, kernels, 0)).sum(0) / total.where(total > 0, 1)
    return alike.where(known.any(0), 0).masked_fill(own, 1)


def _kernel(values: Tensor, proxy: Proxy) -> tuple[Tensor, Tensor]:
    """Return one proxy's kernel (n, n), and where both people's values are known."""
    if proxy.kernel == "category":
        there = ~values.isnan() if values.is_floating_point() else values >= 0
        kernel = (values[:, None] == values).to(torch.get_default_dtype())
    else:
        values = values if values.is_floating_point() else values.float()
        there = ~values.isnan()
        distance = (values[:, None] - values).abs() / proxy.sigma
        kernel = torch.exp(-0.5 * distance.square() if proxy.kernel == "rbf" else -distance)
    return kernel, there[:, None] & there


# ------------------------------------------------------------------ loss


class Contrast(NamedTuple):
    """The loss and what it is made of."""

    loss: Tensor
    across: Tensor  # (n, n) cosines of first with second views over the temperature
    kernel: Tensor  # (2 n, 2 n) similarity of all views, zero on the diagonal
    weights: Tensor  # (2 n, 2 n) how much anchor (row) is pulled towards each other view


def contrast(
    first: Tensor,
    second: Tensor,
    alike: Tensor,
    temperature: float,
    normalisation: Literal["row", "column"] = "row",
    negatives: Literal["all", "softened", "decoupled"] = "all",
) -> Contrast:
    """Return the y-Aware InfoNCE of two views.

    The sum over both views of the mean over anchors, i.e. twice the mean over all anchors, as released; with
    ``alike`` the identity it is SimCLR's NT-Xent in the same scale.

    Parameters
    ----------
    first, second : tensor (n, dim)
        Projections; row i of both is the same volume.
    alike : tensor (n, n)
        Similarity of people, in [0, 1].
    temperature : float
    normalisation, negatives
        See `Config`.
    """
    n = len(first)
    z = F.normalize(torch.cat([first, second]), dim=1)
    logits = z @ z.T / temperature  # (2 n, 2 n)
    itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    kernel = alike.to(z.dtype).repeat(2, 2).masked_fill(itself, 0)
    totals = kernel.sum(1)
    weights = kernel / (totals[:, None] if normalisation == "row" else totals)
    pushed = logits
    if negatives == "softened":
        pushed = logits * (1 - kernel)
    elif negatives == "decoupled":
        pushed = logits + (1 - kernel).clamp(min=torch.finfo(z.dtype).tiny).log()
    partition = pushed.masked_fill(itself, -math.inf).logsumexp(1, keepdim=True)
    loss = -(weights * (logits - partition)).sum() / n
    return Contrast(loss, logits[:n, n:], kernel, weights)


# ------------------------------------------------------------------ the model


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` in evaluation mode for a while: batch norms use and keep their running statistics."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


class Model(nn.Module):
    """The family `yaware`.

    Parameters
    ----------
    config : Config
    regions : Regions, optional
        Unused: volumes have no regions.

    Attributes
    ----------
    embed_dim : int
        Width of what `embed` returns.
    """

    def __init__(self, config: Config, regions: Regions | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        n = self.backbone.n_features
        self.head = Head(n, config.head_hidden_dim, config.head_dim)
        if config.backbone == "unet":
            init_unet(self.head)
        self.grid = max(int((GRID_FEATURES / n) ** (1 / 3) + 1e-9), 1)
        self.embed_dim = n if config.feature == "pooled" else n * self.grid**3
        self.to(memory_format=torch.channels_last_3d)

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return the training loss, how often a view finds its twin, and how far projections spread.

        Everything random is drawn from `generator`, which must live on the device of `batch`.
        """
        views = self.prepare(batch, generator)
        first, second = self.project(views, generator)
        with torch.autocast(views.device.type, enabled=False):  # exponentials of cosines over 0.1 need float32
            first, second = (gather(z if z.dtype == torch.float64 else z.float(), generator) for z in (first, second))
            found = contrast(
                first,
                second,
                self.alike(batch, generator),
                self.config.temperature,
                self.config.normalisation,
                self.config.negatives,
            )
        accuracy = (found.across.argmax(1) == torch.arange(len(first), device=first.device)).float().mean()
        spread = F.normalize(first.detach(), dim=1).std(0, correction=0).mean()
        return {"loss": found.loss, "twin_accuracy": accuracy, "projection_std": spread}

    @torch.compiler.disable  # drawing from a generator cannot be compiled, what follows can
    def prepare(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return two augmented views of every volume, (2 * batch, 1, x, y, z), view by view."""
        return augment_volume.views(self.standardize(batch.volume), self.config.policy, 2, generator)

    def standardize(self, volumes: Tensor) -> Tensor:
        """Return `volumes` at the size that the config asks for, each z-scored (padding counts)."""
        return standardize(volumes, self.config)

    def project(self, views: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return the projections of first and second views, (batch, head_dim) each."""
        if self.config.forward_passes == "joint":
            return self.head(pool(self.backbone(views, generator)))[0].chunk(2)
        first, second = (self.head(pool(self.backbone(view, generator)))[0] for view in views.chunk(2))
        return first, second

    def alike(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return how alike people are, over all processes."""
        missing = [column for column in self.config.labels() if column not in batch.labels]
        if missing:
            raise ConfigError(
                f"The proxies need the column(s) {', '.join(missing)}, which the batch lacks. Name columns of "
                "participants.tsv in proxies:, or use proxies: [] for SimCLR."
            )
        labels = {column: gather(batch.labels[column], generator) for column in self.config.labels()}
        n = len(next(iter(labels.values()), gather(batch.person, generator)))
        return similarity(labels, self.config.proxies, self.config.combine, n, batch.device)

    def embed(self, batch: Batch) -> Tensor:
        """Return the features of the volumes, (batch, embed_dim)."""
        with evaluating(self.backbone):
            last_map = self.backbone(self.standardize(batch.volume))
        if self.config.feature == "pooled":
            return pool(last_map)
        return F.adaptive_avg_pool3d(last_map, self.grid).flatten(1)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return what `embed` reads: the ``backbone``."""
        return {"backbone": list(self.backbone.parameters())}

    def classifier(self, n_outputs: int, drop_rate: float | None = None) -> VolumeNetwork:
        """Return this backbone with one linear layer on its pooled features, as published but for its dropout."""
        return VolumeNetwork(self.config, self.backbone, n_outputs, drop_rate)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return param_groups(self, weight_decay, layer_decay)


class VolumeNetwork(LinearNetwork):
    """A backbone with one linear layer on its pooled features; batch norms follow ``train()`` and ``eval()``."""

    def __init__(
        self, config: Config, backbone: DenseNet | UNetEncoder, n_outputs: int, drop_rate: float | None
    ) -> None:
        super().__init__(backbone.n_features, n_outputs, drop_rate, norm=False)
        self.config, self.backbone = config, backbone

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the pooled features, (rows, n_features)."""
        return pool(self.backbone(standardize(batch.volume, self.config), generator))

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return param_groups(self, weight_decay, layer_decay)


def standardize(volumes: Tensor, config: Config) -> Tensor:
    """Return `volumes` at the size that the config asks for, each z-scored (padding counts)."""
    if config.input_shape is not None:
        volumes = augment_volume.crop_or_pad(volumes, config.input_shape)
    return torch.stack([augment_volume.zscore(volume) for volume in volumes])


def param_groups(module: Model | VolumeNetwork, weight_decay: float, layer_decay: float) -> list[dict]:
    """Group the parameters of a backbone and its head by depth, and by whether they decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        decays = module.config.decay_biases_and_norms or parameter.dim() > 1
        above = _depth_above(name, module.backbone)
        groups.setdefault((layer_decay**above, float(decays)), []).append(parameter)
    return [
        {"params": params, "lr_scale": lr, "weight_decay": decay * weight_decay, "weight_decay_scale": decay}
        for (lr, decay), params in groups.items()
    ]


def _depth_above(name: str, backbone: DenseNet | UNetEncoder) -> int:
    """Return how many layers (blocks, levels) lie above a parameter; the head is the last one."""
    parts = name.split(".")
    if parts[0] != "backbone":
        return 0
    n = len(backbone.blocks) if isinstance(backbone, DenseNet) else len(backbone.levels)
    if parts[1] in ("blocks", "levels"):
        return n - int(parts[2])
    if parts[1] == "transitions":
        return n - int(parts[2]) - 1  # it leads to the next block
    return 1 if parts[1] == "final_norm" else n + 1
