"""NeuroSSL's multi-scale vision transformer on 2-D slices.

A slice is cut into patches, which a transformer turns into tokens. It learns without labels by drawing the
patches that were hidden from it (`Model`). With labels, a head reads the class token, the mean token of
several depths, and how the channels of all tokens vary together (`Classifier`).

Defaults are corrected where the release has a defect; `Config.published` reproduces the release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data import chance, image
from neuropipe.data.batch import Batch
from neuropipe.errors import InputError
from neuropipe.models.base import ImageSpec, ModelConfig
from neuropipe.models.layers import Block, sincos_table
from neuropipe.models.network import Network
from neuropipe.signals.regions import Regions

SQRT_STEPS = 15  # enough for float32 where the smallest eigenvalue is above 1e-4 of the norm
PATCH_EPS = 1e-6  # added to the variance of a patch that is to be drawn
NO_DECAY = ("cls_token", "pos_embed", "mask_token")


class Config(ModelConfig):
    """Sizes, head and pretraining; lengths are in pixels."""

    # Encoder
    img_size: tuple[int, int] = (224, 224)
    """Rows and columns of a slice."""
    patch_size: tuple[int, int] = (16, 16)
    """Rows and columns of a patch; pixels that do not fill one are left out."""
    in_channels: int = Field(1, ge=1)
    """Maps per slice."""
    embed_dim: int = Field(384, ge=1)
    """Width of a token."""
    depth: int = Field(12, ge=1)
    """Transformer blocks."""
    num_heads: int = Field(6, ge=1)
    """Attention heads."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width inside a block's MLP over `embed_dim`."""
    drop_rate: float = Field(0.0, ge=0, lt=1)
    """Dropout in a block's MLP while training."""
    drop_path_rate: float = Field(0.0, ge=0, lt=1)
    """Share of branches dropped in the last block while training; rises linearly from 0 in the first."""
    scale_layers: tuple[int, ...] | None = None
    """Blocks, from 0, whose mean tokens are the scales; None is the last block of every quarter."""
    positions: Literal["once", "twice"] = "once"
    """``once``: a token gets the position of its patch; ``twice``: as released, that of its place in the sequence on
    top, which is another one where patches are hidden."""
    zscore: Literal["foreground", "image", "none"] = "foreground"
    """Over which pixels the mean and deviation of a slice are taken; ``image``: all of them, as released."""

    # Head
    covariance: Literal["compact", "full", "none"] = "compact"
    """``compact``: tokens projected to a few channels, shrinkage, matrix square root, upper triangle; ``full``: as
    released, all ``embed_dim ** 2`` entries, which takes 227 M weights at the published size."""
    covariance_dim: int = Field(48, ge=1, le=64)
    """Channels of the compact covariance."""
    covariance_features: int = Field(128, ge=1)
    """Numbers that the compact covariance hands to the classifier."""
    shrinkage: float = Field(0.1, ge=0.01, le=1)
    """Share of the compact covariance that is replaced by a sphere of the same trace."""
    multi_scale: bool = True
    """The classifier reads the fused scales; the released one computes them and ignores them."""
    head_drop_rate: float = Field(0.3, ge=0, lt=1)
    """Dropout of the head, in training and in stochastic passes."""
    dropout_sites: Literal["head", "all"] = "head"
    """``head``: once, before the last layer; ``all``: as released, in the covariance and on the features too."""
    temperature: float = Field(1.0, gt=0)
    """Divides logits until a calibration is fitted."""
    calibrate_passes: bool = True
    """Stochastic passes are calibrated as the prediction is; the released ones are not."""
    rollout_order: Literal["last_first", "first_first"] = "last_first"
    """Order of layers in the product: ``last_first`` as Abnar and Zuidema published it, ``first_first`` as released."""
    rollout_scale: Literal["image", "batch", "none"] = "image"
    """Over what the smallest and largest value of a rollout are taken; ``batch``: as released."""

    # Pretraining
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    """Share of the patches that are hidden."""
    decoder_dim: int = Field(192, ge=4, multiple_of=4)
    """Width of the decoder's tokens."""
    decoder_depth: int = Field(4, ge=1)
    """Its blocks."""
    decoder_num_heads: int = Field(3, ge=1)
    """Its attention heads."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability that a slice is mirrored along its columns."""
    crop_area: tuple[float, float] = (0.5, 1.0)
    """Range of the share of a slice's area that is cut out and enlarged."""

    @classmethod
    def published(cls) -> Config:
        """Return the settings of the released classifier."""
        return cls(
            scale_layers=(2, 5, 8, 11),
            positions="twice",
            zscore="image",
            covariance="full",
            multi_scale=False,
            dropout_sites="all",
            temperature=1.6995,
            calibrate_passes=False,
            rollout_order="first_first",
            rollout_scale="batch",
        )

    @model_validator(mode="after")
    def _check(self) -> Config:
        for width, n_heads in ((self.embed_dim, self.num_heads), (self.decoder_dim, self.decoder_num_heads)):
            if width % n_heads:
                raise ValueError(f"a token of {width} numbers cannot be split among {n_heads} heads")
        if min(self.grid) < 1:
            raise ValueError(f"a slice of {self.img_size} holds no patch of {self.patch_size}")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area: expected 0 < smallest <= largest <= 1, found {self.crop_area}")
        wanted, there = self.scale_layers or (), [i for i in self.scale_layers or () if i < self.depth]
        if min(wanted, default=0) < 0 or (len(there) < len(wanted) and (there or self.multi_scale)):
            raise ValueError(f"scale_layers {wanted} are not all among the {self.depth} blocks")
        return self

    def reads(self) -> ImageSpec:
        """One slice per person."""
        return ImageSpec(shape=self.img_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per column and per row."""
        return self.img_size[0] // self.patch_size[0], self.img_size[1] // self.patch_size[1]

    @property
    def n_patches(self) -> int:
        """Patches of a slice."""
        return self.grid[0] * self.grid[1]

    @property
    def scales(self) -> tuple[int, ...]:
        """Blocks whose mean tokens are the scales, in order."""
        if self.scale_layers is not None:
            return tuple(sorted(self.scale_layers))
        return tuple(sorted({-(-quarter * self.depth // 4) - 1 for quarter in (1, 2, 3, 4)}))


def standardize(images: Tensor, config: Config) -> Tensor:
    """Return slices (batch, in_channels, row, column) z-scored as `config` asks for."""
    expected, found = (config.in_channels, *config.img_size), tuple(images.shape[1:])
    if found != expected:
        raise InputError(f"Expected slices of (channel, row, column) = {expected}, found {found}. Set img_size:.")
    return images if config.zscore == "none" else image.zscore(images, config.zscore == "foreground")


# ------------------------------------------------------------------ encoder


class Encoded(NamedTuple):
    """What the encoder makes of a slice."""

    tokens: Tensor  # (batch, 1 + patch, embed_dim) after the final norm, the class token first
    scales: Tensor | None  # (batch, scale * embed_dim), mean patch tokens before that norm; None: no such block


class Encoder(nn.Module):
    """Patches, positions, pre-norm transformer blocks and a final norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.n_patches + 1, dim))
        self.patch_embed = nn.Conv2d(config.in_channels, dim, config.patch_size, stride=config.patch_size)
        rates = [config.drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                int(dim * config.mlp_ratio),
                qkv_bias=True,
                drop_rate=config.drop_rate,
                drop_path_rate=rate,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: Tensor, kept: Tensor | None = None, generator: torch.Generator | None = None) -> Encoded:
        """Encode z-scored slices (batch, in_channels, row, column).

        Parameters
        ----------
        images : tensor
        kept : int64 tensor (batch, n_kept), optional
            Patches that are seen, by number in rows of the grid; the rest is hidden.
        generator : torch.Generator, optional
            For dropout; nothing is dropped without one.
        """
        return self.finish(self.run(self.start(self.patches(images), kept), generator))

    def patches(self, images: Tensor) -> Tensor:
        """Return the patches as tokens without position, (batch, patch, embed_dim), row by row."""
        return self.patch_embed(images).flatten(2).transpose(1, 2)

    def start(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return what enters the first block: positions added, hidden patches left out, the class token in front."""
        tokens = tokens + self.pos_embed[:, 1:]
        if kept is not None:
            tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
        if self.config.positions == "once":
            first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
            return torch.cat([first, tokens], dim=1)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self.pos_embed[:, : tokens.shape[1]]

    def run(self, tokens: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Return what leaves every block."""
        outputs = []
        for block in self.blocks:
            tokens = block(tokens, generator=generator)
            outputs.append(tokens)
        return outputs

    def finish(self, outputs: list[Tensor]) -> Encoded:
        """Return the final tokens and the scales."""
        means = [outputs[i][:, 1:].mean(1) for i in self.config.scales if i < len(outputs)]
        return Encoded(self.norm(outputs[-1]), torch.cat(means, dim=1) if means else None)

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention of every block, (block, batch, head, token, token); rows sum to 1."""
        entering = self.start(self.patches(images))
        tokens = [entering, *self.run(entering)[:-1]]
        maps = [block.attn.weights(block.norm1(x)) for block, x in zip(self.blocks, tokens, strict=True)]
        return torch.stack(maps)


def rollout(
    attention: Tensor,
    grid: tuple[int, int],
    order: Literal["last_first", "first_first"] = "last_first",
    scale: Literal["image", "batch", "none"] = "image",
    eps: float = 1e-8,
) -> Tensor:
    """Return how much of each patch reaches the class token, by attention rollout (arXiv 2005.00928).

    Heads are averaged, the identity stands for the residual connection, and the layers are multiplied;
    only the row of the class token is followed, from the output down. It says nothing about what a head
    reads from the patch tokens themselves.

    Parameters
    ----------
    attention : tensor (block, batch, head, token, token)
        The class token first.
    grid : (int, int)
        Patches per column and per row.
    order, scale
        See `Config`.
    eps : float
        Added to the range when scaling to [0, 1].

    Returns
    -------
    tensor (batch, row, column)
    """
    mixing = attention.mean(2) + torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    mixing = mixing / mixing.sum(-1, keepdim=True)
    row = torch.zeros_like(mixing[0, :, :1])
    row[..., 0] = 1
    for layer in mixing.flip(0) if order == "last_first" else mixing:
        row = row @ layer
    maps = row[:, 0, 1:].unflatten(1, grid)
    if scale == "none":
        return maps
    over = (1, 2) if scale == "image" else (0, 1, 2)
    low, high = maps.amin(over, keepdim=True), maps.amax(over, keepdim=True)
    return (maps - low) / (high - low + eps)


# ------------------------------------------------------------------ covariance


def covariance(tokens: Tensor) -> Tensor:
    """Return the covariance over tokens of (batch, token, dim), (batch, dim, dim), divided by their number."""
    centred = tokens - tokens.mean(1, keepdim=True)
    return centred.transpose(1, 2) @ centred / tokens.shape[1]


def shrink(matrix: Tensor, share: float) -> Tensor:
    """Return `matrix` (batch, dim, dim) drawn by `share` towards the sphere of the same trace."""
    dim = matrix.shape[-1]
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return (1 - share) * matrix + (share * mean + 1e-6) * torch.eye(dim, dtype=matrix.dtype, device=matrix.device)


def matrix_sqrt(matrix: Tensor) -> Tensor:
    """Return the square root of positive definite matrices (batch, dim, dim) by coupled Newton-Schulz steps.

    Products only: fast on a GPU, and its gradient stands where eigenvalues coincide (arXiv 1712.01034).
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    root, inverse = matrix / norm, eye.expand_as(matrix)
    for _ in range(SQRT_STEPS):
        step = 1.5 * eye - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    return root * norm.sqrt()


class CompactCovariance(nn.Module):
    """The square root of the shrunk covariance of projected tokens, as the numbers of its upper triangle."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim = config.covariance_dim
        self.shrinkage = config.shrinkage
        self.n_hidden, self.n_features = dim * (dim + 1) // 2, config.covariance_features
        self.project = nn.Linear(config.embed_dim, dim, bias=False)  # a constant would not change a covariance
        self.fc = nn.Linear(self.n_hidden, self.n_features)
        row, column = torch.triu_indices(dim, dim)
        self.register_buffer("entries", row * dim + column, persistent=False)
        # An entry off the diagonal stands for two: the vector is as long as the matrix.
        self.register_buffer("weight", torch.where(row == column, 1.0, 2**0.5), persistent=False)

    def hidden(self, patches: Tensor) -> Tensor:
        """Map patch tokens (batch, patch, embed_dim) to the triangle, (batch, n_hidden)."""
        projected = self.project(patches)
        with torch.autocast(patches.device.type, enabled=False):  # the root of a covariance needs float32
            projected = projected.float() if projected.dtype != torch.float64 else projected
            root = matrix_sqrt(shrink(covariance(projected), self.shrinkage))
        return root.flatten(1)[:, self.entries] * self.weight

    def finish(self, hidden: Tensor) -> Tensor:
        """Map the triangle to (..., n_features)."""
        return self.fc(hidden)


class FullCovariance(nn.Module):
    """Every entry of the covariance through two linear layers, to a vector of length 1, as released."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim = config.embed_dim
        self.n_hidden, self.n_features = 4 * dim, dim
        self.fc1 = nn.Linear(dim * dim, self.n_hidden)
        self.fc2 = nn.Linear(self.n_hidden, dim)

    def hidden(self, patches: Tensor) -> Tensor:
        """Map patch tokens (batch, patch, embed_dim) to (batch, n_hidden)."""
        return F.gelu(self.fc1(covariance(patches).flatten(1)))

    def finish(self, hidden: Tensor) -> Tensor:
        """Map (..., n_hidden) to (..., n_features)."""
        return F.normalize(self.fc2(hidden), dim=-1)


COVARIANCES = {"compact": CompactCovariance, "full": FullCovariance}


# ------------------------------------------------------------------ head


class Fusion(nn.Module):
    """All scales in one vector of the width of a token."""

    def __init__(self, n_scales: int, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(n_scales * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, encoded: Encoded) -> Tensor:
        """Return (batch, dim); the class token where no block is a scale."""
        return encoded.tokens[:, 0] if encoded.scales is None else self.norm(F.gelu(self.fc(encoded.scales)))


class Evidence(NamedTuple):
    """What the head reads from a slice before anything is dropped."""

    parts: Tensor  # (batch, width): the class token, and the fused scales where they are used
    hidden: Tensor | None  # (batch, n_hidden) of the covariance


class Head(nn.Module):
    """Class token, scales and covariance to logits.

    Attributes
    ----------
    temperature : tensor ()
    bias : tensor (n_classes,)
        A fitted calibration: probabilities are the softmax of ``logits / temperature + bias``.
    """

    def __init__(self, config: Config, n_classes: int) -> None:
        super().__init__()
        self.config = config
        self.fusion = Fusion(len(config.scales), config.embed_dim)
        self.covariance = None if config.covariance == "none" else COVARIANCES[config.covariance](config)
        width = config.embed_dim * (1 + config.multi_scale) + (self.covariance.n_features if self.covariance else 0)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, n_classes)
        self.register_buffer("temperature", torch.tensor(config.temperature))
        self.register_buffer("bias", torch.zeros(n_classes))

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights."""
        return next(self.fc.parameters()).dtype

    def evidence(self, encoded: Encoded) -> Evidence:
        """Return all that is the same in every stochastic pass."""
        cls, patches = encoded.tokens[:, 0], encoded.tokens[:, 1:]
        parts = torch.cat([cls, self.fusion(encoded)], dim=1) if self.config.multi_scale else cls
        return Evidence(parts, None if self.covariance is None else self.covariance.hidden(patches))

    def features(self, evidence: Evidence, masks: Mapping[str, Tensor]) -> Tensor:
        """Return what is classified, (..., batch, width); a leading axis is that of the masks."""
        features = evidence.parts
        if self.covariance is not None:
            second = self.covariance.finish(_masked(evidence.hidden, masks.get("covariance")))
            features = torch.cat([features.expand(*second.shape[:-1], -1), second], dim=-1)
        return _masked(features, masks.get("features"))

    def logits(self, features: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """Return (..., batch, n_classes)."""
        return self.fc(_masked(self.norm(features), masks.get("head")))

    def forward(self, evidence: Evidence, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return logits, (..., batch, n_classes); nothing is dropped without masks."""
        masks = masks or {}
        return self.logits(self.features(evidence, masks), masks)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Return logits with the fitted temperature and bias."""
        return logits / self.temperature + self.bias

    @torch.compiler.disable
    def draw(self, n_passes: int, n_rows: int, generator: torch.Generator, training: bool = False) -> dict[str, Tensor]:
        """Draw the masks of dropout, pass by pass, each (n_passes, n_rows, width), kept entries scaled up.

        The release drops features in stochastic passes only, not in training.
        """
        widths = {"head": self.fc.in_features}
        if self.config.dropout_sites == "all":
            widths = {} if training else {"features": self.fc.in_features}
            widths |= {"head": self.fc.in_features}
            if self.covariance is not None:
                widths = {"covariance": self.covariance.n_hidden} | widths
        keep = 1 - self.config.head_drop_rate
        drawn: dict[str, list[Tensor]] = {site: [] for site in widths}
        for _ in range(n_passes):
            for site, width in widths.items():
                drawn[site].append(chance.bernoulli(keep, (n_rows, width), generator, self.dtype) / keep)
        return {site: torch.stack(masks) for site, masks in drawn.items()}


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


class Prediction(NamedTuple):
    """What a classifier says about slices; the last four are None without stochastic passes."""

    logits: Tensor  # (batch, class)
    raw: Tensor  # (batch, class) probabilities before calibration
    calibrated: Tensor  # (batch, class)
    passes: Tensor | None = None  # (pass, batch, class) probabilities
    std: Tensor | None = None  # (batch, class) population standard deviation over passes
    entropy: Tensor | None = None  # (batch,) of the mean over passes, in nats
    mutual_information: Tensor | None = None  # (batch,) part of it that passes disagree about, in nats


def summarise(passes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return deviation, entropy and mutual information of probabilities (pass, batch, class)."""
    mean = passes.mean(0)
    entropy = torch.special.entr(mean).sum(-1)
    return passes.std(0, correction=0), entropy, entropy - torch.special.entr(passes).sum(-1).mean(0)


class Classifier(nn.Module):
    """An encoder with the covariance head.

    No method depends on ``train()`` and ``eval()``: predictions in parallel threads do not meet.

    Parameters
    ----------
    config : Config
    n_classes : int
    """

    def __init__(self, config: Config, n_classes: int = 2) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = Head(config, n_classes)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map slices (batch, in_channels, row, column) to logits (batch, n_classes); dropout with a generator."""
        encoded = self.encoder(standardize(images, self.config), generator=generator)
        evidence = self.head.evidence(encoded)
        if generator is None:
            return self.head(evidence)
        return self.head(evidence, self.head.draw(1, len(images), generator, training=True))[0]

    @torch.no_grad()
    def predict(self, images: Tensor, n_passes: int = 0, generator: torch.Generator | None = None) -> Prediction:
        """Return probabilities and, from `n_passes` passes with dropout, how sure they are.

        The encoder runs once. Every slice meets the same masks, so that a prediction does not depend on
        what else is in the batch.

        Parameters
        ----------
        images : tensor (batch, in_channels, row, column)
        n_passes : int
        generator : torch.Generator, optional
            Default one seeded with 0.
        """
        evidence = self.head.evidence(self.encoder(standardize(images, self.config)))
        logits = self.head(evidence)
        found = Prediction(logits, logits.softmax(-1), self.head.calibrated(logits).softmax(-1))
        if n_passes == 0:
            return found
        generator = generator or torch.Generator(device=images.device).manual_seed(0)
        drawn = self.head(evidence, self.head.draw(n_passes, 1, generator))
        passes = (self.head.calibrated(drawn) if self.config.calibrate_passes else drawn).softmax(-1)
        return Prediction(*found[:3], passes, *summarise(passes))

    @torch.no_grad()
    def rollout(self, images: Tensor) -> Tensor:
        """Return the attention rollout of slices, (batch, row, column) of patches, in [0, 1]."""
        attention = self.encoder.attention(standardize(images, self.config))
        return rollout(attention, self.config.grid, self.config.rollout_order, self.config.rollout_scale)

    def embed(self, batch: Batch) -> Tensor:
        """Return the scales, as `Model.embed`."""
        return embed(self.encoder, batch)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return param_groups(self, weight_decay, layer_decay)


class SliceNetwork(Network):
    """The classifier as the network of one task."""

    def __init__(self, config: Config, n_outputs: int) -> None:
        super().__init__()
        self.classifier = Classifier(config, n_outputs)

    @property
    def deciding(self) -> nn.Module:
        """Norm and linear layer are the covariance head's."""
        return self.classifier.head

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Evidence:
        """Return the head's evidence of every slice."""
        images = standardize(batch.image, self.classifier.config)
        tokens, scales = self.classifier.encoder(images, generator=generator)
        with torch.autocast(images.device.type, enabled=False):  # the square root of a matrix needs float32
            dtype = self.classifier.head.dtype
            encoded = Encoded(tokens.to(dtype), None if scales is None else scales.to(dtype))
            return self.classifier.head.evidence(encoded)

    def features(self, encoded: Evidence) -> Tensor:
        """Return the class token (and the fused scales), (rows, width)."""
        return encoded.parts

    def decide(self, encoded: Evidence, generator: torch.Generator | None = None) -> Tensor:
        """Return logits, (rows, n_outputs)."""
        head = self.classifier.head
        if generator is None:
            return head(encoded)
        return head(encoded, head.draw(1, len(encoded.parts), generator, training=True))[0]

    def passes(self, encoded: Evidence, n_passes: int, generator: torch.Generator) -> Tensor:
        """Return logits of passes with dropout, (n_passes, rows, n_outputs)."""
        head = self.classifier.head
        return head(encoded, head.draw(n_passes, 1, generator))

    def rollout(self, batch: Batch) -> Tensor:
        """Return the attention rollout of every slice, (rows, row, column) of patches, in [0, 1]."""
        return self.classifier.rollout(batch.image)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return self.classifier.param_groups(weight_decay, layer_decay)


# ------------------------------------------------------------------ pretraining


class Decoder(nn.Module):
    """Draws hidden patches from the tokens of the seen ones."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, n_pixels = config.decoder_dim, config.in_channels * config.patch_size[0] * config.patch_size[1]
        self.embed = nn.Linear(config.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.decoder_num_heads, 4 * dim, qkv_bias=True) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, n_pixels)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        rows, columns = (sincos_table(n, dim // 2) for n in config.grid)
        table = torch.cat([rows[:, None].expand(-1, len(columns), -1), columns.expand(len(rows), -1, -1)], dim=2)
        self.register_buffer("positions", table.flatten(0, 1)[None], persistent=False)  # (1, patch, dim)

    def forward(self, tokens: Tensor, kept: Tensor, hidden: Tensor) -> Tensor:
        """Return the hidden patches, (batch, n_hidden, pixel).

        Parameters
        ----------
        tokens : tensor (batch, 1 + n_kept, embed_dim)
        kept, hidden : int64 tensor (batch, n_kept), (batch, n_hidden)
            Numbers of the patches.
        """
        seen = self.embed(tokens)
        places = self.positions.to(seen.dtype)[0]
        x = torch.cat([seen[:, :1], seen[:, 1:] + places[kept], self.mask_token + places[hidden]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.norm(x[:, -hidden.shape[1] :]))


def cut(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Return the pixels of every patch, (batch, patch, channel * row * column), row by row of the grid."""
    return F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)


class Model(nn.Module):
    """The family `multiscale_vit`: masked-image pretraining of the encoder.

    Parameters
    ----------
    config : Config
    regions : Regions, optional
        Unused: slices have no regions.

    Attributes
    ----------
    embed_dim : int
        Width of what `embed` returns.
    """

    def __init__(self, config: Config, regions: Regions | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        n_scales = sum(i < config.depth for i in config.scales)
        self.embed_dim = config.embed_dim * max(n_scales, 1)

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return the mean squared error of hidden patches, each z-scored, and the share of variance explained.

        Everything random is drawn from `generator`, which must live on the device of `batch`.
        """
        images, kept, hidden = self.prepare(batch.image, generator)
        drawn = self.decoder(self.encoder(images, kept, generator).tokens, kept, hidden)
        with torch.autocast(images.device.type, enabled=False):
            pixels = cut(images, self.config.patch_size)
            pixels = pixels.gather(1, hidden[:, :, None].expand(-1, -1, pixels.shape[2]))
            variance, mean = torch.var_mean(pixels, dim=2, correction=0, keepdim=True)
            wanted = (pixels - mean) / (variance + PATCH_EPS).sqrt()
            loss = F.mse_loss(drawn.to(wanted.dtype), wanted)
        explained = 1 - loss.detach() / wanted.square().mean().clamp(min=PATCH_EPS)
        return {"loss": loss, "explained": explained}

    @torch.compiler.disable  # drawing from a generator cannot be compiled, what follows can
    def prepare(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return augmented slices, and the numbers of their seen and of their hidden patches."""
        config = self.config
        images = image.augment(standardize(images, config), config.flip, config.crop_area, generator)
        numbers = chance.rand((len(images), config.n_patches), generator)
        n_kept = max(1, round(config.n_patches * (1 - config.mask_ratio)))
        order = numbers.argsort(1)
        return images, order[:, :n_kept], order[:, n_kept:]

    def embed(self, batch: Batch) -> Tensor:
        """Return the mean patch tokens of all scales, (batch, embed_dim)."""
        return embed(self.encoder, batch)

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the patches' tokens (batch, patch, embed_dim), row by row of the grid; all have data."""
        tokens = self.encoder(standardize(batch.image, self.config)).tokens[:, 1:]
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return what `embed` reads: ``embedder`` (patches, class token, positions) and ``transformer``."""
        found: dict[str, list[nn.Parameter]] = {"embedder": [], "transformer": []}
        for name, parameter in self.encoder.named_parameters():
            found["transformer" if name.startswith(("blocks.", "norm.")) else "embedder"].append(parameter)
        return found

    def classifier(self, n_outputs: int, drop_rate: float | None = None) -> SliceNetwork:
        """Return this encoder with the covariance head; `drop_rate` stands for ``head_drop_rate``."""
        config = self.config if drop_rate is None else self.config.model_copy(update={"head_drop_rate": drop_rate})
        network = SliceNetwork(config, n_outputs)
        network.classifier.encoder = self.encoder
        return network

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return param_groups(self, weight_decay, layer_decay)


def embed(encoder: Encoder, batch: Batch) -> Tensor:
    """Return the scales of every slice, (batch, scale * embed_dim); the class token where no block is a scale."""
    encoded = encoder(standardize(batch.image, encoder.config))
    return encoded.tokens[:, 0] if encoded.scales is None else encoded.scales


def param_groups(module: Model | Classifier, weight_decay: float, layer_decay: float) -> list[dict]:
    """Group parameters by depth, and by whether they decay: not norms, biases, tokens and positions."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        decays = parameter.dim() > 1 and not name.endswith(NO_DECAY)
        above = _depth_above(name, module.config.depth)
        groups.setdefault((layer_decay**above, float(decays)), []).append(parameter)
    return [
        {"params": params, "lr_scale": lr, "weight_decay": decay * weight_decay, "weight_decay_scale": decay}
        for (lr, decay), params in groups.items()
    ]


def _depth_above(name: str, depth: int) -> int:
    """Return how many layers lie above a parameter; decoder, head and final norm are the last one."""
    parts = name.split(".")
    if parts[0] != "encoder" or parts[1] == "norm":
        return 0
    return depth - int(parts[2]) if parts[1] == "blocks" else depth + 1
