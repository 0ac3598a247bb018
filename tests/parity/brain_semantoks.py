"""The cases of Brain-Semantoks, run by the production code; one function per kind."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from neuropipe.data import augment, clips
from neuropipe.evaluate import semantoks_probe
from neuropipe.hub.layouts import semantoks as layout
from neuropipe.models import semantoks
from neuropipe.models.layers import StructuredConv
from neuropipe.models.semantoks import Branch, Config, Encoder, Model, Tokenizer
from neuropipe.shards import hdf5
from neuropipe.signals.regions import Regions
from neuropipe.train import optim
from neuropipe.train.recipe import TrainSettings

# Written to a file and read back: these inputs keep the type in which they are stored.
AS_STORED = {"dataset"}

SPATIAL_UNITS = {"standard": "network", "max_spatial": "region", "min_spatial": "brain"}

# ------------------------------------------------------------------ from the words of the cases to ours


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return arrays as tensors."""
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def branches(tokenizer: list[dict] | None, width: int) -> tuple[Branch, ...]:
    """Return the branches of a tokenizer; without any, one dense branch of full width."""
    if tokenizer is None:
        return (Branch(kind="dense", out_channels=width),)
    renamed = ({"kind": b["type"], "n_scales": b["num_scales"], **b} for b in tokenizer)
    fields = ({name: value for name, value in b.items() if name in Branch.model_fields} for b in renamed)
    return tuple(Branch(**{name: value for name, value in b.items() if value is not None}) for b in fields)


def encoder_fields(c: dict) -> dict[str, Any]:
    """Return the fields of Config that an encoder config decides."""
    return {
        "n_samples": c["target_time_length"],
        "patch_size": c["patch_size"],
        "patch_stride": c["patch_stride"],
        "spatial_unit": SPATIAL_UNITS[c["spatial_mode"]],
        "branches": branches(c["tokenizer"], c["embedding_dim"]),
        "pooling": c["tokenizer_pooling"] or "mean",
        "token_norm": c["tokenizer_final_norm"] == "layer",
        "embed_dim": c["embedding_dim"],
        "depth": c["depth"],
        "num_heads": c["heads"],
        "mlp_ratio": c["mlp_dim"] / c["embedding_dim"],
        "layer_scale": c["layer_scale"],
        "qkv_bias": c["attention_bias"],
        "pos_drop_rate": c["emb_dropout"],
        "proj_drop_rate": c["mlp_dropout"],
        "drop_path_rate": c["drop_path_rate"],
        "mask_token": c["do_masking"],
    }


def objective_fields(c: dict) -> dict[str, Any]:
    """Return the fields of Config that an objective config decides."""
    return encoder_fields(c["encoder"]) | {
        "head_hidden_dim": c["projection_hidden_dim"],
        "head_dim": c["projection_bottleneck_dim"],
        "head_layers": c["projection_nlayers"],
        "separate_mask_head": c["use_separate_mask_predictor"],
        "compression_weight": c["coeff"],
        "expansion_of": "both" if c["expa_type"] == 1 else "student",
        "expansion_eps": c["eps"],
        "mask_loss_weight": c["mask_loss_weight"],
        "network_loss_weight": c["network_loss_weight"],
        "teacher_momentum": c["base_teacher_momentum"],
    }


def published(fields: dict[str, Any]) -> Config:
    """Return the published settings with some fields set."""
    return Config(**{**dict(Config.published()), **fields})


def model_of(c: dict, fields: dict[str, Any] | None = None) -> Model:
    """Return a model for an objective config, unfilled."""
    config = published(objective_fields(c) | {"mask_probability": 0} | (fields or {}))
    ids = np.array(c["encoder"]["network_ids"])
    return Model(config, Regions.plain("any", len(ids)), ids)


# ------------------------------------------------------------------ networks, tokenizer, encoder


def network_map(c: dict, weights: None, inputs: dict) -> dict:
    """Joining the maps of several atlases."""
    ids = semantoks.join_maps(inputs["maps"])
    return {"network_ids": ids, "network_roi_counts": np.bincount(ids)}


def sgconv(c: dict, weights: dict, inputs: dict) -> dict:
    """The structured convolution alone: before and after its kernels moved away from the frozen norm."""
    conv = StructuredConv(
        c["num_channels"],
        c["heads"],
        c["kernel_size"],
        c["num_scales"],
        c["decay_min"],
        c["decay_max"],
        padding=c["padding_mode"],
        stretch=c["interpolate_mode"],
    )
    x = torch.from_numpy(inputs["x"])
    with torch.no_grad():
        conv.skip.copy_(torch.from_numpy(weights["D"]))
        for i, kernel in enumerate(conv.kernels):
            kernel.copy_(torch.from_numpy(weights[f"kernel_list.{i}"]))
        conv.freeze_norm()
        first = conv(x)
        for i, kernel in enumerate(conv.kernels):
            kernel.copy_(torch.from_numpy(inputs["moved_kernels"][str(i)]))
        moved = conv(x)
        conv.skip.zero_()
        response, offset = impulse_response(conv, c)
    return {
        "multiplier": conv.decay,
        "kernel_length": conv.length,
        "kernel_norm": conv.kernel_norm,
        "y_first_forward": first,
        "y_after_move": moved,
        "kernel_after_move": response,
        "impulse_offset": offset,
    }


def impulse_response(conv: StructuredConv, c: dict) -> tuple[Tensor, int]:
    """Return the kernels (head, region, length) read off an impulse, and how far before it they start."""
    n = 4 * conv.length
    impulse = torch.zeros(1, c["num_channels"], n)
    impulse[..., n // 2] = 1
    out = conv(impulse)[0].unflatten(0, (c["num_channels"], c["heads"]))
    start = int(out.abs().sum((0, 1)).nonzero()[0])
    return out[..., start : start + conv.length].transpose(0, 1), n // 2 - start


def tokenizer(c: dict, weights: dict, inputs: dict) -> dict:
    """One network's tokenizer."""
    one = Tokenizer(c["n_rois"], branches(c["branches"], 0), c["pooling"], c["final_norm"] == "layer")
    one.load_state_dict({name: tensors(weights)[layout.tokenizer_key(one, name)] for name in one.state_dict()})
    x = torch.from_numpy(inputs["x"])
    return {f"branch_out.{i}": branch(x) for i, branch in enumerate(one.branches)} | {"y": one(x)}


def encoder(c: dict, weights: dict, inputs: dict) -> dict:
    """The whole encoder, with what enters and leaves every block."""
    model = Encoder(published(encoder_fields(c)), np.array(c["network_ids"]))
    layout.load_encoder(model, tensors(weights), c["atlas_names"])
    series = torch.from_numpy(inputs["x"]).transpose(1, 2)
    hidden = None if inputs["mask"] is None else torch.from_numpy(inputs["mask"]).bool()
    if c["keep_only_network"] is not None:
        hidden = torch.ones(len(series), c["num_networks"], c["num_patches"], dtype=torch.bool)
        hidden[:, c["keep_only_network"]] = False
    outputs: dict[str, Tensor] = {}
    model.blocks[0].register_forward_pre_hook(lambda block, args: outputs.update(block_in=args[0]))
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda block, args, out, i=i: outputs.update({f"block{i}_out": out}))
    tokens = model(series, hidden)
    return outputs | {
        "net_tokens": model.tokenize(series),
        "tokens": tokens,
        "global_cls": tokens[:, 0],
        "cls_avg": semantoks.cls_avg(tokens),
        "temporal_pos_embedding": model.positions,
    }


# ------------------------------------------------------------------ losses and training


def mcr_loss(c: dict, weights: None, inputs: dict) -> dict:
    """The coding-rate loss alone."""
    assert c["skip_same_view"], "a view is never compared with itself"
    fields = {"compression_weight": c["coeff"], "expansion_eps": c["eps"]}
    config = Config(**fields, expansion_of="both" if c["expa_type"] == 1 else "student")
    student, teacher = (torch.from_numpy(inputs[name]) for name in ("student", "teacher"))
    student.requires_grad_(True)
    loss, agreement, rate = semantoks.coding_rate(student, teacher, config)
    loss.backward()
    return {
        "loss": loss,
        "comp_loss": agreement,
        "global_comp_loss": semantoks.compression(student[: len(teacher)], teacher),
        "expa_loss": rate,
        "grad_student": student.grad,
    }


def patch_loss(c: dict, weights: None, inputs: dict) -> dict:
    """The loss on hidden tokens alone; the vectors are those of the hidden tokens, row after row."""
    mask = torch.from_numpy(inputs["mask"]).bool().flatten(1)
    student, teacher = (spread(torch.from_numpy(inputs[name]), mask) for name in ("student", "teacher"))
    return {"loss": semantoks.hidden_token_loss(student, teacher, mask)}


def spread(vectors: Tensor, mask: Tensor) -> Tensor:
    """Return (row, token, dim) with `vectors` where `mask` is True and ones elsewhere."""
    full = torch.ones(*mask.shape, vectors.shape[-1])
    full[mask] = vectors
    return full


def objective(c: dict, weights: dict, inputs: dict) -> dict:
    """The full objective on two views: every projection, loss and gradient."""
    model = model_of(c)
    layout.load(model, tensors(weights), c["encoder"]["atlas_names"])
    return run_objective(model, c, inputs, c["network_loss_weight"], c["masked"]) | {
        "grad_norm": torch.nn.utils.get_total_norm([p.grad for p in model.student.parameters() if p.grad is not None]),
        "grad": released_names(model, c, lambda name, parameter: parameter.grad),
    }


def run_objective(model: Model, c: dict, inputs: dict, network_weight: float, masked: bool) -> dict:
    """Run both sides on both views and backward; return projections, losses and terms."""
    views = [torch.from_numpy(inputs[name]).transpose(1, 2) for name in ("view1", "view2")]
    series = torch.cat(views)
    hidden = None
    if masked:
        hidden = torch.cat([torch.from_numpy(inputs[name]).bool() for name in ("mask1", "mask2")])
    student, teacher = model.project(series, hidden, None, None)
    losses = model.compare(student, teacher, hidden, None, network_weight, n_views=2)
    losses["loss"].backward()
    within = losses["mask_loss"] / c["mask_loss_weight"] if c["mask_loss_weight"] else losses["mask_loss"]
    return {
        "cls_loss": losses["class_loss"],
        "network_loss": losses["network_loss"],
        "mask_loss": losses["mask_loss"],
        "within_view_loss": within,
        "network_mask_loss": 0.0,  # a term that the release logs and never computes
        "total_loss": losses["loss"].detach(),
        "student_proj_std": losses["student_std"],
        "teacher_proj_std": losses["teacher_std"],
        "cls_terms": terms(student.cls.unflatten(0, (2, -1)), teacher.cls.unflatten(0, (2, -1)), model.config),
        "net_terms": terms(*(p.networks.unflatten(0, (2, -1)).flatten(1, 2) for p in (student, teacher)), model.config),
        **projections("student", student, hidden),
        **projections("teacher", teacher, hidden),
    }


def projections(side: str, found: semantoks.Projections, hidden: Tensor | None) -> dict[str, Tensor]:
    """Return one side's projections by view: class tokens, network means, and hidden tokens where there are any."""
    outputs = {}
    for view, rows in enumerate(torch.arange(len(found.cls)).chunk(2), start=1):
        outputs[f"{side}_cls_proj{view}"] = found.cls[rows]
        outputs[f"{side}_net_proj{view}"] = found.networks[rows].flatten(0, 1)
        if hidden is not None:
            outputs[f"{side}_mask_proj{view}"] = found.tokens[rows][hidden[rows].flatten(1)]
    return outputs


def terms(student: Tensor, teacher: Tensor, config: Config) -> dict[str, Any]:
    """Return the pieces of the coding-rate loss; scale and balance are read off the production functions."""
    loss, agreement, rate = semantoks.coding_rate(student, teacher, config)
    views = (student + teacher) / 2 if config.expansion_of == "both" else student
    n_rows = views.new_full((len(views),), views.shape[1])
    logdet = semantoks.half_logdet(views, n_rows, config.expansion_eps)
    unit = torch.eye(views.shape[1], views.shape[2], dtype=torch.float64)[:1]  # log(1 + scale) / 2
    scale = torch.expm1(2 * semantoks.half_logdet(unit[None], n_rows[:1].double(), config.expansion_eps))
    return {
        "loss": loss,
        "comp_loss": agreement,
        "expa_loss": rate,
        "half_logdet_per_view": logdet,
        "gamma": rate / logdet.mean(),
        "scalar": scale[0],
    }


def released_names(model: Model, c: dict, value) -> dict[str, Any]:
    """Return ``value(name, parameter)`` of every live parameter by its released name."""
    own = dict(model.named_parameters())
    live = [e for e in layout.entries(model, c["encoder"]["atlas_names"]) if e.use == "weight" and e.name in own]
    return {e.key: value(e.name, own[e.name]) for e in live}


LOSSES = ("cls_loss", "network_loss", "mask_loss", "within_view_loss", "network_mask_loss", "total_loss")
SCALARS = (*LOSSES, "student_proj_std", "teacher_proj_std")


def train_trace(c: dict, weights: dict, inputs: dict) -> dict:
    """Some steps of training with the production optimiser, schedules and teacher."""
    model = model_of(c, schedule_fields(c))
    layout.load(model, tensors(weights), c["encoder"]["atlas_names"])
    settings = TrainSettings(
        n_steps=c["total_steps"],
        batch_size=c["batch"],
        lr=c["base_lr"],
        lr_schedule="published",
        warmup=c["warmup_steps"] / c["total_steps"],
        weight_decay=c["weight_decay_start"],
        weight_decay_end=c["weight_decay_end"],
        betas=tuple(c["betas"]),
        clip_norm=c["clip_grad_norm"],
    )
    optimizer = optim.build(model, settings)
    assert optimizer.defaults["eps"] == c["adam_eps"] and len(optimizer.param_groups) == 1
    rows = []
    for step in range(c["steps"]):
        progress = step / c["total_steps"]
        lr = optim.set_schedules(optimizer, settings, step)
        weight = model.network_loss_weight(progress)
        optimizer.zero_grad()
        losses = run_objective(model, c, inputs, weight, c["masked_steps"][step])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm or torch.inf)
        optimizer.step()
        model.after_step(progress)
        scalars = {name: float(losses[name]) for name in SCALARS}
        wd, momentum = optimizer.param_groups[0]["weight_decay"], model.teacher_momentum(progress)
        own = {"lr": lr, "wd": wd, "network_weight": weight, "momentum": momentum, "grad_norm": float(norm)}
        rows.append(scalars | own)
    columns = {f"rows.{name}": [row[name] for row in rows] for name in rows[0]}
    return columns | {"parameters": released_names(model, c, lambda name, parameter: parameter)}


def schedule_fields(c: dict) -> dict[str, Any]:
    """Return the fields of Config that decide schedules, with steps as shares of training."""
    return {
        "teacher_momentum": c["base_teacher_momentum"],
        "network_loss_weight": c["network_loss_weight"],
        "network_loss_delay": c["network_loss_delay_steps"] / c["total_steps"],
        "network_loss_decay": c["network_loss_decay_steps"] / c["total_steps"],
        "network_loss_schedule": c["network_loss_schedule"],
    }


def schedule(c: dict, weights: None, inputs: dict) -> dict:
    """All schedules, step by step."""
    sizes = {"embed_dim": 2, "num_heads": 1, "depth": 0, "branches": branches(None, 2)}
    model = Model(Config(**sizes, **schedule_fields(c), mask_probability=0), Regions.plain("atlas", 3))
    total, warmup = c["total_steps"], c["warmup_steps"]
    decay = (c["weight_decay_start"], c["weight_decay_end"])
    steps = range(total)
    return {
        "lr_factor": [optim.lr_factor(step, total, warmup, zero_first=True) for step in steps],
        "momentum": [model.teacher_momentum(step / total) for step in steps],
        "network_weight": [model.network_loss_weight(step / total) for step in steps],
        "wd": [optim.half_cosine(step, total, *decay) for step in steps],
    }


def layer_decay(c: dict, weights: None, inputs: dict) -> dict:
    """Multipliers of learning rate and weight decay, with biases and norms exempt from decay as meant."""
    with torch.device("meta"):
        model = model_of(c, {"decay_biases_and_norms": False})
    own = dict(model.student.named_parameters())
    found = {}
    for entry in layout.entries(model, c["encoder"]["atlas_names"]):
        name = entry.name.removeprefix("student.")
        if name in own and entry.use != "copy":
            found[entry.key] = model.multipliers(name, c["rate"])
    if c["scope"] == "encoder_only":
        found = {key.removeprefix("student_encoder."): value for key, value in found.items()}
    return {"multipliers": found}


def state_dict(c: dict, weights: None, inputs: dict) -> dict:
    """Names, shapes and types of a released state dict, and the order in which its optimiser saw the parameters."""
    with torch.device("meta"):
        model = model_of(c)
    entries = list(layout.entries(model, c["encoder"]["atlas_names"]))
    own, parameters = model.state_dict(), dict(model.named_parameters())
    like = {e.key: e.fact if e.use == "fact" else own[e.name] for e in entries}
    unique = [e for e in entries if e.use in ("weight", "dead") and e.name in parameters]
    return {
        "keys": {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in like.items()},
        "optimizer_parameter_order": [e.key for e in unique],
        "n_unique_parameters": sum(own[e.name].numel() for e in unique),
    }


# ------------------------------------------------------------------ masks, clips, augmentation


def mask_statistics(c: dict, weights: None, inputs: dict) -> dict:
    """Distributions of drawn masks."""
    kind = {"temporal": "time"}.get(c["masking_type"], c["masking_type"])
    config = published({"mask_kind": kind, "mask_share": tuple(c["masking_ratio"])})
    generator = torch.Generator().manual_seed(0)
    size = (c["reference_draws"], c["networks"], c["patches"])
    masks = semantoks.draw_masks(config, *size, generator).numpy()
    rows, columns = masks.all(2), masks.all(1)  # hidden through and through
    whole_rows = (masks == rows[:, :, None]).all((1, 2)) & rows.any(1)
    whole_columns = (masks == columns[:, None, :]).all((1, 2)) & columns.any(1)
    lengths, starts = columns.sum(1), columns.argmax(1)
    counts = set(rows[whole_rows].sum(1).tolist())
    blocks = set(lengths[~whole_rows].tolist())
    return {
        "network_count_prob": shares(rows.sum(1)),
        "per_network_mask_prob": rows.mean(0),
        "temporal_length_prob": shares(lengths),
        "temporal_start_prob": {str(n): shares(starts[lengths == n]) for n in np.unique(lengths) if n > 0},
        "slice_fraction_network_type": whole_rows.mean(),
        "slice_fraction_time_type": whole_columns.mean(),
        "slice_fraction_empty": 1 - masks.any((1, 2)).mean(),
        "slice_mean_masked_fraction": masks.mean(),
        "examples": lambda mask: is_possible(np.asarray(mask, dtype=bool), counts, blocks),
    }


def shares(values: np.ndarray) -> dict[str, float]:
    """Return the share of every value, by its name."""
    return {str(value): n / len(values) for value, n in Counter(values.tolist()).items()}


def is_possible(mask: np.ndarray, counts: set[int], blocks: set[int]) -> bool:
    """Whether a mask hides a drawn number of whole networks, or one block of patches of a drawn length."""
    rows, columns = mask.all(1), mask.all(0)
    if (mask == rows[:, None]).all() and rows.any():
        return int(rows.sum()) in counts
    one_block = np.abs(np.diff(np.pad(columns.astype(int), 1))).sum() <= 2
    return bool((mask == columns).all() and one_block and int(columns.sum()) in blocks)


def crop_starts(c: dict, weights: None, inputs: dict) -> dict:
    """Starts of clips, or their statistics over many draws."""
    size = (c["full_length"], c["target_length"], c["number_of_crops"])
    if c["crop_starts"].startswith("regular"):
        return {"starts": clips.clip_starts(*size, "regular")}
    rng = np.random.default_rng(0)
    starts = np.stack([clips.clip_starts(*size, "uniform", rng) for _ in range(c["reference_draws"])])
    first, second = starts[:, 0], starts[:, -1]
    return {
        "min": starts.min(),
        "max": starts.max(),
        "mean": starts.mean(),
        "std": starts.std(),
        "corr_view1_view2": np.corrcoef(first, second)[0, 1],
        "mean_abs_distance": np.abs(first - second).mean(),
        "prob_same_start": (first == second).mean(),
    }


def augment_statistics(c: dict, weights: None, inputs: dict) -> dict:
    """Strength of one augmentation, measured on ones."""
    levels = augment.Levels(**{"spatial": 0, "temporal": 0, "scale": 0, "noise": 0, c["augmentation"]: c["level"]})
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(100, c["timepoints"], c["channels"])
    measure = {
        "spatial": lambda out: (out == 0).all(1).sum(1),
        "temporal": lambda out: (out == 0).all(2).sum(1),
        "noise": lambda out: (out - ones).flatten(1).std(1, correction=0),
        "scale": lambda out: out[:, 0, 0],
    }[c["augmentation"]]
    n_batches = -(-c["reference_draws"] // len(ones))
    drawn = (augment.draw(tuple(ones.shape), levels, generator) for _ in range(n_batches))
    strength = torch.cat([measure(augment.apply(ones, draws)) for draws in drawn]).double()
    return {"min": strength.min(), "max": strength.max(), "mean": strength.mean(), "std": strength.std(correction=0)}


def augment_example(c: dict, weights: None, inputs: dict) -> dict:
    """One clip, with draws of numpy's legacy generator in the release's order: all strengths, then the places."""
    spatial, temporal, noise, scale = c["levels"]
    n_regions, n_samples = inputs["x"].shape
    rng = np.random.RandomState(c["numpy_seed"])
    ranges = ((augment.REGION_SHARE, spatial), (augment.TIME_SHARE, temporal), (augment.SCALE, scale))
    region_share, time_share, factor = (rng.uniform(*table[level - 1]) if level else None for table, level in ranges)
    drop_region, drop_time = torch.zeros(1, n_regions, dtype=bool), torch.zeros(1, n_samples, dtype=bool)
    if spatial:
        drop_region[0, rng.choice(n_regions, max(1, int(n_regions * region_share)), replace=False)] = True
    if temporal:
        length = max(1, int(n_samples * time_share))
        start = rng.randint(0, n_samples - length + 1)
        drop_time[0, start : start + length] = True
    extra = None
    if noise:
        extra = torch.from_numpy(rng.normal(0, augment.NOISE_SD[noise - 1], (n_regions, n_samples))).float().T[None]
    draws = augment.Draws(drop_region, drop_time, torch.tensor([factor or 1.0]), extra)
    return {"y": augment.apply(torch.from_numpy(inputs["x"]).T[None], draws)[0].T}


def dataset(c: dict, weights: None, inputs: dict) -> dict:
    """From an HDF5 file to crops: one row per subject in sorted order."""
    names = [name for name, _, _ in c["atlases"]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recordings.h5"
        with h5py.File(path, "w") as file:
            for name in names:
                file[f"timeseries/{name}"] = inputs["timeseries"][name].astype(np.float16)
            file["long_subject_id"] = inputs["subject_ids"]
            file["labels/age"] = inputs["age"]
            if c["write_ts_len"]:
                file["ts_len"] = inputs["ts_len"]
        found = hdf5.read(path, names)
    order = np.argsort(found.subject_ids)
    crops, starts = zip(*(crops_of(found, i, c) for i in order), strict=True)
    return {
        "crops": np.stack(crops).swapaxes(2, 3),
        "starts": np.stack(starts),
        "subject": [found.subject_ids[i] for i in order],
        "age": found.labels["age"][order],
    }


def crops_of(found: hdf5.Exchange, i: int, c: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the crops (crop, time, region) of one recording as the release cuts them, and their starts.

    A valid length from ``ts_len`` bounds the starts but does not cut the recording.
    """
    series = clips.zscore(found.series[i])
    if c["temporal_resampling_tr"] is not None:
        series = clips.resample_linear(series, c["source_tr"] or 2.0, c["temporal_resampling_tr"])
    series = series[: clips.length_before_nan(series)]
    length = found.lengths[i] if c["write_ts_len"] else len(series)
    how = "regular" if c["crop_starts"].startswith("regular") else "uniform"
    target = c["target_signal_length"]
    starts = clips.clip_starts(length, target, c["number_of_crops"], how, np.random.default_rng(0))
    return clips.cut(series, starts, target)[0], starts


# ------------------------------------------------------------------ linear probe


def probe_training(c: dict, weights: dict, inputs: dict) -> dict:
    """The probe's head trained from given weights."""
    assert c["optimizer"] == "sgd" and c["momentum"] == semantoks_probe.MOMENTUM and c["weight_decay"] == 0
    assert c["loss"] == {"classification": "cross_entropy", "regression": "l1"}[c["task"]] and c["batch_norm"]
    generator = torch.Generator().manual_seed(0)
    heads = semantoks_probe.Heads(1, c["feature_dim"], c["num_outputs"], generator)
    names = {"scale": "bn.weight", "shift": "bn.bias", "mean": "bn.running_mean", "variance": "bn.running_var"}
    names |= {"weight": "layer.weight", "bias": "layer.bias"}
    given = tensors(weights)
    like = heads.state_dict()
    state = {own: given[name].t() if own == "weight" else given[name] for own, name in names.items()}
    heads.load_state_dict({own: value.reshape(like[own].shape) for own, value in state.items()})
    x, y = torch.from_numpy(inputs["X"]), torch.from_numpy(inputs["y"])
    n, how = c["n_train"], {"task": c["task"], "epochs": c["epochs"], "batch_size": c["batch_size"]}
    semantoks_probe.train_heads(heads, x[:n], y[:n], [c["lr"]], **how, generator=generator)
    outputs = heads(x[n:])[0].detach()
    n_batches = c["epochs"] * -(-n // c["batch_size"])
    trained = {name: heads.state_dict()[own][0] for own, name in names.items()}
    trained = {name: value.t() if name == "layer.weight" else value.flatten() for name, value in trained.items()}
    return {
        "state": trained | {"bn.num_batches_tracked": int(given["bn.num_batches_tracked"]) + n_batches},
        "val_outputs": outputs,
        "val_primary": semantoks_probe.primary(outputs.numpy(), y[n:].numpy(), c["task"]),
    }


def probe_metrics(c: dict, weights: None, inputs: dict) -> dict:
    """The probe's metrics."""
    return semantoks_probe.score(inputs["outputs"], inputs["labels"], c["task"])


def probe_split(c: dict, weights: None, inputs: dict) -> dict:
    """The probe's split of people."""
    shares = tuple(c["ratio_train_val_test"])
    parts = semantoks_probe.split(inputs["subject_ids"], shares, c["seed"], inputs["strata"])
    return dict(zip(("train", "val", "test"), parts, strict=True))
