"""Checkpoints of the transformers of learning-from-brains (``pytorch_model.bin``), pretrained or with a decoding head.

GPT-2 keeps its linear layers input-major and queries, keys and values in one; BERT keeps them apart. Both carry
constants of the version of transformers that wrote them, and an embedding of words that nothing uses. The published
file of CSM lacks the pooler, which then stays as it is initialised.

`csm`, `sequence_bert` and `network_bert` beside this file are its doors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuropipe.errors import CheckpointError
from neuropipe.hub.published import Entry, Fate, fill
from neuropipe.models import csm
from neuropipe.models.embedder import DecodingNetwork, Projection
from neuropipe.signals.regions import Regions

SECTION = "state_dict"

N_REGIONS = 1024  # of DiFuMo, which the release was trained on
HEAD = "decoder.decoding_head.0."
GPT, BERT = "decoder.transformer.", "decoder.transformer.encoder.layer."
WORDS = "decoder.transformer.embeddings."


def released_regions() -> Regions:
    """Return the regions of the release, of which only the order is known."""
    return Regions.plain("difumo1024", N_REGIONS)


def read(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Fill a pretraining model; a decoding head is set aside (see `decoder`).

    Raises
    ------
    CheckpointError
        A key is unknown or missing, or a tensor does not fit.
    """
    head = [Entry(key, "", "fact", value) for key, value in weights.items() if key.startswith(HEAD)]
    fill(model, [*entries(model), *head], weights)
    model.load_report = [_set_aside(fate) for fate in model.load_report]
    return model


def _set_aside(fate: Fate) -> Fate:
    return fate._replace(became="set aside") if fate.key.startswith(HEAD) else fate


def decoder(model: nn.Module, weights: Mapping[str, Tensor]) -> DecodingNetwork:
    """Return a model that was trained to decode, with its head; errors are those of `read`."""
    if f"{HEAD}weight" not in weights:
        raise CheckpointError(f"The checkpoint lacks {HEAD}weight: it was not trained to decode.")
    network = model.classifier(len(weights[f"{HEAD}weight"]), model.config.drop_rate)
    fill(network, entries(network), weights)
    return network


# ------------------------------------------------------------------ keys in the order of the release


def entries(module: nn.Module) -> list[Entry]:
    """Return every key of a released state dict: of a model, or of a network that decodes."""
    prefix, model = ("model.", module.model) if isinstance(module, DecodingNetwork) else ("", module)
    causal = isinstance(model, csm.Model)
    found = [*_embedder(model), *(_gpt(model) if causal else _bert(model))]
    found += _pooler(model, optional=causal)
    if not causal:
        found += [Entry(f"decoder.is_next_head.0.{part}", f"next_head.{part}", optional=bool(prefix)) for part in _WB]
    found = [replace(entry, name=entry.name and prefix + entry.name) for entry in found]
    if prefix:
        found += [Entry(f"{HEAD}{part}", f"fc.{part}") for part in _WB]
    back = projection(model.unembedder, f"{prefix}unembedder", "unembedder.model")
    return [*found, *back]


_WB = ("weight", "bias")


def projection(module: Projection, name: str, key: str) -> Iterator[Entry]:
    """Yield the keys of linear layers and norms: a layer, its norm, GELU and dropout have four numbers."""
    for i in range(len(module.layers)):
        yield from (Entry(f"{key}.{4 * i}.{part}", f"{name}.layers.{i}.{part}") for part in _WB)
        if i < len(module.norms):
            yield from (Entry(f"{key}.{4 * i + 1}.{part}", f"{name}.norms.{i}.{part}") for part in _WB)


def _embedder(model: nn.Module) -> Iterator[Entry]:
    tokens, n_regions = model.embedder.tokens, model.embedder.projection.layers[0].in_features
    for key, own in (("msk", "mask"), ("cls", "cls"), ("sep", "sep")):
        if own in tokens:
            place = _row if own == "sep" else _all  # the release has no axis of time there
            yield Entry(f"embedder.{key}_embed", f"embedder.tokens.{own}", place=place)
        elif own != "sep":  # CSM has none, and does without the others where nothing needs them
            yield Entry(f"embedder.{key}_embed", "", "dead", torch.empty(1, 1, n_regions, device="meta"))
    yield from projection(model.embedder.projection, "embedder.projection", "embedder.embed_model.model")
    if model.embedder.time_table is not None:
        yield Entry("embedder.wt_re.weight", "embedder.time_table.weight")


def _pooler(model: nn.Module, optional: bool) -> Iterator[Entry]:
    for part, shape in (("weight", (model.config.embed_dim,) * 2), ("bias", (model.config.embed_dim,))):
        key = f"decoder.pooler_layer.0.{part}"
        if model.pooler is None:
            yield Entry(key, "", "dead", torch.empty(shape, device="meta"))
        else:
            yield Entry(key, f"pooler.fc.{part}", optional=optional)


def _all(tensor: Tensor) -> Tensor:
    return tensor


def _row(tensor: Tensor) -> Tensor:
    return tensor[0]


def _gpt(model: nn.Module) -> Iterator[Entry]:
    config = model.config
    yield Entry(f"{GPT}wte.weight", "", "dead", torch.empty(1, config.embed_dim, device="meta"))
    if model.decoder.positions.table is not None:
        yield Entry(f"{GPT}wpe.weight", "decoder.positions.table.weight")
    causal = torch.ones(1, 1, config.n_positions, config.n_positions, dtype=torch.uint8).tril()
    for i in range(config.depth):
        key, name = f"{GPT}h.{i}.", f"decoder.blocks.{i}."
        yield from _pair(key + "ln_1", name + "norm1")
        yield Entry(f"{key}attn.bias", "", "fact", causal, optional=True)
        yield Entry(f"{key}attn.masked_bias", "", "fact", torch.tensor(-1e4), optional=True)
        for released, own in (("attn.c_attn", "attn.qkv"), ("attn.c_proj", "attn.proj")):
            yield from _pair(key + released, name + own, Tensor.t)
        yield from _pair(key + "ln_2", name + "norm2")
        for released, own in (("mlp.c_fc", "fc1"), ("mlp.c_proj", "fc2")):
            yield from _pair(key + released, name + own, Tensor.t)
    yield from _pair(f"{GPT}ln_f", "decoder.last_norm")


def _bert(model: nn.Module) -> Iterator[Entry]:
    config = model.config
    places = torch.arange(config.n_positions)[None]
    yield Entry(f"{WORDS}position_ids", "", "fact", places, optional=True)
    words = torch.empty(1, config.embed_dim, device="meta")
    yield Entry(f"{WORDS}word_embeddings.weight", "", "dead", words)
    if model.decoder.positions.table is not None:
        yield Entry(f"{WORDS}position_embeddings.weight", "decoder.positions.table.weight")
    yield Entry(f"{WORDS}token_type_embeddings.weight", "decoder.parts.weight")
    yield from _pair(f"{WORDS}LayerNorm", "decoder.norm")
    for i in range(config.depth):
        key, name = f"{BERT}{i}.", f"decoder.blocks.{i}."
        for k, part in enumerate(("query", "key", "value")):
            third = _rows(k * config.embed_dim, (k + 1) * config.embed_dim)
            yield from _pair(f"{key}attention.self.{part}", name + "attn.qkv", third, third)
        yield from _pair(key + "attention.output.dense", name + "attn.proj")
        yield from _pair(key + "attention.output.LayerNorm", name + "norm1")
        yield from _pair(key + "intermediate.dense", name + "fc1")
        yield from _pair(key + "output.dense", name + "fc2")
        yield from _pair(key + "output.LayerNorm", name + "norm2")


def _rows(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[start:stop]


def _pair(
    key: str,
    name: str,
    of_weight: Callable[[Tensor], Tensor] = _all,
    of_bias: Callable[[Tensor], Tensor] = _all,
) -> Iterator[Entry]:
    """Yield weight and bias of one layer."""
    yield Entry(f"{key}.weight", f"{name}.weight", place=of_weight)
    yield Entry(f"{key}.bias", f"{name}.bias", place=of_bias)
