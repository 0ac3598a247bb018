"""The cases of y-Aware, run by the production code; one function per kind.

The reference draws from numpy's legacy global generator. Those draws are made here, in its order, from
`numpy.random.RandomState`; what is done with them is the production code's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuropipe.data import augment_volume
from neuropipe.hub.layouts import yaware as layout
from neuropipe.models import yaware
from neuropipe.models.yaware import Classifier, Config, Model, Proxy, Segmenter, UNetEncoder
from neuropipe.train import optim
from neuropipe.train.recipe import TrainSettings

from .reference import FLOATS

# ------------------------------------------------------------------ procedural numbers


def procedural(stream: int, shape: Sequence[int]) -> np.ndarray:
    """Return the numbers of a stream, float64 in [-0.5, 0.5)."""
    wrap = np.uint64(2**32 - 1)
    h = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(2654435761)
    h = (h + np.uint64((stream + 1) * 40503)) & wrap
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(73244475)) & wrap
    h ^= h >> np.uint64(16)
    return (h / 2**32 - 0.5).reshape(tuple(shape))


def by_rule(rules: list[dict], key: str, stream: int, shape: Sequence[int]) -> np.ndarray:
    """Return one procedural weight: the first rule that matches gives offset and scale."""
    rule = next(
        rule
        for rule in rules
        if key.endswith(rule.get("suffix", ""))
        and rule.get("ndim", len(shape)) == len(shape)
        and rule.get("min_ndim", 0) <= len(shape)
    )
    scale = rule["scale"] if "scale" in rule else np.sqrt(rule["scale_sqrt_of"] / np.prod(shape[1:]))
    return rule["offset"] + scale * procedural(stream, shape)


def tensor(given: Any, c: dict) -> Tensor:
    """Return an input as a tensor of the case's type; a procedural one is made and checked."""
    if isinstance(given, Mapping):
        rule = given["procedural"]
        made = rule["scale"] * procedural(rule["stream"], rule["shape"])
        if "check_shape" in given:
            assert tuple(given["check_shape"]) == made.shape
            head = given["check_head"]
            assert np.allclose(made.ravel()[: len(head)], head, rtol=0, atol=1e-6)
        given = made
    return torch.from_numpy(np.asarray(given)).to(TORCH[c["dtype"] or "float32"])


TORCH = {name: torch.from_numpy(np.zeros(0, dtype)).dtype for name, dtype in FLOATS.items()}


def fill(module: nn.Module, weights: Mapping[str, Any], c: dict) -> None:
    """Give `module` a case's weights, stored or procedural, and its floating type."""
    if weights.get("procedural"):
        shapes = {e.key: module.state_dict()[e.name].shape for e in layout.entries(module)}
        if isinstance(module, Model) and c.get("projection_hidden") is None:
            shapes = {key: shape for key, shape in shapes.items() if not key.startswith(("hidden_", "head_"))}
        assert weights["key_order"] == "sorted"
        numbered = enumerate(sorted(shapes), weights["first_stream"])
        weights = {key: by_rule(weights["rules"], key, j, shapes[key]) for j, key in numbered}
    module.to(TORCH[c["dtype"] or "float32"])
    layout.load(module, {key: torch.from_numpy(np.asarray(value)) for key, value in weights.items()})


# ------------------------------------------------------------------ networks


def densenet_config(c: dict) -> Config:
    """Return the settings of a DenseNet."""
    heads = {} if c["projection_out"] is None else {"head_hidden_dim": c["projection_hidden"]}
    heads |= {} if c["projection_out"] is None else {"head_dim": c["projection_out"]}
    return Config(
        growth_rate=c["growth_rate"],
        block_config=c["block_config"],
        n_init_features=c["num_init_features"],
        bn_size=c["bn_size"],
        drop_rate=c["drop_rate"],
        in_channels=c["in_channels"],
        final_norm=c["mode"] == "classifier",
        **heads,
    )


def densenet(c: dict, weights: dict, inputs: dict) -> dict:
    """One forward pass of a DenseNet, in evaluation or training mode."""
    config = densenet_config(c)
    module = Model(config) if c["mode"] == "encoder" else Classifier(config, c["num_classes"])
    fill(module, weights, c)
    module.train(c["train"])
    with torch.no_grad():
        last_map = module.backbone(tensor(inputs["x"], c))
        pooled = yaware.pool(last_map)
        outputs = {"map": last_map, "pooled": pooled}
        out = module.head(pooled)
    if c["mode"] == "encoder":
        out, outputs["hidden"] = out
    return outputs | {"out": squeeze(out, c), "running_statistics": running_statistics(module)}


def squeeze(out: Tensor, c: dict) -> Tensor:
    """Drop the axis of a single output where the case asks for it."""
    return out[:, 0] if c["squeeze_single_output"] and out.shape[1] == 1 else out


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Return the running means and variances by released key."""
    own = module.state_dict()
    return {entry.key: own[entry.name] for entry in layout.entries(module) if "running_" in entry.name}


def unet(c: dict, weights: dict, inputs: dict) -> dict:
    """One forward pass of a U-Net."""
    fields = {"backbone": "unet", "unet_width": c["start_filters"], "unet_depth": c["depth"]}
    if c["projection_out"] is not None:
        fields |= {"head_hidden_dim": c["projection_hidden"], "head_dim": c["projection_out"]}
    config = Config(in_channels=c["in_channels"], **fields)
    if c["mode"] == "seg":
        module = Segmenter(config, c["num_classes"])
    elif c["mode"] == "classif":
        module = Classifier(config, c["num_classes"], c["classifier_hidden"], activate_output=True)
    else:
        module = Model(config)
    fill(module, weights, c)
    module.train(c["train"])
    x = tensor(inputs["x"], c)
    with torch.no_grad():
        if c["mode"] in ("seg", "classif"):
            return {"out": squeeze(module(x), c), "running_statistics": running_statistics(module)}
        assert isinstance(module.backbone, UNetEncoder)
        pooled = yaware.pool(module.backbone(x))
        statistics = running_statistics(module)
        if c["mode"] == "encoder":
            return {"out": pooled[:, :, None, None, None], "pooled": pooled, "running_statistics": statistics}
        out, hidden = module.head(pooled)
    return {"out": out, "pooled": pooled, "hidden": hidden, "running_statistics": statistics}


# ------------------------------------------------------------------ losses and training


def proxies(c: dict, n_columns: int) -> tuple[Proxy, ...]:
    """Return one proxy per column: the isotropic kernels of the cases are products over columns."""
    kernel, sigma = {
        "rbf": ("rbf", c["sigma"]),
        "laplacian_l1": ("laplacian", c["kernel_scale"]),
        "same_category": ("category", None),
    }[c["kernel"]]
    return tuple(Proxy(column=str(k), kernel=kernel, sigma=sigma) for k in range(n_columns))


def alike(c: dict, labels: np.ndarray) -> Tensor:
    """Return the similarity of people by all columns of `labels`, (n,) or (n, columns)."""
    columns = torch.from_numpy(labels.reshape(len(labels), -1)).to(TORCH[c["dtype"] or "float32"])
    named = {str(k): columns[:, k] for k in range(columns.shape[1])}
    return yaware.similarity(named, proxies(c, columns.shape[1]), "product", len(labels))


def differentiate(c: dict, inputs: dict, similarity: Tensor, normalisation: str) -> dict:
    """Return the loss, its parts and its gradients."""
    z1, z2 = (torch.from_numpy(inputs[name]).requires_grad_() for name in ("z1", "z2"))
    found = yaware.contrast(z1, z2, similarity, c["temperature"], normalisation)
    found.loss.backward()
    return {
        "loss": found.loss,
        "grad_z1": z1.grad,
        "grad_z2": z2.grad,
        "sim12": found.across,
        "kernel_offdiag": found.kernel,
        "weights_used": found.weights,
    }


def yaware_loss(c: dict, weights: None, inputs: dict) -> dict:
    """The y-Aware InfoNCE."""
    return differentiate(c, inputs, alike(c, inputs["labels"]), c["normalisation"])


def ntxent_loss(c: dict, weights: None, inputs: dict) -> dict:
    """Its limit without proxies."""
    return differentiate(c, inputs, yaware.similarity({}, (), "product", len(inputs["z1"])), "row")


def train_steps(c: dict, weights: dict, inputs: dict) -> dict:
    """A few optimisation steps of an encoder."""
    assert c["optimizer"] == "adam"
    passes = "per_view" if c["forward_passes"].endswith("separately") else "joint"
    fields = {"forward_passes": passes, "temperature": c["temperature"], "normalisation": c["normalisation"]}
    fields |= {"decay_biases_and_norms": True}
    model = Model(densenet_config(c["model"]).model_copy(update=fields))
    fill(model, weights, c)
    settings = TrainSettings(
        n_steps=c["steps"],
        batch_size=1,
        lr=c["lr"],
        lr_schedule="constant",
        warmup=0,
        betas=c["betas"],
        weight_decay=c["weight_decay"],
        weight_decay_in="gradient" if c["weight_decay_mode"] == "added_to_gradient" else "weights",
    )
    optimizer = optim.build(model, settings)
    for group in optimizer.param_groups:
        group["eps"] = c["eps"]
    keys = {entry.name: entry.key for entry in layout.entries(model)}
    outputs: dict[str, Any] = {"losses": []}
    for step in range(c["steps"]):
        views = torch.cat([tensor(inputs[view][step], c) for view in ("view1", "view2")])
        z_i, z_j = model.project(views)
        found = yaware.contrast(z_i, z_j, alike(c, inputs["labels"][step]), c["temperature"], c["normalisation"])
        optim.set_schedules(optimizer, settings, step)
        optimizer.zero_grad()
        found.loss.backward()
        if step == 0:
            grad = {keys[name]: p.grad.clone() for name, p in model.named_parameters()}
            outputs |= {"step0/z_i": z_i, "step0/z_j": z_j, "step0/grad": grad}
        optimizer.step()
        outputs["losses"].append(found.loss.item())
    outputs["state"] = {keys[name]: value for name, value in model.state_dict().items()}
    with torch.no_grad(), yaware.evaluating(model):
        outputs["eval_out"] = model.project(views)[0]
    return outputs


# ------------------------------------------------------------------ augmentations


def normalize(c: dict, weights: None, inputs: dict) -> dict:
    """Z-score over the whole array."""
    return augmented("normalize", c, inputs)


def flip(c: dict, weights: None, inputs: dict) -> dict:
    """Reverse an axis."""
    return augmented("flip", c, inputs)


def blur(c: dict, weights: None, inputs: dict) -> dict:
    """Gaussian blur, of the channel axis too."""
    return augmented("blur", c, inputs)


def noise(c: dict, weights: None, inputs: dict) -> dict:
    """White noise, Gaussian or Rician."""
    return augmented("noise", c, inputs)


def cutout(c: dict, weights: None, inputs: dict) -> dict:
    """A box of one value."""
    return augmented("cutout", c, inputs)


def crop(c: dict, weights: None, inputs: dict) -> dict:
    """A box, as it is, in place, or enlarged."""
    return augmented("crop", c, inputs)


def augmented(kind: str, c: dict, inputs: dict) -> dict:
    """Run one augmentation."""
    draws = np.random.RandomState(c["rng_seed"])
    y, start = DO[kind](torch.from_numpy(inputs["x"]), c, draws, inputs.get("field"))
    return {"y": y, "start": start}


def do_normalize(x: Tensor, c: dict, draws: np.random.RandomState, field: None) -> tuple[Tensor, None]:
    return c["std"] * augment_volume.zscore(x, False, c["eps"]) + c["mean"], None


def do_flip(x: Tensor, c: dict, draws: np.random.RandomState, field: None) -> tuple[Tensor, None]:
    axis = draws.randint(0, x.dim()) if c["axis"] is None else c["axis"]
    return x.flip(axis), None


def drawn_sigma(x: Tensor, c: dict, draws: np.random.RandomState) -> float:
    """Draw a width from its interval."""
    low, high = c["sigma"] if c["snr"] is None else (0, x.numpy().std() / c["snr"])
    return draws.uniform(low, high)


def do_blur(x: Tensor, c: dict, draws: np.random.RandomState, field: None) -> tuple[Tensor, None]:
    assert c["mode"] == "reflect"
    return augment_volume.blur(x, drawn_sigma(x, c, draws), range(-x.dim(), 0), c["truncate"]), None


def do_noise(x: Tensor, c: dict, draws: np.random.RandomState, field: np.ndarray | None) -> tuple[Tensor, None]:
    if field is None:
        sigma = drawn_sigma(x, c, draws)
        field = draws.normal(0, sigma, [2, *x.shape])
    real, imaginary = torch.from_numpy(field)
    return augment_volume.rician(x, real, imaginary) if c["noise_type"] == "rician" else x + real, None


def do_cutout(x: Tensor, c: dict, draws: np.random.RandomState, field: None) -> tuple[Tensor, list[int]]:
    starts, box = [], []
    for axis, n in enumerate(x.shape):
        size = c["patch_size"][axis]
        size = n if size < 0 or size > n else size
        if c["random_size"]:
            size = draws.randint(0, size)
        if c["localization"] is None:
            start = draws.randint(0, n - size + 1)
        else:
            start = max(c["localization"][axis] - size // 2, 0)
        starts.append(start)
        box.append(slice(start, start + size))
    y = x.clone()
    y[tuple(box)] = c["value"]
    return y, starts


def do_crop(x: Tensor, c: dict, draws: np.random.RandomState, field: None) -> tuple[Tensor, list[int]]:
    box = []
    for n, size in zip(x.shape, c["shape"], strict=True):
        if c["type"] == "center":
            box.append(augment_volume.centre(n, size))
        else:
            start = draws.randint(0, n - size + 1)
            box.append(slice(start, start + size))
    starts, y = [part.start for part in box], x[tuple(box)]
    if c["resize"]:
        y = augment_volume.resize(y, x.shape)
    elif c["keep_dim"]:
        y = torch.zeros_like(x)
        y[tuple(box)] = x[tuple(box)]
    return y, starts


DO = {
    "normalize": do_normalize,
    "flip": do_flip,
    "blur": do_blur,
    "noise": do_noise,
    "cutout": do_cutout,
    "crop": do_crop,
}


def run_steps(x: Tensor, steps: list[dict], draws: np.random.RandomState) -> Tensor:
    """Apply a recipe: one uniform draw before each step."""
    for step in steps:
        if draws.rand() < step["probability"]:
            x, _ = DO[step["kind"]](x, step["config"], draws, None)
    return x


def pipeline(c: dict, weights: None, inputs: dict) -> dict:
    """A whole recipe on one volume."""
    return {"y": run_steps(torch.from_numpy(inputs["x"]), c["steps"], np.random.RandomState(c["rng_seed"]))}


def dataset_batch(c: dict, weights: None, inputs: dict) -> dict:
    """A few items with several views each, as one batch."""
    assert not c["reseed_per_item"]
    draws = np.random.RandomState(c["rng_seed"])
    volumes = torch.from_numpy(inputs["data"])
    items = [torch.stack([run_steps(volumes[i], c["steps"], draws) for _ in range(c["views"])]) for i in c["indices"]]
    columns = [np.asarray(inputs[column])[c["indices"]] for column in c["label_columns"]]
    labels = columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
    dtype = FLOATS[c["out_dtype"]]
    return {"x": torch.stack(items).numpy().astype(dtype), "y": labels.astype(dtype)}
