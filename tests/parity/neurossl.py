"""The cases of NeuroSSL, run by the production code; one function per kind.

Inputs of the model kinds are z-scored already, so the model is told to leave them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuropipe.data import image
from neuropipe.hub.layouts import multiscale_vit as layout
from neuropipe.hub.published import fill
from neuropipe.models import multiscale_vit
from neuropipe.models.multiscale_vit import Classifier, Config

from .reference import FLOATS

ORDERS = {"upstream": "first_first", "textbook": "last_first"}


def released_config(c: dict) -> Config:
    """Return the released settings at the sizes of a case."""
    fields = {
        "img_size": c["img_size"],
        "patch_size": c["patch_size"],
        "in_channels": c["in_chans"],
        "embed_dim": c["embed_dim"],
        "depth": c["depth"],
        "num_heads": c["num_heads"],
        "mlp_ratio": c["mlp_ratio"],
        "scale_layers": c["scale_layers"],
        "covariance": "full" if c["use_second_order"] else "none",
        "head_drop_rate": c["dropout"],
        "drop_rate": c["encoder_dropout"],
        "drop_path_rate": c["drop_path_rate"],
        "zscore": "none",
    }
    fields |= {"temperature": c["temperature"] or 1.0} if "temperature" in c else {}
    return Config.model_validate(Config.published().model_dump() | fields)


def build(c: dict, weights: Mapping[str, Any]) -> Classifier:
    """Return the classifier of a case, strictly filled."""
    module = Classifier(released_config(c), c["num_classes"]).to(dtype(c))
    fill(module, layout.entries(module), {key: torch.from_numpy(np.asarray(value)) for key, value in weights.items()})
    return module


def dtype(c: dict) -> torch.dtype:
    """Return the floating type of a case."""
    return torch.from_numpy(np.zeros(0, FLOATS[c["dtype"] or "float32"])).dtype


def slices(c: dict, inputs: Mapping[str, Any]) -> Tensor:
    """Return the input slices."""
    return torch.from_numpy(np.asarray(inputs["x"])).to(dtype(c))


@torch.no_grad()
def forward(c: dict, weights: dict, inputs: dict) -> dict:
    """Every tensor of one deterministic pass."""
    module, x = build(c, weights), slices(c, inputs)
    encoder, head = module.encoder, module.head
    patches = encoder.patches(x)
    entering = encoder.start(patches)
    outputs = encoder.run(entering)
    encoded = encoder.finish(outputs)
    evidence = head.evidence(encoded)
    predicted = module.predict(x)
    found = {
        "patch_embed": patches,
        "block0_input": entering,
        "block_outputs": torch.stack(outputs),
        "tokens": encoded.tokens,
        "multi_scale": head.fusion(encoded),
        "features": head.features(evidence, {}),
        "cls": encoded.tokens[:, 0],
        "logits": predicted.logits,
        "prob_raw": predicted.raw,
        "prob_cal": predicted.calibrated,
        "attn": encoder.attention(x),
    }
    if head.covariance is not None:
        found["cov"] = multiscale_vit.covariance(encoded.tokens[:, 1:])
        found["second_order_prenorm"] = head.covariance.fc2(evidence.hidden)
    return found


@torch.no_grad()
def rollout(c: dict, weights: dict, inputs: dict) -> dict:
    """Attention rollout in either order and scale."""
    module = build(c, weights)
    attention = module.encoder.attention(slices(c, inputs))
    order = ORDERS[c["product_order"]]
    return {"map": multiscale_vit.rollout(attention, module.config.grid, order, c["normalise"], c["eps"])}


@torch.no_grad()
def masked_encode(c: dict, weights: dict, inputs: dict) -> dict:
    """The encoder where patches are hidden."""
    module = build(c, weights)
    seen = torch.from_numpy(inputs["mask"]) == (c["mask_true_means"] == "keep")
    kept = torch.stack([row.nonzero()[:, 0] for row in seen])  # all rows must keep as many
    encoded = module.encoder(slices(c, inputs), kept)
    return {"tokens": encoded.tokens, "multi_scale": module.head.fusion(encoded)}


@torch.no_grad()
def mc_dropout(c: dict, weights: dict, inputs: dict) -> dict:
    """Stochastic passes of the head with given masks."""
    module = build(c, weights)
    names = {"covariance": "cov_dropout", "features": "mc_dropout", "head": "head_dropout"}
    masks = {
        site: torch.from_numpy(inputs[name]).to(dtype(c)) / c["keep_divisor"]
        for site, name in names.items()
        if name in inputs
    }
    logits = module.head(module.head.evidence(module.encoder(slices(c, inputs))), masks)
    calibrated = logits if c["temperature"] is None else module.head.calibrated(logits)
    positive = calibrated.softmax(-1)[..., c["positive_class"]]
    assert c["std_ddof"] == 0
    deviation = multiscale_vit.summarise(calibrated.softmax(-1))[0][0, c["positive_class"]]
    return {"logits": logits[:, 0], "prob_pos": positive[:, 0], "std": deviation}


def mc_dropout_torch(c: dict, weights: dict, inputs: dict) -> dict:
    """The whole prediction, its masks drawn from torch's generator."""
    module, x = build(c, weights), slices(c, inputs)
    assert c["std_ddof"] == 0
    found = module.predict(x, c["passes"], torch.Generator().manual_seed(int(c["torch_seed"])))
    return {
        "raw_probability": found.raw[0, c["positive_class"]],
        "calibrated_probability": found.calibrated[0, c["positive_class"]],
        "uncertainty": found.std[0, c["positive_class"]],
        "attention_map": module.rollout(x)[0],
    }


def gradients(c: dict, weights: dict, inputs: dict) -> dict:
    """Gradients of every parameter without dropout."""
    assert c["loss"] == "cross_entropy" and not c["train"]
    module = build(c, weights)
    keys = {entry.name: entry.key for entry in layout.entries(module)}
    loss = F.cross_entropy(module(slices(c, inputs)), torch.from_numpy(np.asarray(inputs["labels"])))
    loss.backward()
    found = {keys[name]: p.grad for name, p in module.named_parameters()}
    norms = [None if grad is None else grad.double().norm().item() for grad in found.values()]
    return {"loss": loss, "param_names": list(found), "grad_norms": norms, "grad": found}


def preprocess(c: dict, weights: None, inputs: dict) -> dict:
    """An image file to a z-scored slice."""
    assert c["resample"] == "bilinear" and c["std_ddof"] == 1
    png, shape = np.asarray(inputs["png"]).tobytes(), tuple(c["target_size"])
    if c["native"]:
        return {"tensor": image.zscore(image.fit(image.read(png), shape)[None, None], eps=c["std_eps"])}
    u8 = image.read_published(png, shape)
    scaled = u8.float() / 255
    tensor = image.zscore(scaled[None, None], foreground=False, eps=c["std_eps"])
    return {"u8": u8, "mean_std": torch.stack([scaled.mean(), scaled.std()]), "tensor": tensor}


def state_dict(c: dict, weights: None, inputs: dict) -> dict:
    """Keys, shapes and number of weights at the full size."""
    with torch.device("meta"):
        module = Classifier(released_config(c), c["num_classes"])
    own = module.state_dict()
    shapes = {entry.key: list(own[entry.name].shape) for entry in layout.entries(module) if not entry.optional}
    return {"shapes": shapes, "n_params": sum(int(np.prod(shape)) for shape in shapes.values())}
