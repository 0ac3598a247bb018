"""CSM: a causal transformer that predicts the next point of parcellated BOLD (learning-from-brains).

A GPT-2 over time points. The release hides one random point of a window and cuts what follows, so that one
point in thirty is learned from; by default every point of a window is predicted from those before it.

Defaults are corrected where the release has a defect; `Config.published` reproduces the release.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data import chance
from neuropipe.data.batch import Batch
from neuropipe.models import embedder as shared
from neuropipe.models.embedder import DecodingNetwork, Embedder, Pooler, Positions, Reconstruction, Sequence, Window
from neuropipe.models.layers import SequenceBlock, dropout
from neuropipe.signals.regions import Regions


class Config(shared.TransformerConfig):
    """Sizes, objective and features; lengths are in samples of the data's repetition time."""

    objective: Literal["dense", "single"] = "dense"
    """``dense``: every sample of a window is predicted from those before it; ``single`` (release): one random
    sample is hidden behind a token, what follows is cut, and only that sample is learned from."""
    feature: Literal["mean", "cls"] = "mean"
    """What `embed` returns: the mean of the tokens of a window, or (release) the pooled class token behind them,
    which pretraining does not train."""

    @classmethod
    def published(cls) -> Config:
        """Return the settings that reproduce the released model and its training."""
        return cls(
            draw_longest=False,
            time_embedding="table",
            attn_drop_rate=0.1,
            objective="single",
            feature="cls",
        )


class Decoder(nn.Module):
    """GPT-2 without its vocabulary."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.drop_rate = config.drop_rate
        self.positions = Positions(config)
        self.blocks = nn.ModuleList(
            SequenceBlock(
                config.embed_dim,
                config.num_heads,
                round(config.embed_dim * config.mlp_ratio),
                norm_first=True,
                eps=1e-5,
                activation=config.activation,
                drop_rate=config.drop_rate,
                attn_drop_rate=config.attn_drop_rate,
            )
            for _ in range(config.depth)
        )
        self.last_norm = nn.LayerNorm(config.embed_dim, eps=1e-5)
        shared.init_transformer(self)

    def forward(self, x: Tensor, attend: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map tokens (batch, token, embed_dim) to the same shape; nobody sees what comes later or is not attended."""
        x = dropout(self.positions(x), self.drop_rate, generator)
        n = attend.shape[1]
        earlier = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        itself = torch.eye(n, dtype=torch.bool, device=x.device)  # so that nobody is left with nothing to look at
        looks = (attend[:, None, :] & earlier) | itself  # (batch, query, key)
        for block in self.blocks:
            x = block(x, looks, generator)
        return self.last_norm(x)


class Model(nn.Module):
    """The family `csm`.

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
        needed = {"mask": config.objective == "single", "cls": config.feature == "cls"}
        tokens = {name: (1, 1, n_regions) for name, is_needed in needed.items() if is_needed}
        self.embedder = Embedder(config, n_regions, tokens)
        self.decoder = Decoder(config)
        self.unembedder = shared.unembedder(config, n_regions)
        self.pooler = Pooler(config.embed_dim, config.drop_rate) if needed["cls"] else None
        self.embed_dim = config.embed_dim
        if self.pooler is not None:  # nothing in pretraining depends on them
            self.pooler.requires_grad_(False)
            self.embedder.tokens["cls"].requires_grad_(False)

    @property
    def unused(self) -> tuple[str, ...]:
        """Parts that no feature depends on."""
        return "unembedder.", "embedder.tokens.mask"

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return the mean absolute error of the predicted samples, and that of predicting zero.

        Everything random is drawn from `generator`, which must live on the device of `batch`.
        """
        found = self.predict(self.prepare(batch, generator), generator)
        loss = shared.mean_error(found.predicted, found.target, found.counted)
        zero = shared.mean_error(torch.zeros_like(found.target), found.target, found.counted)
        return {"loss": loss, "zero_error": zero, "weight": found.counted.expand_as(found.target).sum()}

    def reconstruct(self, batch: Batch, generator: torch.Generator) -> Reconstruction:
        """Return predictions of the samples that the objective asks for, for judging them: nothing is dropped."""
        return self.predict(self.prepare(batch, generator))

    @torch.compiler.disable  # drawing from a generator cannot be compiled, what follows can
    def prepare(self, batch: Batch, generator: torch.Generator) -> Sequence:
        """Return windows of random lengths, made ready for the objective."""
        window = shared.draw_windows(batch, self.config, generator)
        if self.config.objective == "dense":
            return every_sample(window)
        chosen = draw_sample(window.attend, generator)
        return one_sample(window, chosen, self.embedder.tokens["mask"])

    def encode(self, sequence: Sequence, generator: torch.Generator | None = None) -> Tensor:
        """Return the tokens (batch, token, embed_dim) after the last block."""
        x = self.embedder(sequence.tokens, sequence.time_s, generator)
        return self.decoder(x, sequence.attend, generator)

    def predict(self, sequence: Sequence, generator: torch.Generator | None = None) -> Reconstruction:
        """Return what the model makes of a prepared sequence."""
        hidden = self.encode(sequence, generator)
        if self.config.objective == "dense":
            hidden = F.pad(hidden[:, :-1], (0, 0, 1, 0))  # a sample is read from the place before it
        return Reconstruction(self.unembedder(hidden, generator), sequence.target, sequence.counted, sequence.visible)

    def features(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return what the model knows of each clip, (batch, embed_dim); nothing is dropped without a generator."""
        window = shared.whole(batch)
        if self.pooler is None:
            hidden = self.encode(every_sample(window), generator)
            return shared.mean_attended(hidden, window.attend)
        sequence = shared.with_cls(window, self.embedder.tokens["cls"], first=False)
        return self.pooler(self.pooled_token(self.encode(sequence, generator), sequence.attend), generator)

    def pooled_token(self, hidden: Tensor, attend: Tensor) -> Tensor:
        """Return the last attended token (batch, embed_dim) of (batch, token, embed_dim)."""
        last = shared.after_last(attend) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return what `embed` reads: ``embedder``, ``decoder`` and, with the class token, ``pooler``."""
        return shared.parts_read(self)

    def embed(self, batch: Batch) -> Tensor:
        """Return the features of each clip, (batch, embed_dim)."""
        return self.features(batch)

    def classifier(self, n_outputs: int, drop_rate: float | None = None) -> DecodingNetwork:
        """Return this model with one linear layer on its features."""
        return DecodingNetwork(self, n_outputs, drop_rate, norm=self.pooler is None)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the trained parameters by learning-rate and weight-decay multiplier; see `neuropipe.train.optim`."""
        depth = self.config.depth
        named = self.named_parameters()
        return shared.decay_groups(named, weight_decay, lambda name: shared.layer_scale_of(name, depth, layer_decay))


# ------------------------------------------------------------------ objectives


def every_sample(window: Window) -> Sequence:
    """Ask for every sample whose predecessor was measured."""
    series, attend, time_s, region = window
    follows = F.pad(attend[:, 1:] & attend[:, :-1], (1, 0))
    counted, visible = shared.measured(follows, region), shared.measured(attend, region)
    return Sequence(series, time_s, attend, series, counted, visible)


def one_sample(window: Window, chosen: Tensor, mask: Tensor) -> Sequence:
    """Hide the sample `chosen` (batch,) behind the token `mask`, cut what follows, and ask for it.

    A window of a single sample has nothing to be predicted from and is not asked.
    """
    series, attend, time_s, region = window
    position = torch.arange(attend.shape[1], device=series.device)
    here, before = position == chosen[:, None], position < chosen[:, None]
    asked = here & attend & (attend.sum(1) > 1)[:, None]
    tokens = torch.where(here[:, :, None], mask, series * before[:, :, None])
    counted, visible = shared.measured(asked, region), shared.measured(attend & before, region)
    return Sequence(tokens, time_s, attend & (here | before), series, counted, visible)


def draw_sample(attend: Tensor, generator: torch.Generator) -> Tensor:
    """Return one attended sample (batch,) of each row of `attend` (batch, time), never the first of them."""
    n = attend.sum(1)
    draw = chance.rand(attend.shape[:1], generator)
    rank = 1 + (draw * (n - 1)).long().clamp(max=(n - 2).clamp(min=0))
    return ((attend.cumsum(1) == (rank + 1).clamp(max=n)[:, None]) & attend).int().argmax(1)
