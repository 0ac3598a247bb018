"""The LSTM autoencoder of learning-from-brains (Thomas, Re, Poldrack, NeurIPS 2022).

Bidirectional LSTMs read a window, each from the state in which the one before ended, and leave one vector. From it
a chain of LSTMs writes the window again, one sample after the other. Within a sample the state runs through the
layers: a layer goes on from the state that the layer before has just reached, the first layer of the next sample
from that of the last. So the encoder's layers are whole LSTMs (cuDNN on a GPU), and the decoder is a loop.

In the release a decoder under teacher forcing sees at every sample the very sample that it has to write, and padding
is read like data. By default it sees the sample before, and padding is not read.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from neuropipe.data.batch import Batch, throughout
from neuropipe.models.embedder import (
    DecodingNetwork,
    Embedder,
    Reconstruction,
    Window,
    WindowConfig,
    decay_groups,
    draw_windows,
    mean_error,
    measured,
    parts_read,
    unembedder,
    whole,
)
from neuropipe.models.layers import dropout
from neuropipe.signals.regions import Regions

State = tuple[Tensor, Tensor]  # hidden and cell state, each (direction, batch, embed_dim)


class Config(WindowConfig):
    """Sizes and training of the autoencoder."""

    depth: int = Field(2, ge=1)
    """LSTM layers of the encoder, and of the decoder."""
    teacher_forcing: float = Field(0.5, ge=0, le=1)
    """Share of training batches in which the decoder reads the true series; in the others it reads its own."""
    teacher_shows: Literal["past", "same"] = "past"
    """What the decoder reads then: the sample before, or (release) the sample that it has to write."""
    padding: Literal["skipped", "read"] = "skipped"
    """Whether samples without data are left out, or (release) read and written as zeros at time 0."""

    @classmethod
    def published(cls) -> Config:
        """Return the settings of the released checkpoint and its training."""
        return cls(
            draw_longest=False,
            time_embedding="table",
            drop_rate=0.2,
            teacher_shows="same",
            padding="read",
        )


def together(window: Window) -> Window:
    """Return windows whose samples with data come first, in order; their times tell where something was left out."""
    order = window.attend.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    if throughout(order[:, 1:] > order[:, :-1]):
        return window  # no gaps
    row = torch.arange(len(order), device=order.device)[:, None]
    return window._replace(
        series=window.series[row, order],
        attend=window.attend.gather(1, order),
        time_s=window.time_s.gather(1, order),
    )


class Encoder(nn.Module):
    """A stack of bidirectional LSTMs, whose directions are averaged, and a pooled vector of their last states."""

    def __init__(self, dim: int, depth: int, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.lstms = nn.ModuleList(nn.LSTM(dim, dim, batch_first=True, bidirectional=True) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth - 1))
        self.pool = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read tokens (batch, time, dim), of each row the first `lengths` or all.

        Returns
        -------
        last : Tensor (batch, dim)
            The state in which the last layer ends, mean of its two directions.
        pooled : Tensor (batch, dim)
        """
        state: State | None = None
        for lstm, norm in zip(self.lstms, [*self.norms, None], strict=True):
            out, state = read(lstm, x, lengths, state)
            if norm is not None:
                x = dropout(norm(out + x), self.drop_rate, generator)
        last = state[0].mean(0)
        pooled = torch.tanh(self.pool(dropout(last, self.drop_rate, generator)))
        return last, dropout(pooled, self.drop_rate, generator)


def read(lstm: nn.LSTM, x: Tensor, lengths: Tensor | None, state: State | None) -> tuple[Tensor, State]:
    """Return an LSTM's output, mean of its two directions (batch, time, dim), and its last state."""
    if lengths is None:
        out, state = lstm(x, state)
    else:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, state = lstm(packed, state)
        out, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
    return out.unflatten(-1, (2, -1)).mean(2), state


class Decoder(nn.Module):
    """A chain of LSTM cells, layer by layer and sample by sample."""

    def __init__(self, dim: int, depth: int, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.cells = nn.ModuleList(nn.LSTMCell(dim, dim) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth - 1))
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        last: Tensor,
        pooled: Tensor,
        n_samples: int,
        shown: Tensor | None = None,
        forced: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Write `n_samples` tokens (batch, n_samples, dim).

        Parameters
        ----------
        last, pooled : Tensor (batch, dim)
            What the encoder left: the state to begin with, and the first thing to read.
        shown : Tensor (batch, n_samples, dim), optional
            What is read at each sample where `forced` is true.
        forced : bool Tensor (), optional
            Beside `shown`.
        """
        hidden, cell, token = last, torch.zeros_like(last), pooled
        written = []
        for i in range(n_samples):
            x = token if shown is None else torch.where(forced, shown[:, i], token)
            for layer, norm in zip(self.cells, [*self.norms, None], strict=True):
                hidden, cell = layer(x, (hidden, cell))
                if norm is not None:
                    x = dropout(norm(hidden + x), self.drop_rate, generator)
            token = self.out(dropout(hidden, self.drop_rate, generator))
            token = dropout(token, self.drop_rate, generator)
            written.append(token)
        return torch.stack(written, dim=1)


class Model(nn.Module):
    """Embedder, encoder, decoder, and the way back to the series.

    Parameters
    ----------
    config : Config
    regions : Regions
        What the columns of the series are.
    """

    unused = ("decoder.", "unembedder.")  # no feature depends on them

    def __init__(self, config: Config, regions: Regions) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.embed_dim
        self.embedder = Embedder(config, len(regions))
        self.encoder = Encoder(config.embed_dim, config.depth, config.drop_rate)
        self.decoder = Decoder(config.embed_dim, config.depth, config.drop_rate)
        self.unembedder = unembedder(config, len(regions))

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Return the mean absolute error of windows that are written from their vectors, and that of predicting zero.

        Everything random is drawn from `generator`, which must live on the device of `batch`.
        """
        window, lengths = self.prepare(batch, generator)
        forced = torch.rand((), generator=generator, device=generator.device) < self.config.teacher_forcing
        predicted = self.write(window, lengths, forced, generator)
        counted = measured(window.attend, window.region)
        loss = mean_error(predicted, window.series, counted)
        zero = mean_error(torch.zeros_like(predicted), window.series, counted)
        return {"loss": loss, "zero_error": zero, "weight": counted.expand_as(predicted).sum()}

    def reconstruct(self, batch: Batch, generator: torch.Generator) -> Reconstruction:
        """Return windows as they are written from their vectors alone, for judging them: nothing is dropped."""
        window, lengths = self.prepare(batch, generator)
        counted = measured(window.attend, window.region)
        return Reconstruction(self.write(window, lengths), window.series, counted, counted)

    def prepare(self, batch: Batch, generator: torch.Generator) -> tuple[Window, Tensor | None]:
        """Return windows of random lengths as the encoder reads them, and their lengths."""
        return self.readable(draw_windows(batch, self.config, generator))

    def readable(self, window: Window) -> tuple[Window, Tensor | None]:
        """Return windows as the encoder reads them, and their lengths; None where padding is read too."""
        if self.config.padding == "read":
            return window._replace(time_s=window.time_s * window.attend), None
        window = together(window)
        return window, window.attend.sum(1).clamp(min=1).cpu()  # packing needs them on the host

    def write(
        self,
        window: Window,
        lengths: Tensor | None,
        forced: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return windows (batch, time, region) as they are written again.

        Parameters
        ----------
        window, lengths
            From `readable`.
        forced : bool Tensor (), optional
            Whether the decoder reads the true series; without it, it reads its own.
        """
        tokens = self.embedder(window.series, window.time_s, generator)
        last, pooled = self.encoder(tokens, lengths, generator)
        shown = None if forced is None else self.shown(tokens, pooled)
        written = self.decoder(last, pooled, tokens.shape[1], shown, forced, generator)
        return self.unembedder(written, generator)

    def shown(self, tokens: Tensor, pooled: Tensor) -> Tensor:
        """Return what a decoder under teacher forcing reads at every sample, (batch, time, embed_dim)."""
        if self.config.teacher_shows == "same":
            return tokens
        return torch.cat([pooled[:, None], tokens[:, :-1]], dim=1)

    def features(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the pooled vector of every clip, (batch, embed_dim); nothing is dropped without a generator."""
        window, lengths = self.readable(whole(batch))
        tokens = self.embedder(window.series, window.time_s, generator)
        return self.encoder(tokens, lengths, generator)[1]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return what `embed` reads: ``embedder`` and ``encoder``."""
        return parts_read(self)

    def embed(self, batch: Batch) -> Tensor:
        """Return the pooled vector of every clip, (batch, embed_dim)."""
        return self.features(batch)

    def classifier(self, n_outputs: int, drop_rate: float | None = None) -> DecodingNetwork:
        """Return the network for a task; the decoder is left alone."""
        return DecodingNetwork(self, n_outputs, drop_rate, norm=self.config.padding == "skipped")

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the parameters by learning rate and decay: the embedder and the first layer learn slowest."""
        return decay_groups(self.named_parameters(), weight_decay, lambda name: layer_decay ** self._height(name))

    def _height(self, name: str) -> int:
        """Return how many layers lie between a parameter and the pooled vector; what comes after it has none."""
        part, *rest = name.split(".")
        if part == "embedder":
            return self.config.depth + 1
        if part == "encoder" and rest[0] in ("lstms", "norms"):
            return self.config.depth - int(rest[1])
        return 0
