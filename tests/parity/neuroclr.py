"""The cases of NeuroCLR, run by the production code; one function per kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.models import neuroclr
from neuropipe.models.neuroclr import Classifier, Config, Head, SeriesEncoder
from neuropipe.models.resnet1d import ResNet1D

from .reference import FLOATS

TORCH = {name: torch.from_numpy(np.zeros(0, dtype)).dtype for name, dtype in FLOATS.items()}
HEAD = tuple(name for name in Head.model_fields if name != "drop_rate")  # the same words in the cases


def settings(c: dict) -> Config:
    """Return the Config of a case's encoder and, where it has one, head."""
    assert (c["activation"], c["norm_first"]) == ("relu", False)
    fields = Config.published().model_dump() | {
        "n_samples": c["TSlength"],
        "num_heads": c["nhead"],
        "depth": c["nlayer"],
        "mlp_ratio": c["dim_feedforward"] / c["TSlength"],
        "drop_rate": c["encoder_dropout"],
        "pooling": c["pooling"],
        "normalize_input": c["normalize_input"],
        "head_hidden_dim": c["projector_out1"],
        "head_dim": c["projector_out2"],
    }
    if "n_rois" in c:
        fields["head"] = {name: c[name] for name in HEAD} | {"drop_rate": c["head_dropout"]}
    return Config.model_validate(fields)


def resnet(c: dict) -> ResNet1D:
    """Return the head that a case asks for."""
    return ResNet1D(c["n_rois"], c["num_labels"], **{name: c[name] for name in HEAD})


def filled(module: nn.Module, weights: Mapping[str, Any], c: dict) -> nn.Module:
    """Copy weights strictly; counters of batches may be absent."""
    state = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    module.to(TORCH[c["dtype"] or "float32"])
    module.load_state_dict(state | {name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()})
    return module.train(c["train"])


@torch.no_grad()
def encode(c: dict, weights: dict, inputs: dict) -> dict[str, Tensor]:
    """The encoder with its projector."""
    encoder = filled(SeriesEncoder(settings(c)), weights, c)
    x = torch.from_numpy(inputs["x"])
    normalised = encoder.normalise(x)
    found = encoder(x)
    layers = torch.stack(list(encoder.layers(normalised)))
    return {"x_normalised": normalised, "layer_outputs": layers, "h": found.h, "z": found.z}


@torch.no_grad()
def head(c: dict, weights: dict, inputs: dict) -> dict[str, Tensor]:
    """The ResNet alone."""
    return {"logits": filled(resnet(c), weights, c)(torch.from_numpy(inputs["x"]))}


@torch.no_grad()
def classify(c: dict, weights: dict, inputs: dict) -> dict[str, Tensor]:
    """The encoder on every region, and the ResNet on all."""
    module = Classifier(settings(c), c["n_rois"], c["num_labels"])
    filled(module.encoder, weights["encoder"], c)
    filled(module.head, weights["head"], c)
    found = module(torch.from_numpy(inputs["x"]))
    blocks = {f"block_{i}": out for i, out in enumerate(module.head.stages(found.hidden))}
    return {"h": found.hidden, "logits": found.logits, **blocks}


def head_gradients(c: dict, weights: dict, inputs: dict) -> dict:
    """Loss and gradients of the ResNet."""
    assert c["loss"] == "cross_entropy"
    module = filled(resnet(c), weights, c)
    loss = F.cross_entropy(module(torch.from_numpy(inputs["x"])), torch.from_numpy(inputs["labels"]))
    loss.backward()
    norms = {name: None if p.grad is None else p.grad.norm().item() for name, p in module.named_parameters()}
    return {"loss": loss, "grad_names": list(norms), "grad_norms": list(norms.values())}


def ntxent(c: dict, weights: None, inputs: dict) -> dict[str, Tensor]:
    """The contrast of one region."""
    z1, z2 = (torch.from_numpy(inputs[name])[None] for name in ("z1", "z2"))
    return {"loss": neuroclr.ntxent(z1, z2, c["temperature"])}


def state_dict(c: dict, weights: None, inputs: dict) -> dict[str, dict[str, list[int]]]:
    """Names and shapes at the released sizes."""
    with torch.device("meta"):
        module = Classifier(settings(c), c["n_rois"], c["num_labels"])
    shapes = (
        {name: list(value.shape) for name, value in p.state_dict().items()} for p in (module.encoder, module.head)
    )
    return dict(zip(("encoder_shapes", "head_shapes"), shapes, strict=True))
