"""Checkpoints of Brain-Semantoks (``brainsemantoks_ckpt_epoch_100.pth`` and those of its training script)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from neuropipe.errors import CheckpointError
from neuropipe.hub.published import Entry, fill
from neuropipe.models.layers import StructuredConv
from neuropipe.models.semantoks import Config, Encoder, Model, Side, Tokenizer, networks_of
from neuropipe.shards.hdf5 import SLOTS
from neuropipe.signals.catalogue import base_id
from neuropipe.signals.regions import Regions

SECTION = "model_state_dict"

# Schaefer's parcels in the 7-network order: name and parcels of each network in the left, then the right hemisphere.
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
LEFT, RIGHT = (31, 37, 23, 22, 13, 22, 52), (30, 40, 23, 25, 13, 30, 39)
SUBCORTEX, CEREBELLUM = 50, 7

TRANSFORMER = "inter_network_transformer."
TOKENIZER = re.compile(r"tokenizers\.(\d+)\.(.*)")
# Our names inside an encoder to the released ones; the first that matches counts.
RENAMES = (
    (r"region_projection\.(.*)", r"shared_roi_projection.\1"),
    (r"mask_token", TRANSFORMER + "mask_embedding"),
    (r"cls_token", TRANSFORMER + "cls_token"),
    (r"network_embed", TRANSFORMER + "network_learnable_pos_embedding.weight"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(.*)", TRANSFORMER + r"transformer_blocks.\1.mlp.0.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(.*)", TRANSFORMER + r"transformer_blocks.\1.mlp.3.\2"),
    (r"blocks\.(.*)", TRANSFORMER + r"transformer_blocks.\1"),
)
TOKENIZER_RENAMES = (
    (r"(branches\.\d+)\.conv\.skip", r"\1.slconv.D"),
    (r"(branches\.\d+)\.conv\.decay", r"\1.slconv.multiplier"),
    (r"(branches\.\d+)\.conv\.kernel_norm", r"\1.slconv.kernel_norm"),
    (r"(branches\.\d+)\.conv\.kernels\.(\d+)", r"\1.slconv.kernel_list.\2"),
    (r"(branches\.\d+)\.mix\.(.*)", r"\1.pointwise.\2"),
    (r"attention\.weight", "pool.attention.weight"),
    (r"(.*)", r"\1"),
)
# Order of the parts of an encoder in the release; it decides the order of the released optimiser's parameters.
ORDER = ("tokenizers.", "region_projection.", "mask_token", "cls_token", "network_embed", "blocks.", "norm.")
BLOCK_ORDER = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp", "ls1", "ls2")


def read(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> Model:
    """Return a model with student and teacher from a released state dict; `embed` uses the teacher.

    Raises
    ------
    CheckpointError
        A key or tensor does not fit, the position table is another one, or the regions are in another order.
    """
    config = config or Config.published()
    regions = regions or released_regions()
    check_order(regions, config)
    model = Model(config, regions)
    load(model, weights, slots(regions))
    return model


def slots(regions: Regions) -> list[str]:
    """Return the names that the release gives to the atlases of `regions`."""
    return [SLOTS.get(base_id(atlas), atlas) for atlas in regions.atlases]


def released_regions() -> Regions:
    """Return the 457 regions of the release in their order, with the networks of Schaefer's parcels."""
    counts = dict(zip(SLOTS, (sum(LEFT + RIGHT), SUBCORTEX, CEREBELLUM), strict=True))
    tables = [Regions.plain(atlas, n).table for atlas, n in counts.items()]
    tables[0] = tables[0].assign(network=np.repeat(NETWORKS * 2, LEFT + RIGHT))
    table = pd.concat(tables, ignore_index=True)
    return Regions(table.assign(index=range(len(table))))


def check_order(regions: Regions, config: Config) -> None:
    """Raise where 457 regions are not in the released order (a 17-network order permutes Schaefer's parcels)."""
    released = released_regions()
    if len(regions) != len(released):
        return  # other weights than the released ones; shapes tell
    same = np.array_equal(networks_of(regions, config), networks_of(released, config))
    if not same or (regions.table["label"].to_numpy() != released.table["label"].to_numpy()).any():
        raise CheckpointError(
            "The released weights need Schaefer's 400 parcels in the 7-network order (labels 1-400), then Tian's 50 "
            f"and Buckner's 7; found {_described(regions)} with networks of "
            f"{np.bincount(networks_of(regions, config)).tolist()} regions. "
            "Parcellate with atlases: [schaefer400-7n, tian-s3, buckner7]."
        )


def _described(regions: Regions) -> str:
    return "+".join(regions.atlases) + (f" in the {regions.order}" if regions.order else "")


def load(model: Model, weights: Mapping[str, Tensor], atlases: Sequence[str]) -> None:
    """Fill `model` from a whole released state dict; `atlases` are the release's names of the atlases."""
    for prefix in ("student_", "teacher_"):
        check_positions(model.student.encoder, weights, f"{prefix}encoder.")
    fill(model, entries(model, atlases), weights)
    for side, prefix in ((model.student, "student_"), (model.teacher, "teacher_")):
        freeze_norms(side.encoder, weights, f"{prefix}encoder.", atlases)


def load_encoder(encoder: Encoder, weights: Mapping[str, Tensor], atlases: Sequence[str]) -> None:
    """Fill one encoder from its part of a released state dict, prefix removed."""
    check_positions(encoder, weights, "")
    fill(encoder, encoder_entries(encoder, atlases), weights)
    freeze_norms(encoder, weights, "", atlases)


def check_positions(encoder: Encoder, weights: Mapping[str, Tensor], prefix: str) -> None:
    """Raise where the stored table of temporal positions is not the computed one."""
    key = f"{prefix}{TRANSFORMER}temporal_pos_embedding"
    if key not in weights:
        return
    stored, computed = weights[key].float(), encoder.positions.cpu()
    if stored.shape != computed.shape or not torch.allclose(stored, computed, rtol=0, atol=1e-5):
        raise CheckpointError(
            f"{key}: the stored position table {tuple(stored.shape)} is not the sine and cosine table "
            f"{tuple(computed.shape)} of this model. The weights were trained with other positions, patch size or "
            "length of clip; pass the config they were made with."
        )


def freeze_norms(encoder: Encoder, weights: Mapping[str, Tensor], prefix: str, atlases: Sequence[str]) -> None:
    """Set the divisors of kernels that had never run when they were saved, as their first run would have."""
    for name, module in encoder.named_modules():
        if isinstance(module, StructuredConv):
            flag = weights.get(prefix + _tokenizer_key(encoder, f"{name}.kernel_norm", atlases[0]) + "_initialized")
            if flag is not None and not flag:
                module.freeze_norm()


def entries(model: Model, atlases: Sequence[str]) -> Iterator[Entry]:
    """Yield every key of a released state dict in the order of the release."""
    for which in ("student", "teacher"):
        for entry in encoder_entries(getattr(model, which).encoder, atlases):
            name = f"{which}.encoder.{entry.name}" if entry.name else ""
            yield replace(entry, key=f"{which}_encoder.{entry.key}", name=name)
    for head, use in (("predictor", "weight"), ("mask_predictor", "copy")):
        for which in ("student", "teacher"):
            side: Side = getattr(model, which)
            ours = "head" if head == "predictor" or side.mask_head is None else "mask_head"
            for name in getattr(side, ours).state_dict():  # layers.<i>.weight
                _, i, kind = name.split(".")
                key = f"mlp.{kind}" if model.config.head_layers == 1 else f"mlp.{2 * int(i)}.{kind}"
                yield Entry(f"{which}_{head}.{key}", f"{which}.{ours}.{name}", use if ours == "head" else "weight")


def encoder_entries(encoder: Encoder, atlases: Sequence[str]) -> Iterator[Entry]:
    """Yield every released key of an encoder.

    Only the tokenizers of the first atlas are used, each other atlas has a dead set; so is the
    transformer's own norm dead. The flags of the kernel norms and the position table are facts.
    """
    names = sorted(encoder.state_dict(), key=_rank)  # stable: what has no rank of its own keeps our order
    for atlas in atlases:
        for name in names:
            if TOKENIZER.fullmatch(name):
                key = _tokenizer_key(encoder, name, atlas)
                yield Entry(key, name, "weight" if atlas == atlases[0] else "dead")
                if name.endswith("kernel_norm"):
                    yield Entry(f"{key}_initialized", "", "fact", torch.tensor(True))
    norms = [name for name in names if name.startswith("norm.")]
    for name in names:
        if not TOKENIZER.fullmatch(name) and name not in norms:
            yield Entry(_rename(name, RENAMES), name)
        if name == "cls_token":
            yield Entry(f"{TRANSFORMER}temporal_pos_embedding", "", "fact", encoder.positions)
    yield from (Entry(TRANSFORMER + name, name, "dead") for name in norms)
    yield from (Entry(name, name) for name in norms)


def _tokenizer_key(encoder: Encoder, name: str, atlas: str) -> str:
    network, rest = TOKENIZER.fullmatch(name).groups()
    return f"network_tokenizers.{atlas}.{network}.{tokenizer_key(encoder.tokenizers[int(network)], rest)}"


def tokenizer_key(tokenizer: Tokenizer, name: str) -> str:
    """Return the released name of one of a tokenizer's tensors."""
    if match := re.fullmatch(r"(branches\.(\d+))\.filter\.(.*)", name):
        branch, i, kind = match.groups()
        depthwise = not isinstance(tokenizer.branches[int(i)].mix, nn.Identity)
        return f"{branch}.{'depthwise.' * depthwise}{kind}"
    return _rename(name, TOKENIZER_RENAMES)


def _rename(name: str, table: Sequence[tuple[str, str]]) -> str:
    return next(re.sub(pattern, new, name) for pattern, new in table if re.fullmatch(pattern, name))


def _rank(name: str) -> tuple[int, int, int]:
    part = next(i for i, start in enumerate(ORDER) if name.startswith(start))
    if ORDER[part] != "blocks.":
        return part, 0, 0
    _, block, rest = name.split(".", 2)
    return part, int(block), next(i for i, start in enumerate(BLOCK_ORDER) if rest.startswith(start))
