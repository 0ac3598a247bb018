"""Checkpoints of the autoencoder of learning-from-brains (``pytorch_model.bin``), pretrained or with a decoding head.

The tensors of the published file are views into shared storages: each LSTM has one of its own, all other weights
lie in the optimiser's flat storage, and the LSTMs' in it once more. Both must be the same; what is loaded is a copy,
so that no storage is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuropipe.errors import CheckpointError
from neuropipe.hub.layouts import learning_from_brains as shared
from neuropipe.hub.layouts.learning_from_brains import SECTION, released_regions
from neuropipe.hub.published import Entry, fill
from neuropipe.models.autoencoder import Config, Decoder, Encoder, Model
from neuropipe.models.embedder import DecodingNetwork
from neuropipe.signals.regions import Regions

__all__ = ["SECTION", "decoder", "read", "released_regions"]

ENCODER, DECODER = "decoder.encoder.", "decoder.decoder."


def read(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> Model:
    """Return the released model; a decoding head is set aside (see `decoder`).

    Raises
    ------
    CheckpointError
        A key is unknown or missing, a tensor does not fit, or the file contradicts itself.
    """
    check_twice(weights)
    model = Model(config or Config.published(), regions or released_regions())
    head = [Entry(key, "", "fact", value) for key, value in weights.items() if key.startswith(shared.HEAD)]
    fill(model, [*entries(model), *head], weights)
    model.load_report = [shared.set_aside(fate) for fate in model.load_report]
    return model


def decoder(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> DecodingNetwork:
    """Return a model that was trained to decode, with its head; errors are those of `read`."""
    if f"{shared.HEAD}weight" not in weights:
        raise CheckpointError(f"The checkpoint lacks {shared.HEAD}weight: it was not trained to decode.")
    check_twice(weights)
    model = Model(config or Config.published(), regions or released_regions())
    network = model.classifier(len(weights[f"{shared.HEAD}weight"]), model.config.drop_rate)
    fill(network, entries(network), weights)
    return network


def entries(module: nn.Module) -> list[Entry]:
    """Return every key of a released state dict in the order of the release: of a model, or of one that decodes."""
    prefix, model = ("model.", module.model) if isinstance(module, DecodingNetwork) else ("", module)
    found = list(shared.projection(model.embedder.projection, "embedder.projection", "embedder.embed_model.model"))
    if model.embedder.time_table is not None:
        found.append(Entry("embedder.wt_re.weight", "embedder.time_table.weight"))
    found += [*_encoder(model.encoder), *_decoder(model.decoder)]
    found = [replace(entry, name=prefix + entry.name) for entry in found]
    if prefix:
        found += _layer(shared.HEAD, "fc.")
    return [*found, *shared.projection(model.unembedder, f"{prefix}unembedder", "unembedder.model")]


def _encoder(module: Encoder) -> Iterator[Entry]:
    yield from _layer(f"{ENCODER}pooler_layer.1.", "encoder.pool.")
    for i, lstm in enumerate(module.lstms):
        yield from (Entry(f"{ENCODER}lstms.{i}.{name}", f"encoder.lstms.{i}.{name}") for name in lstm.state_dict())
    for i in range(len(module.norms)):
        yield from _layer(f"{ENCODER}layer_norms.{i}.0.", f"encoder.norms.{i}.")


def _decoder(module: Decoder) -> Iterator[Entry]:
    for i, cell in enumerate(module.cells):
        yield from (Entry(f"{DECODER}lstms.{i}.{name}_l0", f"decoder.cells.{i}.{name}") for name in cell.state_dict())
    for i in range(len(module.norms)):
        yield from _layer(f"{DECODER}layer_norms.{i}.0.", f"decoder.norms.{i}.")
    yield from _layer(f"{DECODER}linear_output_layer.1.", "decoder.out.")


def _layer(key: str, name: str) -> list[Entry]:
    return [Entry(key + part, name + part) for part in ("weight", "bias")]


def check_twice(weights: Mapping[str, Tensor]) -> None:
    """Raise where a storage that holds all weights in their order does not hold the weights as they are."""
    tensors = list(weights.values())
    total = sum(tensor.nbytes for tensor in tensors)
    for tensor in tensors:
        if tensor.nbytes < tensor.untyped_storage().nbytes() == total:
            flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            if not torch.equal(flat, torch.cat([other.flatten() for other in tensors])):
                raise CheckpointError(
                    "The checkpoint holds its weights twice, and the two differ; it was damaged. Fetch it again."
                )
            return
