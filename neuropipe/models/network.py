"""A network for one task: what encodes is a family's, what decides is put on top.

A family may bring its own (`Model.classifier`); any other gets a linear layer on its embedding. Encoder and
decision are apart, so that stochastic passes run the encoder once.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuropipe.data.batch import Batch
from neuropipe.models.base import Spec
from neuropipe.models.layers import dropout

DROP_RATE = 0.1  # of a linear layer's input, where neither the recipe nor the family says another


class Network(nn.Module, ABC):
    """What is trained for one task: log odds of the positive class, or a scaled number, per row of a batch.

    Nothing is dropped without a generator.
    """

    @abstractmethod
    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Any:
        """Return what all stochastic passes share."""

    @abstractmethod
    def features(self, encoded: Any) -> Tensor:
        """Return what is known of each row before the decision, (rows, n_features)."""

    @abstractmethod
    def decide(self, encoded: Any, generator: torch.Generator | None = None) -> Tensor:
        """Return (rows, n_outputs); with a generator, dropout as in training."""

    @abstractmethod
    def passes(self, encoded: Any, n_passes: int, generator: torch.Generator) -> Tensor:
        """Return (n_passes, rows, n_outputs), each pass with dropout of its own.

        All rows of a pass meet the same mask: a row's result does not depend on what else is in the batch.
        """

    @abstractmethod
    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return all parameters that are trained; see `neuropipe.train.optim`."""

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Map a batch to (rows, n_outputs)."""
        return self.decide(self.encode(batch, generator), generator)


class LinearNetwork(Network):
    """An encoder with one linear layer on its features.

    Parameters
    ----------
    n_features, n_outputs : int
        Width of what `encode` returns, and of the result.
    drop_rate : float, optional
        Dropout on the features; default `DROP_RATE`.
    norm : bool
        Layer norm before the linear layer, for features of any scale.
    """

    def __init__(self, n_features: int, n_outputs: int, drop_rate: float | None = None, norm: bool = True) -> None:
        super().__init__()
        self.drop_rate = DROP_RATE if drop_rate is None else drop_rate
        self.norm = nn.LayerNorm(n_features) if norm else nn.Identity()
        self.fc = nn.Linear(n_features, n_outputs)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def features(self, encoded: Tensor) -> Tensor:
        """Return the encoder's features as they are."""
        return encoded

    def decide(self, encoded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map (rows, n_features) to (rows, n_outputs)."""
        return self.fc(dropout(self.norm(encoded), self.drop_rate, generator))

    def passes(self, encoded: Tensor, n_passes: int, generator: torch.Generator) -> Tensor:
        """Map (rows, n_features) to (n_passes, rows, n_outputs)."""
        masks = dropout(encoded.new_ones(n_passes, 1, encoded.shape[1]), self.drop_rate, generator)
        return self.fc(self.norm(encoded) * masks)

    def head_groups(self, weight_decay: float) -> list[dict]:
        """Return the parameters of norm and linear layer: the weights decay, the rest does not."""
        weights, rest = [self.fc.weight], [self.fc.bias, *self.norm.parameters()]
        return [
            {"params": params, "lr_scale": 1.0, "weight_decay": scale * weight_decay, "weight_decay_scale": scale}
            for params, scale in ((weights, 1.0), (rest, 0.0))
        ]


class OnEmbedding(LinearNetwork):
    """A linear layer on the embedding of any family; gradients go through `embed`."""

    def __init__(self, model: nn.Module, n_outputs: int, drop_rate: float | None = None) -> None:
        super().__init__(model.embed_dim, n_outputs, drop_rate)
        self.model = model.requires_grad_(True)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the embedding (rows, embed_dim), which is deterministic in every family."""
        return self.model.embed(batch)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the family's groups and those of the linear layer."""
        if hasattr(self.model, "param_groups"):
            own = self.model.param_groups(weight_decay, layer_decay)
        else:
            own = [{"params": list(self.model.parameters()), "lr_scale": layer_decay}]
            own[0] |= {"weight_decay": weight_decay, "weight_decay_scale": 1.0}
        return own + self.head_groups(weight_decay)


def on_top_of(model: nn.Module, n_outputs: int = 1, drop_rate: float | None = None) -> Network:
    """Return the network that tunes `model`: the family's own, or a linear layer on its embedding.

    The model's weights are taken over, not copied. New layers are drawn from torch's global generator.
    """
    if hasattr(model, "classifier"):
        return model.classifier(n_outputs, drop_rate)
    return OnEmbedding(model, n_outputs, drop_rate)


def one_view(spec: Spec) -> Spec:
    """Return what a network for a task reads: one clip, scan or slice per person in a batch of training."""
    return dataclasses.replace(spec, n_views=1)


class Reading(NamedTuple):
    """What a network makes of one person, before any calibration."""

    value: float  # log odds of the positive class, or a scaled number
    passes: np.ndarray  # (n_passes,) the same, with dropout
    features: np.ndarray  # (n_features,) for telling strangers


@torch.inference_mode()
def read(network: Network, recordings: Sequence[Batch], n_passes: int, seed: int = 0) -> Reading:
    """Return what `network` (in evaluation mode) makes of one person: outputs are averaged before anything else.

    The encoder runs once. Every pass drops the same in all rows, and the same for every person.
    """
    values, passes, features = [], [], []
    for batch in recordings:
        encoded = network.encode(batch)
        generator = torch.Generator(device=batch.device).manual_seed(seed)
        values.append(network.decide(encoded)[:, 0].double().mean())
        features.append(network.features(encoded).double().mean(0))
        if n_passes:
            passes.append(network.passes(encoded, n_passes, generator)[:, :, 0].double().mean(1))
    drawn = torch.stack(passes).mean(0).cpu().numpy() if n_passes else np.empty(0)
    return Reading(torch.stack(values).mean().item(), drawn, torch.stack(features).mean(0).cpu().numpy())
