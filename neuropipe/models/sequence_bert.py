"""Sequence-BERT: hidden time points of parcellated BOLD, and which pieces follow each other (learning-from-brains).

A window is cut in two parts with a small gap between; in half of the pairs the second part is taken from another
recording. A BERT over time points rebuilds hidden points from both sides and says which pairs are real.

Defaults are corrected where the release has a defect; `Config.published` reproduces the release.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data import chance
from neuropipe.data.batch import Batch, throughout
from neuropipe.data.chance import Piece
from neuropipe.models import embedder as shared
from neuropipe.models.embedder import (
    NO_TIME,
    DecodingNetwork,
    Embedder,
    Pooler,
    Positions,
    Reconstruction,
    Sequence,
    Window,
)
from neuropipe.models.layers import SequenceBlock, dropout
from neuropipe.signals.regions import Regions

SHORTEST = 4  # samples of both parts of a pair together


class Config(shared.TransformerConfig):
    """Sizes, masks and pairs; lengths are in samples of the data's repetition time."""

    n_samples: int = Field(55, ge=4)
    """Length of the longest window in samples, gap included."""
    min_samples: int = Field(15, ge=4)
    """Length of the shortest window in samples; every window of a batch draws its own length."""
    mask_share: float = Field(0.2, gt=0, lt=1)
    """Odds of a time point to be hidden."""
    at_least_one: bool = True
    """Hide the likeliest point where chance hides none; in the release such a batch has no loss."""
    gap: tuple[int, int] = (1, 4)
    """Fewest and most samples between the two parts; no gap where it would leave fewer than 4 samples."""
    negatives: Literal["same_source", "any"] = "same_source"
    """Where the wrong second part comes from: a recording of the same dataset and repetition time, or (release) any,
    which mostly is of another dataset and tells itself by that."""
    next_weight: float = Field(1.0, gt=0)
    """Weight of the loss on pairs against that on hidden points."""
    cls_place: Literal["first", "last"] = "first"
    """Where the class token stands. In the release it is put last, behind everything, while the pooled vector is read
    at the first place, which then is a sample, and hidden samples are read from the place of their successor."""
    feature: Literal["cls_avg", "cls", "mean"] = "cls_avg"
    """What `embed` returns: the pooled token of the first place (``cls``, release), the mean of the tokens of the
    samples, or the mean followed by the pooled token."""

    @classmethod
    def published(cls) -> Config:
        """Return the settings that reproduce the released model and its training."""
        return cls(
            draw_longest=False,
            time_embedding="table",
            attn_drop_rate=0.1,
            at_least_one=False,
            negatives="any",
            cls_place="last",
            feature="cls",
        )


class Decoder(nn.Module):
    """BERT without its vocabulary."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.drop_rate = config.drop_rate
        self.positions = Positions(config)
        self.parts = nn.Embedding(2, config.embed_dim)
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-12)
        self.blocks = nn.ModuleList(
            SequenceBlock(
                config.embed_dim,
                config.num_heads,
                round(config.embed_dim * config.mlp_ratio),
                norm_first=False,
                eps=1e-12,
                activation=config.activation,
                drop_rate=config.drop_rate,
                attn_drop_rate=config.attn_drop_rate,
            )
            for _ in range(config.depth)
        )
        shared.init_transformer(self)

    def forward(
        self, x: Tensor, attend: Tensor, part: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Map tokens (batch, token, embed_dim) to the same shape; `part` is 0 or 1, default 0 throughout."""
        x = self.positions(x) + (self.parts.weight[0] if part is None else self.parts(part))
        x = dropout(self.norm(x), self.drop_rate, generator)
        for block in self.blocks:
            x = block(x, attend, generator)
        return x


class Model(nn.Module):
    """The family `sequence_bert`.

    Parameters
    ----------
    config : Config
    regions : Regions
        Regions of the series; only their number matters.

    Attributes
    ----------
    embed_dim : int
        Width of what `embed` returns.
    """

    def __init__(self, config: Config, regions: Regions) -> None:
        super().__init__()
        self.config, n_regions = config, len(regions)
        row = (1, 1, n_regions)
        self.embedder = Embedder(config, n_regions, {"mask": self.mask_shape(n_regions), "cls": row, "sep": row})
        self.decoder = Decoder(config)
        self.pooler = Pooler(config.embed_dim, config.drop_rate)
        self.next_head = nn.Linear(config.embed_dim, 1)
        self.unembedder = shared.unembedder(config, n_regions)
        self.embed_dim = config.embed_dim * (2 if config.feature == "cls_avg" else 1)

    @property
    def unused(self) -> tuple[str, ...]:
        """Parts that no feature depends on."""
        never = ("unembedder.", "next_head.", "embedder.tokens.mask", "embedder.tokens.sep")
        return (*never, "pooler.") if self.config.feature == "mean" else never

    # What `network_bert` does in another way

    def mask_shape(self, n_regions: int) -> tuple[int, ...]:
        """Return the shape of what stands for hidden entries."""
        return (1, 1, n_regions)

    def draw_mask(self, attend: Tensor, region: Tensor, generator: torch.Generator) -> Tensor:
        """Return what is hidden, bool (batch, token, 1): whole time points among those attended."""
        return draw_hidden(attend, self.config.mask_share, self.config.at_least_one, generator)[:, :, None]

    def mask_values(self, joined: Joined) -> Tensor:
        """Return what stands for hidden entries, which `draw_mask` takes from measured places alone."""
        return self.embedder.tokens["mask"]

    # Pretraining

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return the loss and its parts, detached except ``"loss"``, and the error of predicting zero.

        Everything random is drawn from `generator`, which must live on the device of `batch`.
        """
        sequence, other = self.prepare(batch, generator)
        hidden = self.encode(sequence, generator)
        predicted = self.unembedder(hidden, generator)
        error = shared.mean_error(predicted, sequence.target, sequence.counted, generator)
        pairs = self.next_loss(hidden, other, generator)
        zero = shared.mean_error(torch.zeros_like(predicted), sequence.target, sequence.counted, generator)
        parts = {"reconstruction_loss": error, "next_loss": pairs, "zero_error": zero}
        loss = error + self.config.next_weight * pairs
        return {"loss": loss} | {name: value.detach() for name, value in parts.items()}

    def reconstruct(self, batch: Batch, generator: torch.Generator) -> Reconstruction:
        """Return predictions of hidden entries, for judging them: nothing is dropped."""
        sequence, _ = self.prepare(batch, generator)
        predicted = self.unembedder(self.encode(sequence))
        told = sequence.visible & ~sequence.counted
        return Reconstruction(predicted, sequence.target, sequence.counted, told)

    @torch.compiler.disable  # drawing from a generator cannot be compiled, what follows can
    def prepare(self, batch: Batch, generator: torch.Generator) -> tuple[Sequence, Tensor]:
        """Return pairs with hidden entries, and bool (batch,): whose second part is another recording's."""
        everyone = batch if batch.whole is None else batch.whole  # a partner may be in another piece
        window, pairs = shared.whole(everyone), draw_pairs(everyone, self.config, generator)
        own = torch.arange(len(everyone), device=batch.device)
        own = own[generator.mine] if isinstance(generator, Piece) else own
        joined = join(window, pairs, self.lead, own)
        hidden = self.draw_mask(joined.attend, window.region[own] | window.region[pairs.partner[own]], generator)
        return self.sequence(joined, hidden), pairs.other[own]

    @property
    def lead(self) -> int:
        """Places before the first part: one where the class token stands first."""
        return int(self.config.cls_place == "first")

    def sequence(self, joined: Joined, hidden: Tensor) -> Sequence:
        """Return joined pairs with the special tokens in place and the entries `hidden` (broadcast) replaced.

        ``visible`` still holds what is hidden. Every copy of the series counts here: it takes longer than all else.
        """
        kinds, row = joined.place_of, torch.arange(len(hidden), device=hidden.device)
        between, end = ((kinds == kind).int().argmax(1) for kind in (SEPARATOR, END))
        cls = torch.zeros_like(end) if self.lead else end + 1
        # lerp by 0 or 1 is exact, and several times as fast as torch.where where whole samples are replaced
        tokens = torch.lerp(joined.series, self.mask_values(joined), hidden.to(joined.series.dtype))
        attend, time_s = joined.attend.clone(), joined.time_s.clone()
        for place, name in ((between, "sep"), (end, "sep"), (cls, "cls")):
            tokens[row, place] = self.embedder.tokens[name][0].to(tokens.dtype)
            attend[row, place], time_s[row, place] = True, NO_TIME
        late = (lambda x: x) if self.lead else after_one  # in the release outputs are read one place late
        measured = joined.attend[:, :, None] & joined.region
        return Sequence(
            tokens=tokens,
            time_s=time_s,
            attend=attend,
            target=late(joined.series),
            counted=late(both(hidden, measured)).expand_as(tokens),
            visible=late(measured).expand_as(tokens),
            part=late((kinds >= SECOND).long()),
        )

    def encode(self, sequence: Sequence, generator: torch.Generator | None = None) -> Tensor:
        """Return the tokens (batch, token, embed_dim) after the last block."""
        x = self.embedder(sequence.tokens, sequence.time_s, generator)
        return self.decoder(x, sequence.attend, sequence.part, generator)

    def next_loss(self, hidden: Tensor, other: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the cross entropy of telling which second parts are another recording's, bool (batch,)."""
        logits = self.next_head(self.pooler(self.pooled_token(hidden), generator))[:, 0]
        return F.binary_cross_entropy_with_logits(logits, other.to(logits.dtype))

    def pooled_token(self, hidden: Tensor) -> Tensor:
        """Return the token of the first place (batch, embed_dim): the class token where it stands first."""
        return hidden[:, 0]

    # Features

    def features(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return what the model knows of each clip, (batch, embed_dim); nothing is dropped without a generator."""
        sequence = shared.with_cls(shared.whole(batch), self.embedder.tokens["cls"], self.config.cls_place == "first")
        hidden = self.encode(sequence, generator)
        found = []
        if self.config.feature != "cls":
            found.append(shared.mean_attended(hidden, sequence.attend & (sequence.time_s != NO_TIME)))
        if self.config.feature != "mean":
            found.append(self.pooler(self.pooled_token(hidden), generator))
        return torch.cat(found, dim=1)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return what `embed` reads: ``embedder``, ``decoder`` and ``pooler``."""
        return shared.parts_read(self)

    def embed(self, batch: Batch) -> Tensor:
        """Return the features of each clip, (batch, embed_dim)."""
        return self.features(batch)

    def classifier(self, n_outputs: int, drop_rate: float | None = None) -> DecodingNetwork:
        """Return this model with one linear layer on its features."""
        return DecodingNetwork(self, n_outputs, drop_rate, norm=self.config.feature != "cls")

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the trained parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        depth = self.config.depth
        named = self.named_parameters()
        return shared.decay_groups(named, weight_decay, lambda name: shared.layer_scale_of(name, depth, layer_decay))


# ------------------------------------------------------------------ pairs

NOWHERE, FIRST, SEPARATOR, SECOND, END = range(5)  # what a place of a joined pair holds


class Pairs(NamedTuple):
    """How windows are cut in two and joined; one entry per row of a batch."""

    n_first: Tensor  # samples of the first part, which begins at 0
    start_second: Tensor  # first sample of the second part
    n_second: Tensor  # samples of the second part
    partner: Tensor  # the row whose second part follows; the row itself in a real pair
    other: Tensor  # bool, whether that is another row


class Joined(NamedTuple):
    """First part, separator, second part, separator, padding; one more place, for the class token."""

    series: Tensor  # (batch, place, region), zero where nothing was measured
    attend: Tensor  # bool (batch, place), samples that were measured
    time_s: Tensor  # (batch, place), from 0 in each part; `NO_TIME` at separators
    region: Tensor  # bool (batch, place, region), regions that the recording at this place has; (1, 1, 1) where all do
    place_of: Tensor  # int64 (batch, place): NOWHERE, FIRST, SEPARATOR, SECOND or END
    order: Tensor  # int64 (batch, place), samples counted from 0 over both parts


def draw_pairs(batch: Batch, config: Config, generator: torch.Generator) -> Pairs:
    """Draw lengths, gaps, and whose second part follows."""
    device, n = batch.device, len(batch)
    length = torch.randint(*config.lengths, (n,), generator=generator, device=device)
    length = torch.minimum(length, shared.after_last(batch.valid_time))
    fewest, most = config.gap
    gap = torch.randint(fewest, most + 1, (n,), generator=generator, device=device)
    gap = gap * (gap <= length - SHORTEST)
    n_first = (length - gap) // 2
    own = torch.arange(n, device=device)
    partner = draw_partner(batch, config.negatives, generator)
    other = (torch.rand(n, generator=generator, device=device) >= 0.5) & (partner != own)
    return Pairs(n_first, n_first + gap, length - gap - n_first, torch.where(other, partner, own), other)


def draw_partner(batch: Batch, negatives: Literal["same_source", "any"], generator: torch.Generator) -> Tensor:
    """Return another row for each row of a batch (int64), all with equal odds; the row itself where there is none."""
    n = len(batch)
    allowed = ~torch.eye(n, dtype=torch.bool, device=batch.device)
    if negatives == "same_source":
        alike = (batch.t_r[:, None] - batch.t_r).abs() < 1e-4  # s
        allowed &= alike & (batch.dataset[:, None] == batch.dataset)
    draw = torch.rand(n, n, generator=generator, device=batch.device)
    best = torch.where(allowed, draw, -1.0).argmax(1)
    return torch.where(allowed.any(1), best, torch.arange(n, device=batch.device))


def join(window: Window, pairs: Pairs, lead: int = 0, rows: Tensor | None = None) -> Joined:
    """Put first and second parts together, with a separator's place behind both, behind `lead` places of nothing.

    `rows` (int64) are the pairs that are wanted, default all.
    """
    series, valid, time_s, region = window
    n, n_samples = valid.shape
    place = torch.arange(n_samples + 3, device=series.device) - lead
    own = (torch.arange(n, device=series.device) if rows is None else rows)[:, None]
    partner = pairs.partner[own]
    first, second = pairs.n_first[own], pairs.n_second[partner]
    end = first + second + 1
    place_of = torch.where(place < first, FIRST, torch.where(place < end, SECOND, NOWHERE))
    place_of = torch.where(place == first, SEPARATOR, torch.where(place == end, END, place_of))
    place_of = place_of.masked_fill(place < 0, NOWHERE)
    in_second = place_of == SECOND
    row = torch.where(in_second, partner, own)
    within = torch.where(in_second, place - first - 1, place).clamp(0, n_samples - 1)  # sample of its own part
    start = torch.where(in_second, pairs.start_second[partner], 0)
    column = (start + within).clamp(max=n_samples - 1)
    held = (place_of == FIRST) | in_second
    attend = held & valid[row, column]
    separator = (place_of == SEPARATOR) | (place_of == END)
    return Joined(
        series=gathered(series, row, column, attend),
        attend=attend,
        time_s=(time_s[row, within] * held).masked_fill(separator, NO_TIME),
        region=region.new_ones(1, 1, 1) if throughout(region) else region[row],
        place_of=place_of,
        order=(place - (place > first).long()).clamp(0, n_samples - 1),
    )


def gathered(series: Tensor, row: Tensor, column: Tensor, held: Tensor) -> Tensor:
    """Return ``series[row, column]`` (batch, place, region), zero where `held` (batch, place) is False.

    Every place is the weighted sum of one sample, which torch gathers and weighs in one pass over the memory.
    """
    samples, place = series.flatten(0, 1), row * series.shape[1] + column
    weight = held.to(series.dtype).view(-1, 1)
    return F.embedding_bag(place.view(-1, 1), samples, per_sample_weights=weight, mode="sum").view(*place.shape, -1)


def after_one(x: Tensor) -> Tensor:
    """Return `x` (batch, place, ...) one place later, zeros before it."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def both(first: Tensor, second: Tensor) -> Tensor:
    """Return ``first & second`` of bool tensors that broadcast; as bytes torch takes a tenth of the time."""
    return (first.view(torch.uint8) & second.view(torch.uint8)).view(torch.bool)


def draw_hidden(allowed: Tensor, share: float, at_least_one: bool, generator: torch.Generator) -> Tensor:
    """Return bool of the shape of `allowed` (batch, n): each allowed entry with odds `share`.

    With `at_least_one` the entry of the largest draw is among them where chance took none.
    """
    draw = chance.rand(allowed.shape, generator).masked_fill(~allowed, -1)
    hidden = draw >= 1 - share
    if at_least_one:
        hidden |= draw.argmax(1)[:, None] == torch.arange(allowed.shape[1], device=allowed.device)
    return hidden & allowed
