"""NeuroCLR: contrast of people within a region, and what a network makes of all regions together.

The released encoder reads one region's 128 samples as one vector; positive pairs are a series and its augmented
copy, negatives the same region of other people. Here that is the variant ``published``. It is open to shortcuts
(site, repetition time, motion), knows no time but the index of a sample, and never sees two regions together.

The variant ``native`` keeps the idea and mends that: patches of seconds rather than samples, attention over time
without absolute positions, attention over regions, two clips of a recording as positives, negatives from the same
site, hidden regions to be reconstructed, and connectivity in the tangent space beside the pooled regions.

Shapes follow the axes (row, patch, region, width); regions lie before time where a region is read by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from neuropipe.data import augment_series
from neuropipe.data.augment import random_ranks
from neuropipe.data.augment_series import Policy
from neuropipe.data.batch import Batch
from neuropipe.errors import ConfigError, InputError
from neuropipe.models.base import ClipSpec, ModelConfig
from neuropipe.models.layers import Block, ProjectionHead, dropout
from neuropipe.models.network import LinearNetwork, Network
from neuropipe.models.resnet1d import ResNet1D
from neuropipe.models.together import gather, shared_count
from neuropipe.signals.regions import Regions

MOST_SIMILARITIES = 2**24  # numbers (64 MiB) that the contrast of one chunk of regions holds
SERIES_AT_ONCE = 2048  # series whose activations stay in a processor's cache
FAR = -1e9  # cosine over temperature of a pair that does not count


class Head(BaseModel):
    """The released classifier's ResNet; see `neuropipe.models.resnet1d.ResNet1D`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base_filters: int = Field(256, ge=1)
    """Channels after the first convolution."""
    kernel_size: int = Field(16, ge=1)
    """Taps of the convolutions."""
    stride: int = Field(2, ge=1)
    """Of the blocks that shorten."""
    groups: int = Field(32, ge=1)
    """Groups of channels of the convolutions."""
    n_block: int = Field(48, ge=1)
    """Blocks of two convolutions."""
    downsample_gap: int = Field(6, ge=1)
    """Blocks from one that shortens to the next."""
    increasefilter_gap: int = Field(12, ge=1)
    """Blocks from one that doubles the channels to the next."""
    use_bn: bool = True
    """Batch norms."""
    use_do: bool = True
    """Dropout."""
    drop_rate: float = Field(0.5, ge=0, lt=1)
    """Of the dropout in training."""


class Config(ModelConfig):
    """Sizes, input, contrast and what is put on top; `Config.published` is the release."""

    variant: Literal["native", "published"] = "native"
    """``native``: patches, time, regions and connectivity; ``published``: every region by itself, as one vector."""

    # Input
    n_samples: int = Field(128, ge=2)
    """Length of a training clip in samples of the data; of ``published`` the only length, and the width."""
    t_r: float = Field(2.0, gt=0)
    """Native: seconds from sample to sample inside the model; series of another repetition time are interpolated."""
    positives: Literal["clips", "copies"] = "clips"
    """Two clips of a recording are a pair, or, as released, one clip and its augmented copy."""
    augmentation: Policy = Policy()
    """What happens to the views (of ``copies``: to the second)."""
    normalize_input: bool = True
    """Published: divide every series by its length. Native series are z-scored in any case."""

    # Encoder
    patch_size: int = Field(8, ge=1)
    """Native: samples (of `t_r`) of one patch."""
    embed_dim: int = Field(64, ge=2)
    """Native: width of a token."""
    depth: int = Field(2, ge=1)
    """Transformer layers; a native one looks over time, then over regions."""
    num_heads: int = Field(4, ge=1)
    """Attention heads."""
    mlp_ratio: float = Field(2.0, gt=0)
    """Width inside the MLPs over that of a token."""
    drop_rate: float = Field(0.1, ge=0, lt=1)
    """Dropout in training."""
    pooling: Literal["flatten", "mean", "last"] = "flatten"
    """Published: how the tokens of a series become one vector; ``flatten`` is for the one token of the release."""
    n_queries: int = Field(4, ge=1)
    """Native: weighted means over regions in the embedding."""
    n_components: int = Field(64, ge=2)
    """Native: learned combinations of regions whose connectivity is in the embedding."""
    shrinkage: float = Field(0.1, gt=0, le=1)
    """Native: share of the identity in the components' correlation matrix before its logarithm."""
    feature: Literal["mean", "regions"] = "mean"
    """Published: `embed` returns the mean over regions, or every region's vector one after the other."""

    # Contrast
    head_hidden_dim: int = Field(128, ge=1)
    """Width inside the projection heads."""
    head_dim: int = Field(64, ge=1)
    """Width of the projections that are compared."""
    temperature: float = Field(0.2, gt=0)
    """Divides cosines."""
    symmetric: bool = True
    """Both views are anchors, and negatives come from both; else the first view's alone, as in the precursor."""
    decoupled: bool = False
    """Leave the positive out of the denominator, as the precursor's formula is printed."""
    negatives: Literal["site", "everyone"] = "site"
    """Whom a person is told from: people of the same dataset, site and repetition time, so that none of these helps;
    or, as released, everyone in the batch."""
    regions_per_step: int | None = Field(64, ge=2)
    """Native: regions drawn for a training step, to save time; null takes all of them."""
    mask_share: float = Field(0.25, ge=0, lt=1)
    """Native: share of a step's regions that are hidden and reconstructed from the others; 0 hides none."""
    mask_loss_weight: float = Field(1.0, gt=0)
    """Native: weight of the reconstruction (mean squared error in z-units)."""
    person_loss_weight: float = Field(1.0, gt=0)
    """Native: weight of the contrast of whole people beside that of regions."""

    # Networks for a task
    freeze_encoder: bool = False
    """Published: the classifier trains its head alone, as released. A recipe says it with finetune: freeze."""
    inputs_are_embeddings: bool = False
    """Published classifier: its input is features already, and the encoder is left out."""
    classifier_hidden_dim: int = Field(64, ge=1)
    """Native: width inside the head of a network for a task."""
    head: Head = Head()
    """Published: the head of a network for a task."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.width % self.num_heads:
            name = "n_samples" if self.variant == "published" else "embed_dim"
            raise ValueError(f"{name} {self.width} must be a multiple of num_heads {self.num_heads}")
        return self

    @classmethod
    def published(cls) -> Config:
        """Return the settings of the release; what its authors do not say (augmentation, temperature) is TF-C's."""
        return cls(
            variant="published",
            positives="copies",
            augmentation=Policy(scale=(1.0, 1.0), noise_band_hz=None, time_mask=0.0, frequency_mask_hz=0.0),
            num_heads=2,
            negatives="everyone",
            freeze_encoder=True,
        )

    @property
    def width(self) -> int:
        """Width of a token."""
        return self.n_samples if self.variant == "published" else self.embed_dim

    def reads(self) -> ClipSpec:
        """Two clips of a recording, or one that the loss copies."""
        clips = self.positives == "clips"
        return ClipSpec(n_samples=self.n_samples, n_views=2 if clips else 1, n_copies=1 if clips else 2)


# ------------------------------------------------------------------ contrast


def ntxent(
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    *,
    symmetric: bool = True,
    decoupled: bool = False,
    apart: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Return the NT-Xent loss of every region by itself, averaged over all anchors that have a negative.

    The anchors' similarities are one batch of matrices, (region, 2 person, 2 person); regions are taken in chunks
    that are computed again for the gradient, so that memory does not grow with their number.

    Parameters
    ----------
    z1, z2 : tensors (region, person, dim)
        Two views; their cosines are compared.
    temperature : float
    symmetric, decoupled : bool
        See `Config`.
    apart : bool tensor (person, person), optional
        Who is a negative of whom; default everyone else.
    counted : bool tensor (region, person), optional
        False where a person lacks the region.
    """
    n_regions, n_people, _ = z1.shape
    if apart is None:
        apart = ~torch.eye(n_people, dtype=torch.bool, device=z1.device)
    if counted is None:
        counted = torch.ones(z1.shape[:2], dtype=torch.bool, device=z1.device)
    per_region = (2 * n_people if symmetric else n_people) ** 2
    size = max(1, MOST_SIMILARITIES // per_region)
    total = torch.zeros(2, dtype=z1.dtype, device=z1.device)
    for part in range(0, n_regions, size):
        arguments = (z1[part : part + size], z2[part : part + size], counted[part : part + size], apart)
        settings = (temperature, symmetric, decoupled)
        with torch.autocast(z1.device.type, enabled=False):
            if size < n_regions:
                total = total + checkpoint(_contrast, *arguments, *settings, use_reentrant=False)
            else:
                total = total + _contrast(*arguments, *settings)
    return total[0] / total[1].clamp(min=1)


def _contrast(
    z1: Tensor, z2: Tensor, counted: Tensor, apart: Tensor, temperature: float, symmetric: bool, decoupled: bool
) -> Tensor:
    """Return the sum over anchors and how many there are, (2,); arguments as of `ntxent`."""
    z1, z2 = F.normalize(z1, dim=-1), F.normalize(z2, dim=-1)
    positive = (z1 * z2).sum(-1) / temperature  # (region, person)
    anchors = z1
    if symmetric:
        anchors, positive = torch.cat([z1, z2], dim=1), positive.repeat(1, 2)
        counted, apart = counted.repeat(1, 2), apart.repeat(2, 2)
    allowed = apart & counted[:, None, :]  # (region, anchor, other)
    others = torch.bmm(anchors, anchors.transpose(1, 2)) / temperature
    others = others.masked_fill(~allowed, FAR)
    if not decoupled:
        others = torch.cat([positive[:, :, None], others], dim=2)
    used = allowed.any(2) & counted
    losses = torch.where(used, others.logsumexp(2) - positive, 0)
    return torch.stack([losses.sum(), used.sum().to(losses.dtype)])


def strangers(batch: Batch, n_people: int, within_site: bool, generator: torch.Generator | None = None) -> Tensor:
    """Return who is a negative of whom over all processes, bool (person, person): never the same person."""

    def differ(values: Tensor) -> Tensor:
        values = gather(values[:n_people], generator)
        return values[:, None] != values

    apart = differ(batch.person)
    if within_site:
        apart &= ~(differ(batch.dataset) | differ(batch.site) | differ((1000 * batch.t_r).round()))
    return apart


# ------------------------------------------------------------------ input


def clean(series: Tensor, valid_time: Tensor, valid_region: Tensor) -> Tensor:
    """Return `series` (row, time, region) with zeros wherever it was not measured."""
    return series.masked_fill(~(valid_time[:, :, None] & valid_region[:, None, :]), 0)


def zscore(series: Tensor, valid_time: Tensor) -> Tensor:
    """Return cleaned `series` (row, time, region) with mean 0 and standard deviation 1 over valid samples.

    A constant region becomes 0.
    """
    weight = valid_time[:, :, None].to(series.dtype)
    n = weight.sum(1, keepdim=True).clamp(min=1)
    centred = (series - series.sum(1, keepdim=True) / n) * weight
    sd = (centred.square().sum(1, keepdim=True) / n).sqrt()
    return torch.where(sd > 1e-6, centred / sd.clamp(min=1e-6), 0)


def resample(
    series: Tensor, valid_time: Tensor, t_r: Tensor, target: float, beside: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return series (row, time, region) and their valid samples at `target` seconds, by linear interpolation.

    A new sample is valid where both its neighbours are. Nothing is filtered: series whose fluctuations are faster
    than half the new rate should have been low-passed, as the pipeline's are. `beside` are the repetition times of all
    rows that are to become as long, default `t_r`.
    """
    beside = t_r if beside is None else beside
    if ((beside - target).abs() < 1e-4).all():
        return series, valid_time
    last = series.shape[1] - 1
    n = int((last * beside.max() / target + 1e-4).floor()) + 1
    position = torch.arange(n, device=series.device) * target / t_r[:, None]  # in samples of the data
    position = torch.where((position - position.round()).abs() < 1e-4, position.round(), position)
    left = position.floor().clamp(max=last).long()
    right = position.ceil().clamp(max=last).long()
    share = (position - left).clamp(0, 1)[:, :, None].to(series.dtype)
    valid = valid_time.gather(1, left) & valid_time.gather(1, right) & (position <= last)
    columns = series.shape[2]
    before = series.gather(1, left[:, :, None].expand(-1, -1, columns))
    after = series.gather(1, right[:, :, None].expand(-1, -1, columns))
    return (before + share * (after - before)) * valid[:, :, None], valid


def prepare(batch: Batch, t_r: float) -> tuple[Tensor, Tensor]:
    """Return z-scored series (row, time, region) and their valid samples at `t_r` seconds."""
    series = clean(batch.series, batch.valid_time, batch.valid_region)
    beside = batch.t_r if batch.whole is None else batch.whole.t_r
    series, valid_time = resample(series, batch.valid_time, batch.t_r, t_r, beside)
    return zscore(series, valid_time), valid_time


def fixed_length(batch: Batch, n_samples: int) -> Tensor:
    """Return cleaned series (row, region, n_samples) for the released encoder, zeros where a clip is shorter.

    Raises
    ------
    InputError
        Something was measured beyond `n_samples`: the encoder knows no longer series.
    """
    if batch.valid_time[:, n_samples:].any():
        raise InputError(
            f"The published encoder reads exactly {n_samples} samples, found {batch.series.shape[1]}; cut clips of "
            f"that length, or use variant: native."
        )
    series = clean(batch.series, batch.valid_time, batch.valid_region)[:, :n_samples]
    return F.pad(series.transpose(1, 2), (0, n_samples - series.shape[1]))


# ------------------------------------------------------------------ the released encoder


class Encoded(NamedTuple):
    """What the released encoder makes of series."""

    h: Tensor  # (series, n_samples)
    z: Tensor  # (series, head_dim)


class SeriesEncoder(nn.Module):
    """The released encoder: a transformer whose tokens are whole series, and the projector.

    The modules are torch's, with the names of the release; they hold the weights, and the passes are written here.
    With one token there is one key, which softmax always gives the weight 1: attention is a linear map, whose two
    matrices are multiplied once. Of queries and keys nothing is ever used.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        dim, hidden = config.n_samples, round(config.n_samples * config.mlp_ratio)
        layer = nn.TransformerEncoderLayer(dim, config.num_heads, hidden, config.drop_rate, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        for parameter in self.transformer_encoder.parameters():  # torch copies one layer; draw each by itself
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.projector = nn.Sequential(
            nn.Linear(dim, config.head_hidden_dim),
            nn.BatchNorm1d(config.head_hidden_dim),
            nn.ReLU(),
            nn.Linear(config.head_hidden_dim, config.head_dim),
        )

    def normalise(self, x: Tensor) -> Tensor:
        """Divide (series, token, sample) by the length over samples, where the config asks for it; zeros stay."""
        return F.normalize(x, dim=-1, eps=1e-12) if self.config.normalize_input else x

    def layers(self, x: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Yield what comes out of every layer, for normalised `x` (series, token, sample)."""
        rate = self.config.drop_rate
        for layer in self.transformer_encoder.layers:
            x = layer.norm1(x + dropout(attend(layer.self_attn, x, rate, generator), rate, generator))
            hidden = dropout(F.relu(layer.linear1(x)), rate, generator)
            x = layer.norm2(x + dropout(layer.linear2(hidden), rate, generator))
            yield x

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map series (series, token, n_samples) to vectors h (series, n_samples)."""
        if x.shape[-1] != self.config.n_samples or (self.config.pooling == "flatten" and x.shape[1] != 1):
            raise InputError(
                f"Expected series (series, 1, {self.config.n_samples}), found {tuple(x.shape)}. Several channels need "
                "pooling: mean or last; another length needs another model."
            )
        if not torch.is_grad_enabled() and len(x) > SERIES_AT_ONCE:
            return torch.cat([self.encode(part, generator) for part in x.split(SERIES_AT_ONCE)])
        *_, last = self.layers(self.normalise(x), generator)
        if self.config.pooling == "mean":
            return last.mean(1)
        return last[:, -1]

    def regions(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map (row, region, n_samples) to vectors of the same shape, every region by itself."""
        return self.encode(x.reshape(-1, 1, x.shape[-1]), generator).view(x.shape)

    def forward(self, x: Tensor) -> Encoded:
        """Map series (series, 1, n_samples) to vectors and projections, without dropout."""
        h = self.encode(x)
        return Encoded(h, self.projector(h))


def attend(attention: nn.MultiheadAttention, x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Self-attention with torch's weights over (series, token, dim); see `SeriesEncoder`."""
    w_q, w_k, w_v = attention.in_proj_weight.chunk(3)
    b_q, b_k, b_v = attention.in_proj_bias.chunk(3)
    out = attention.out_proj
    one = x.shape[1] == 1
    if one and (generator is None or rate == 0):
        return F.linear(x, out.weight @ w_v, F.linear(b_v, out.weight, out.bias))

    def heads(weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    values = heads(w_v, b_v)  # (series, head, token, dim / head)
    if one:
        weights = dropout(torch.ones_like(values[..., :1]), rate, generator)
        mixed = weights * values
    else:
        scores = heads(w_q, b_q) @ heads(w_k, b_k).transpose(-2, -1) / values.shape[-1] ** 0.5
        mixed = dropout(scores.softmax(-1), rate, generator) @ values
    return out(mixed.transpose(1, 2).flatten(2))


class Decision(NamedTuple):
    """What the released classifier makes of people."""

    loss: Tensor | None
    logits: Tensor  # (row, n_outputs)
    hidden: Tensor  # (row, region, n_samples)


class Classifier(nn.Module):
    """The released classifier: every region encoded by itself, then a ResNet with the regions as channels.

    Parameters
    ----------
    config : Config
        Of the variant ``published``.
    n_regions, n_outputs : int
    encoder : SeriesEncoder, optional
        Taken over; default a new one.
    """

    def __init__(self, config: Config, n_regions: int, n_outputs: int, encoder: SeriesEncoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = SeriesEncoder(config) if encoder is None else encoder
        self.encoder.requires_grad_(not config.freeze_encoder)
        self.encoder.projector.requires_grad_(False)  # of no use here, but part of the release
        self.head = ResNet1D(n_regions, n_outputs, **config.head.model_dump(exclude={"drop_rate"}))

    def hidden(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode (row, region, n_samples); an encoder that is held still drops nothing and gets no gradient."""
        if self.config.inputs_are_embeddings:
            return x
        if any(parameter.requires_grad for parameter in self.encoder.transformer_encoder.parameters()):
            return self.encoder.regions(x, generator)
        with torch.no_grad():
            return self.encoder.regions(x)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Decision:
        """Map (row, region, n_samples) to logits, and with `labels` to a loss.

        Integers (row,) are classes, floats (row, n_outputs) are several yes or no, or, for one output, a number.
        """
        hidden = self.hidden(x)
        logits = self.head(hidden)
        if labels is None:
            return Decision(None, logits, hidden)
        if logits.shape[1] == 1:
            return Decision(F.mse_loss(logits[:, 0], labels.view(-1).to(logits.dtype)), logits, hidden)
        if labels.is_floating_point():
            return Decision(F.binary_cross_entropy_with_logits(logits, labels), logits, hidden)
        return Decision(F.cross_entropy(logits, labels), logits, hidden)


# ------------------------------------------------------------------ the native encoder


class MatrixLog(torch.autograd.Function):
    """Logarithm of symmetric positive definite matrices, with a gradient that stands equal eigenvalues.

    The gradient is that of Daleckii and Krein: divided differences of the logarithm in the eigenvectors' basis.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        """Map (..., n, n) to the same shape."""
        values, vectors = torch.linalg.eigh(matrices)
        ctx.save_for_backward(values, vectors)
        return vectors @ (values.log()[..., None] * vectors.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Map the gradient of the logarithm to that of the matrix."""
        values, vectors = ctx.saved_tensors
        a, b = values[..., :, None], values[..., None, :]
        close = (a - b).abs() <= 1e-4 * (a + b)
        quotient = (a.log() - b.log()) / torch.where(close, 1, a - b)
        quotient = torch.where(close, 2 / (a + b), quotient)
        inner = vectors.mT @ (gradient + gradient.mT) / 2 @ vectors
        return vectors @ (quotient * inner) @ vectors.mT


def tangent(series: Tensor, valid_time: Tensor, shrinkage: float) -> Tensor:
    """Return the correlation matrix of `series` (row, time, n), shrunk, in the tangent space at the identity.

    The entries are the logarithm's upper triangle, those off the diagonal times sqrt(2) so that distances are kept,
    (row, n * (n + 1) / 2).
    """
    with torch.autocast(series.device.type, enabled=False):
        scored = zscore(series.float(), valid_time)
        n_valid = valid_time.sum(1).clamp(min=1)[:, None, None]
        correlation = scored.mT @ scored / n_valid
        eye = torch.eye(scored.shape[2], device=series.device)
        log = MatrixLog.apply((1 - shrinkage) * correlation + shrinkage * eye)
    row, column = torch.triu_indices(*log.shape[1:], device=log.device)
    return log[:, row, column] * torch.where(row == column, 1.0, 2**0.5)


class Person(NamedTuple):
    """What the native encoder makes of clips."""

    tokens: Tensor  # (row, patch, region, embed_dim)
    regions: Tensor  # (row, region, embed_dim)
    whole: Tensor  # (row, n_features)


class PatchEncoder(nn.Module):
    """The native encoder: patches of every region, attention over time and over regions, connectivity.

    Positions enter by a short convolution over patches only: a clip that starts one patch later gives the same
    tokens, one place further.
    """

    def __init__(self, config: Config, n_regions: int) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = nn.Linear(config.patch_size, dim)
        self.positions = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)
        self.region_embed = nn.Parameter(0.02 * torch.randn(n_regions, dim))
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim)) if config.mask_share else None
        sizes = (dim, config.num_heads, round(dim * config.mlp_ratio))
        self.over_time, self.over_regions = (
            nn.ModuleList(Block(*sizes, drop_rate=config.drop_rate) for _ in range(config.depth)) for _ in range(2)
        )
        self.fingerprint = nn.Linear(n_regions, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Linear(dim, config.n_queries, bias=False)
        self.components = nn.Parameter(torch.randn(n_regions, config.n_components) / n_regions**0.5)
        n_connections = config.n_components * (config.n_components + 1) // 2
        self.n_features = config.n_queries * dim + n_connections

    def forward(
        self,
        series: Tensor,
        valid_time: Tensor,
        valid_region: Tensor,
        chosen: Tensor | None = None,
        hidden: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Person:
        """Encode clips.

        Parameters
        ----------
        series : tensor (row, time, all regions)
            Z-scored at `Config.t_r`, zero where nothing was measured.
        valid_time, valid_region : bool tensors (row, time), (row, all regions)
        chosen : int64 tensor (region,), optional
            Regions that make tokens; default all. Connectivity is always that of all.
        hidden : bool tensor (row, region), optional
            Chosen regions whose patches are replaced by the mask token.
        generator : torch.Generator, optional
            Draws what is dropped; without one nothing is.
        """
        if chosen is None:
            chosen = torch.arange(series.shape[2], device=series.device)
        present = patches(valid_time[:, :, None], self.config.patch_size)[:, :, 0].any(-1)  # (row, patch)
        there = valid_region[:, chosen]
        x = self.tokens(series[:, :, chosen], present, chosen, hidden)
        for time_block, region_block in zip(self.over_time, self.over_regions, strict=True):
            x = over_time(time_block, x, present, generator)
            x = over_regions(region_block, x, there, generator)
        visible = there if hidden is None else there & ~hidden
        pooled = (x * present[:, :, None, None]).sum(1) / present.sum(1).clamp(min=1)[:, None, None]
        regions = self.norm(pooled + self.fingerprint(self.connections(series, valid_time, chosen, hidden)))
        weights = self.queries(regions).masked_fill(~visible[:, :, None], FAR).softmax(1)
        means = torch.einsum("brq,brd->bqd", weights, regions).flatten(1)
        connectivity = tangent(series @ self.components, valid_time, self.config.shrinkage)
        return Person(x, regions, torch.cat([means, connectivity], dim=1))

    def tokens(self, series: Tensor, present: Tensor, chosen: Tensor, hidden: Tensor | None) -> Tensor:
        """Map chosen series (row, time, region) to (row, patch, region, embed_dim)."""
        x = self.patch_embed(patches(series, self.config.patch_size))
        if hidden is not None:
            x = torch.where(hidden[:, None, :, None], self.mask_token, x)
        x = x * present[:, :, None, None]
        n_rows, n_patches, n_regions, dim = x.shape
        by_region = x.permute(0, 2, 3, 1).reshape(-1, dim, n_patches)
        near = self.positions(by_region).view(n_rows, n_regions, dim, n_patches).permute(0, 3, 1, 2)
        return x + near + self.region_embed[chosen]

    def connections(self, series: Tensor, valid_time: Tensor, chosen: Tensor, hidden: Tensor | None) -> Tensor:
        """Return Fisher's z of the correlations of chosen regions with all, (row, region, all regions).

        A region with itself is 0, and so is everything of a hidden one.
        """
        n_valid = valid_time.sum(1).clamp(min=1)[:, None, None]
        z = torch.atanh((series[:, :, chosen].mT @ series / n_valid).float().clamp(-0.999, 0.999))
        z = z.masked_fill(chosen[:, None] == torch.arange(series.shape[2], device=series.device), 0)
        return z if hidden is None else z.masked_fill(hidden[:, :, None], 0)


def patches(x: Tensor, size: int) -> Tensor:
    """Cut (row, time, region) into (row, patch, region, size), with zeros (False) where time ends early."""
    short = -x.shape[1] % size
    if short:
        x = torch.cat([x, x.new_zeros(len(x), short, x.shape[2])], dim=1)
    return x.unflatten(1, (-1, size)).transpose(2, 3)


def over_time(block: Block, x: Tensor, present: Tensor, generator: torch.Generator | None) -> Tensor:
    """Let the patches of every region of `x` (row, patch, region, dim) look at each other."""
    n_regions = x.shape[2]
    by_region = x.transpose(1, 2).flatten(0, 1)  # (row * region, patch, dim)
    looked_at = _never_none(present).repeat_interleave(n_regions, 0)
    return block(by_region, looked_at, generator).unflatten(0, (-1, n_regions)).transpose(1, 2)


def over_regions(block: Block, x: Tensor, there: Tensor, generator: torch.Generator | None) -> Tensor:
    """Let the regions at every patch of `x` (row, patch, region, dim) look at each other."""
    looked_at = _never_none(there).repeat_interleave(x.shape[1], 0)
    return block(x.flatten(0, 1), looked_at, generator).unflatten(0, x.shape[:2])


def _never_none(attend: Tensor) -> Tensor:
    """Return `attend` (row, token), all True in rows that have nothing to look at: softmax needs something."""
    return attend | ~attend.any(1, keepdim=True)


# ------------------------------------------------------------------ the model


class Model(nn.Module):
    """The family `neuroclr`.

    Parameters
    ----------
    config : Config
    regions : Regions
        Of the series. The published encoder takes any.

    Attributes
    ----------
    embed_dim : int
        Width of what `embed` returns.
    """

    def __init__(self, config: Config, regions: Regions) -> None:
        super().__init__()
        self.config, self.n_regions = config, len(regions)
        if config.variant == "published":
            self.encoder: SeriesEncoder | PatchEncoder = SeriesEncoder(config)
            self.embed_dim = config.n_samples * (len(regions) if config.feature == "regions" else 1)
            return
        if config.mask_share and round(config.mask_share * self.n_chosen) < 1:
            raise ConfigError(f"mask_share {config.mask_share} hides none of {self.n_chosen} regions; use more, or 0.")
        self.encoder = PatchEncoder(config, len(regions))
        self.embed_dim = self.encoder.n_features
        sizes = (config.head_hidden_dim, config.head_dim)
        self.region_head = ProjectionHead(config.embed_dim, *sizes)
        self.person_norm = nn.LayerNorm(self.embed_dim)
        self.person_head = ProjectionHead(self.embed_dim, *sizes)
        self.decoder = nn.Linear(config.embed_dim, config.patch_size) if config.mask_share else None

    @property
    def n_chosen(self) -> int:
        """Regions of a training step."""
        return min(self.config.regions_per_step or self.n_regions, self.n_regions)

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return the training loss and its parts, detached except ``"loss"``; all draws are from `generator`."""
        if self.config.variant == "published":
            return self._published_loss(batch, generator)
        return self._native_loss(batch, generator)

    def _contrast(self, z: Tensor, batch: Batch, generator: torch.Generator, counted: Tensor | None = None) -> Tensor:
        """Compare projections (2 person, region, head_dim) of two views, over all processes."""
        z1, z2 = (gather(view, generator, dim=1) for view in z.float().transpose(0, 1).chunk(2, dim=1))
        within = self.config.negatives == "site"
        return ntxent(
            z1,
            z2,
            self.config.temperature,
            symmetric=self.config.symmetric,
            decoupled=self.config.decoupled,
            apart=strangers(batch, batch.n_people, within, generator),
            counted=None if counted is None else gather(counted, generator, dim=1),
        )

    def _views(self, series: Tensor, t_r: Tensor, generator: torch.Generator) -> Tensor:
        """Augment the rows of two clips, or return the rows and then their augmented copies."""
        changed = augment_series.apply(series, t_r, self.config.augmentation, generator)
        return changed if self.config.positives == "clips" else torch.cat([series, changed])

    def _twice(self, rows: Tensor) -> Tensor:
        """Repeat what is known of rows for their copies."""
        return rows if self.config.positives == "clips" else torch.cat([rows, rows])

    def _published_loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        series = fixed_length(batch, self.config.n_samples)  # (row, region, sample)
        series = self._views(series.mT, batch.t_r, generator)
        valid_time, valid_region = self._twice(batch.valid_time), self._twice(batch.valid_region)
        series = clean(series, F.pad(valid_time, (0, series.shape[1] - valid_time.shape[1])), valid_region)
        h = self.encoder.regions(series.mT, generator)[valid_region]  # the projector's batch norm sees no others
        projected = self.encoder.projector(h)
        z = projected.new_zeros(*valid_region.shape, projected.shape[1])
        z[valid_region] = projected
        loss = self._contrast(z, batch, generator, _in_both(valid_region))
        return {"loss": loss}

    def _native_loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        config = self.config
        series, valid_time = prepare(batch, config.t_r)
        target_t_r = torch.full_like(batch.t_r, config.t_r)
        series = self._views(series, target_t_r, generator)
        valid_time, valid_region = self._twice(valid_time), self._twice(batch.valid_region)
        series = zscore(clean(series, valid_time, valid_region), valid_time)
        order = torch.rand(self.n_regions, generator=generator, device=series.device).argsort()
        chosen = order[: self.n_chosen].sort().values  # the same for everyone
        hidden = self._hide(len(series) // 2, generator)
        found = self.encoder(series, valid_time, valid_region, chosen, hidden, generator)
        counted = valid_region[:, chosen] if hidden is None else valid_region[:, chosen] & ~hidden
        parts = {
            "region_loss": self._contrast(self.region_head(found.regions), batch, generator, _in_both(counted)),
            "person_loss": self._contrast(self.person_head(self.person_norm(found.whole))[:, None], batch, generator),
        }
        loss = parts["region_loss"] + config.person_loss_weight * parts["person_loss"]
        if hidden is not None:
            sought = valid_region[:, chosen] & hidden
            parts["mask_loss"] = self._reconstruction(found.tokens, series[:, :, chosen], valid_time, sought, generator)
            loss = loss + config.mask_loss_weight * parts["mask_loss"]
        return {"loss": loss} | {name: value.detach() for name, value in parts.items()}

    def _hide(self, n_people: int, generator: torch.Generator) -> Tensor | None:
        """Draw which of the chosen regions are hidden, bool (2 person, region): the same in both views."""
        if self.decoder is None:
            return None
        n_hidden = round(self.config.mask_share * self.n_chosen)
        return (random_ranks(n_people, self.n_chosen, generator) < n_hidden).repeat(2, 1)

    def _reconstruction(
        self, tokens: Tensor, series: Tensor, valid_time: Tensor, sought: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean squared error of the patches of regions that are `sought`, bool (row, region)."""
        size = self.config.patch_size
        wanted = patches(series, size)
        counts = patches(valid_time[:, :, None], size) & sought[:, None, :, None]  # (row, patch, region, sample)
        error = (self.decoder(tokens).float() - wanted).square() * counts
        return error.sum() / shared_count(counts.sum(), generator)

    def embed(self, batch: Batch) -> Tensor:
        """Return what is known of each clip, (row, embed_dim)."""
        if self.config.variant == "native":
            return self.encoder(*prepare(batch, self.config.t_r), batch.valid_region).whole
        h = self.encoder.regions(fixed_length(batch, self.config.n_samples))
        h = h.masked_fill(~batch.valid_region[:, :, None], 0)
        if self.config.feature == "regions":
            return h.flatten(1)
        return h.sum(1) / batch.valid_region.sum(1, keepdim=True).clamp(min=1)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return what `embed` reads: the ``encoder``, or ``embedder``, ``transformer`` and ``connectivity``."""
        if self.config.variant == "published":
            return {"encoder": list(self.encoder.transformer_encoder.parameters())}
        found: dict[str, list[nn.Parameter]] = {"embedder": [], "transformer": [], "connectivity": []}
        for name, parameter in self.encoder.named_parameters():
            if name.startswith(("over_time.", "over_regions.", "norm.", "queries.")):
                found["transformer"].append(parameter)
            elif name.startswith(("fingerprint.", "components")):
                found["connectivity"].append(parameter)
            elif name != "mask_token":
                found["embedder"].append(parameter)
        return found

    def classifier(self, n_outputs: int, drop_rate: float | None = None) -> Network:
        """Return the encoder with the variant's own head on top."""
        if self.config.variant == "published":
            return RegionNetwork(self.config, self.encoder, self.n_regions, n_outputs, drop_rate)
        return PersonNetwork(self, n_outputs, drop_rate)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return param_groups(self.named_parameters(), self.config, weight_decay, layer_decay)


def _in_both(counted: Tensor) -> Tensor:
    """Return which regions both views of a person have, (region, person), from (2 person, region)."""
    first, second = counted.chunk(2)
    return (first & second).mT


def param_groups(
    named: Iterable[tuple[str, nn.Parameter]], config: Config, weight_decay: float, layer_decay: float
) -> list[dict]:
    """Group trained parameters by depth, and by whether they decay; names start with ``encoder.`` or are a head's."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decays = parameter.dim() > 1 and not name.endswith("region_embed")
            key = (layer_decay ** (config.depth + 1 - _layer(name, config)), float(decays))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "lr_scale": lr, "weight_decay": decay * weight_decay, "weight_decay_scale": decay}
        for (lr, decay), params in groups.items()
    ]


def _layer(name: str, config: Config) -> int:
    """Return the layer of a parameter: 0 is the input, ``depth + 1`` the heads."""
    parts = name.split(".")
    for before, number in pairwise(parts):
        if parts[0] == "encoder" and before in ("layers", "over_time", "over_regions"):
            return int(number) + 1
    is_input = parts[0] == "encoder" and parts[1] in ("patch_embed", "positions", "region_embed", "mask_token")
    return 0 if is_input else config.depth + 1


# ------------------------------------------------------------------ networks for a task


class PersonNetwork(LinearNetwork):
    """The native encoder with a small MLP on its embedding."""

    def __init__(self, model: Model, n_outputs: int, drop_rate: float | None) -> None:
        config = model.config
        super().__init__(config.classifier_hidden_dim, n_outputs, drop_rate, norm=False)
        self.config, self.encoder = config, model.encoder.requires_grad_(True)
        if self.encoder.mask_token is not None:
            self.encoder.mask_token.requires_grad_(False)  # nothing is hidden here
        self.embedding_norm = nn.LayerNorm(model.embed_dim)
        self.hidden = nn.Linear(model.embed_dim, config.classifier_hidden_dim)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the hidden layer of the head, (row, classifier_hidden_dim)."""
        whole = self.encoder(*prepare(batch, self.config.t_r), batch.valid_region, generator=generator).whole
        return F.gelu(self.hidden(self.embedding_norm(whole)))

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return param_groups(self.named_parameters(), self.config, weight_decay, layer_decay)


class RegionNetwork(Network):
    """The released classifier as a network for a task."""

    last = "dense"

    def __init__(
        self, config: Config, encoder: SeriesEncoder, n_regions: int, n_outputs: int, drop_rate: float | None
    ) -> None:
        super().__init__()
        self.config = config
        self.classifier = Classifier(config, n_regions, n_outputs, encoder)
        self.drop_rate = config.head.drop_rate if drop_rate is None else drop_rate

    @property
    def deciding(self) -> nn.Module:
        """The residual network over regions."""
        return self.classifier.head

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return every region's vector, (row, region, n_samples), zeros where it is missing."""
        hidden = self.classifier.hidden(fixed_length(batch, self.config.n_samples), generator)
        return hidden.masked_fill(~batch.valid_region[:, :, None], 0)

    def features(self, encoded: Tensor) -> Tensor:
        """Return what the head's last layer reads, (row, channel)."""
        return self.classifier.head.features(encoded)

    def decide(self, encoded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map (row, region, n_samples) to (row, n_outputs)."""
        return self.classifier.head(encoded, lambda x: dropout(x, self.drop_rate, generator))

    def passes(self, encoded: Tensor, n_passes: int, generator: torch.Generator) -> Tensor:
        """Map (row, region, n_samples) to (n_passes, row, n_outputs)."""

        def drop(x: Tensor) -> Tensor:
            return x * dropout(torch.ones_like(x[:1]), self.drop_rate, generator)

        return torch.stack([self.classifier.head(encoded, drop) for _ in range(n_passes)])

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        return param_groups(self.classifier.named_parameters(), self.config, weight_decay, layer_decay)
