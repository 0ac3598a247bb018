"""A network for one task: what encodes is a family's, what decides is put on top.

A family may bring its own (`Model.classifier`); any other gets a linear layer on its embedding. Encoder and
decision are apart, so that stochastic passes run the encoder once. What encodes has named parts (`Model.parts`),
which can be held still for a share of the training.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data.batch import Batch
from neuropipe.errors import ConfigError
from neuropipe.models.base import Spec
from neuropipe.models.layers import dropout

DROP_RATE = 0.1  # of a linear layer's input, where neither the recipe nor the family says another
HEAD = "head"  # the part of a network that is new
PRETRAINED = "encoder"  # a word for all other parts together

Norm = Literal["layer", "batch", "none"]


class Network(nn.Module, ABC):
    """What is trained for one task: log odds of the positive class, or a scaled number, per row of a batch.

    Nothing is dropped without a generator.

    Attributes
    ----------
    last : str
        Name of the last layer in the module `deciding`.
    part_of : dict of str to str
        By name of a trained parameter: the family's part that it belongs to, or ``"head"``; see `on_top_of`.
    """

    last = "fc"

    def __init__(self) -> None:
        super().__init__()
        self.part_of: dict[str, str] = {}
        self._held: frozenset[str] = frozenset()
        self._held_until = 1.0

    @property
    @abstractmethod
    def deciding(self) -> nn.Module:
        """The module that holds ``norm`` of (n_features,), and the layer `last` of it (n_features to n_outputs)."""

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

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that are trained, by part."""
        found: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if name in self.part_of:
                found.setdefault(self.part_of[name], []).append(parameter)
        return found

    def freeze(self, names: Sequence[str], until: float | None = None) -> None:
        """Hold parts of what was pretrained still.

        Parameters
        ----------
        names : sequence of str
            Of `parts`; ``"encoder"`` is all of them but the head.
        until : float, optional
            Share of the training after which they learn too; default never.

        Raises
        ------
        ConfigError
            The family has no such part.
        """
        known = [part for part in dict.fromkeys(self.part_of.values()) if part != HEAD]
        if unknown := [name for name in names if name not in {*known, PRETRAINED}]:
            raise ConfigError(
                f"finetune: freeze: {', '.join(unknown)}: expected {PRETRAINED} (all that was pretrained) or parts of "
                f"this family: {', '.join(known) or 'none'}."
            )
        self._held = frozenset(known if PRETRAINED in names else names)
        self._held_until = 1.0 if until is None else until

    def before_step(self, progress: float) -> None:
        """Hold still what is to be at this share of the training, and let everything else learn."""
        if not self._held:
            return
        held = self._held if progress < self._held_until else frozenset()
        for part, parameters in self.parts().items():
            for parameter in parameters:
                parameter.requires_grad_(part not in held)
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        """Set the mode; modules whose own parameters are all held still stay in evaluation mode.

        So the running statistics of a batch norm do not move where its weights do not.
        """
        super().train(mode)
        if mode and self._held:
            for module in self.modules():
                own = list(module.parameters(recurse=False))
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()
        return self


class TwoLayers(nn.Module):
    """A linear layer's place taken by two, with a GELU between."""

    def __init__(self, in_features: int, hidden_dim: int, n_outputs: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.hidden = nn.Linear(in_features, hidden_dim)
        self.out = nn.Linear(hidden_dim, n_outputs)
        for layer in (self.hidden, self.out):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., n_outputs)."""
        return self.out(F.gelu(self.hidden(x)))


class BatchNorm(nn.BatchNorm1d):
    """Batch norm of features on the last axis, whatever axes come before."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_features) to the same shape."""
        return super().forward(x.flatten(0, -2)).view_as(x)


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

    @property
    def deciding(self) -> nn.Module:
        """Norm and linear layer are the network's own."""
        return self

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
        """Return the parameters of norm and last layers: the weights decay, the rest does not."""
        own = [*self.fc.parameters(), *self.norm.parameters()]
        weights, rest = [p for p in own if p.dim() > 1], [p for p in own if p.dim() == 1]
        return [
            {"params": params, "lr_scale": 1.0, "weight_decay": scale * weight_decay, "weight_decay_scale": scale}
            for params, scale in ((weights, 1.0), (rest, 0.0))
        ]


class OnEmbedding(LinearNetwork):
    """A linear layer on the embedding of any family; gradients go through `embed` to the family's parts."""

    def __init__(self, model: nn.Module, n_outputs: int, drop_rate: float | None = None) -> None:
        super().__init__(model.embed_dim, n_outputs, drop_rate)
        self.model = model.requires_grad_(False)
        for parameters in pretrained_parts(model).values():
            for parameter in parameters:
                parameter.requires_grad_(True)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the embedding (rows, embed_dim), which is deterministic in every family."""
        return self.model.embed(batch)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the family's groups, as far as `embed` reads them, and those of the linear layer."""
        left = {id(p): p for parameters in pretrained_parts(self.model).values() for p in parameters}
        own = self.model.param_groups(weight_decay, layer_decay) if hasattr(self.model, "param_groups") else []
        own = [group | {"params": [p for p in group["params"] if left.pop(id(p), None) is not None]} for group in own]
        others = {"params": list(left.values()), "lr_scale": layer_decay}
        others |= {"weight_decay": weight_decay, "weight_decay_scale": 1.0}
        return [group for group in [*own, others] if group["params"]] + self.head_groups(weight_decay)


def pretrained_parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return what `embed` reads, by the names that the family gives (`Model.parts`); one part where it gives none."""
    return model.parts() if hasattr(model, "parts") else {PRETRAINED: list(model.parameters())}


def on_top_of(
    model: nn.Module,
    n_outputs: int = 1,
    drop_rate: float | None = None,
    hidden_dim: int | None = None,
    norm: Norm | None = None,
) -> Network:
    """Return the network that tunes `model`: the family's own, or a linear layer on its embedding.

    The model's weights are taken over, not copied. New layers are drawn from torch's global generator.

    Parameters
    ----------
    n_outputs : int
    drop_rate : float, optional
        Dropout on the features; default the family's own.
    hidden_dim : int, optional
        Width of a hidden layer before the last one; default none, the decision is linear.
    norm : {"layer", "batch", "none"}, optional
        Norm of the features; default the family's own. With ``batch`` the last layer begins at almost zero,
        as Brain-Semantoks is fine-tuned.
    """
    part_of = {id(p): part for part, parameters in pretrained_parts(model).items() for p in parameters}
    own = hasattr(model, "classifier")
    network = model.classifier(n_outputs, drop_rate) if own else OnEmbedding(model, n_outputs, drop_rate)
    _shape(network, n_outputs, hidden_dim, norm)
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    network.part_of = {name: part_of.get(id(p), HEAD) for name, p in trained}
    return network


def _shape(network: Network, n_outputs: int, hidden_dim: int | None, norm: Norm | None) -> None:
    """Put the norm and the hidden layer that are asked for in the place of the family's own."""
    deciding, last = network.deciding, getattr(network.deciding, network.last)
    n_features = last.in_features
    if norm is not None:
        kinds = {"layer": nn.LayerNorm, "batch": BatchNorm, "none": nn.Identity}
        deciding.norm = kinds[norm](n_features)
    if hidden_dim is not None:
        last = TwoLayers(n_features, hidden_dim, n_outputs)
        setattr(deciding, network.last, last)
    if norm == "batch":
        nn.init.trunc_normal_(last.weight if hidden_dim is None else last.out.weight, std=2e-5)


def one_view(spec: Spec) -> Spec:
    """Return what a network for a task reads: one clip, scan or slice per person in a batch of training."""
    return dataclasses.replace(spec, n_views=1, n_copies=1)


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
