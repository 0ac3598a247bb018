"""Checkpoints of the autoencoder of learning-from-brains (``pytorch_model.bin``), pretrained or with a decoding head.

The tensors of the published file are views into shared storages: each LSTM has one of its own, all other weights
lie in the optimiser's flat storage, and the LSTMs' in it once more. Both must be the same; what is loaded is a copy,
so that no storage is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neuropipe.errors import CheckpointError
from neuropipe.hub.published import Entry, fill
from neuropipe.models.autoencoder import Config, Model
from neuropipe.models.embedder import DecodingNetwork
from neuropipe.signals.regions import Regions

SECTION = "state_dict"

N_REGIONS = 1024  # of DiFuMo, which the release was trained on
HEAD = "decoder.decoding_head.0."


# Our names to the released ones, in the order of the release; a layer, its norm, GELU and dropout have four numbers.
TABLE = (
    (r"embedder\.projection\.(layers|norms)\.(\d+)\.(.*)", lambda m: f"embedder.embed_model.model.{place(m)}.{m[3]}"),
    (r"embedder\.time_table\.(.*)", r"embedder.wt_re.\1"),
    (r"encoder\.pool\.(.*)", r"decoder.encoder.pooler_layer.1.\1"),
    (r"encoder\.lstms\.(.*)", r"decoder.encoder.lstms.\1"),
    (r"encoder\.norms\.(\d+)\.(.*)", r"decoder.encoder.layer_norms.\1.0.\2"),
    (r"decoder\.cells\.(\d+)\.(.*)", r"decoder.decoder.lstms.\1.\2_l0"),
    (r"decoder\.norms\.(\d+)\.(.*)", r"decoder.decoder.layer_norms.\1.0.\2"),
    (r"decoder\.out\.(.*)", r"decoder.decoder.linear_output_layer.1.\1"),
    (r"fc\.(.*)", HEAD + r"\1"),
    (r"unembedder\.(layers|norms)\.(\d+)\.(.*)", lambda m: f"unembedder.model.{place(m)}.{m[3]}"),
)


def place(match: re.Match) -> int:
    """Return the number that the release gives to a layer or its norm."""
    return 4 * int(match[2]) + (match[1] == "norms")


def read(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> Model:
    """Return the released model; a decoding head is set aside (see `decoder`).

    Raises
    ------
    CheckpointError
        A key is unknown or missing, a tensor does not fit, or the file contradicts itself.
    """
    check_twice(weights)
    model = Model(config or Config.published(), regions or Regions.plain("difumo1024", N_REGIONS))
    head = [Entry(key, "", "fact", value) for key, value in weights.items() if key.startswith(HEAD)]
    fill(model, [*entries(model), *head], weights)
    report = model.load_report
    model.load_report = [fate._replace(became="set aside") if fate.key.startswith(HEAD) else fate for fate in report]
    return model


def decoder(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> DecodingNetwork:
    """Return a model that was trained to decode, with its head; errors are those of `read`."""
    if f"{HEAD}weight" not in weights:
        raise CheckpointError(f"The checkpoint lacks {HEAD}weight: it was not trained to decode.")
    model = Model(config or Config.published(), regions or Regions.plain("difumo1024", N_REGIONS))
    network = model.classifier(len(weights[f"{HEAD}weight"]), model.config.drop_rate)
    fill(network, entries(network), weights)
    return network


def entries(module: nn.Module) -> list[Entry]:
    """Return every key of a released state dict in the order of the release."""
    found = [(*_key(name.removeprefix("model.")), name) for name in module.state_dict()]
    ranked = sorted(found, key=lambda one: (one[0], _numbers(one[1])))  # stable: the rest is our order
    return [Entry(key, name) for _, key, name in ranked]


def _key(name: str) -> tuple[int, str]:
    """Return the released name of a tensor and the place of its part in the release."""
    return next(
        (rank, re.sub(pattern, new, name)) for rank, (pattern, new) in enumerate(TABLE) if re.fullmatch(pattern, name)
    )


def _numbers(key: str) -> list[int]:
    return [int(number) for number in re.findall(r"\.(\d+)\.", key)]


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
