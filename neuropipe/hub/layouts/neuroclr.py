"""Checkpoints of NeuroCLR in Hugging Face's layout: the encoder with its projector, or the classifier.

<folder>/config.json, model.safetensors                    the encoder
<folder>/classification/config.json, model.safetensors     the classifier, the encoder's names behind ``encoder.``

The names of the parts are known, what stands before them is not the same everywhere and is taken off.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from neuropipe.errors import CheckpointError
from neuropipe.hub.published import Entry, fill
from neuropipe.models.neuroclr import Classifier, Config, Head, Model
from neuropipe.signals.regions import Regions

SECTION = "state_dict"

log = logging.getLogger("neuropipe")

STEMS = "transformer_encoder", "projector", "first_block_conv", "first_block_bn", "basicblock_list", "final_bn", "dense"
KEY = re.compile(rf"(?:.*?\.)?((?:{'|'.join(STEMS)})\..+)")
COUNTER = "num_batches_tracked"  # of no use where running statistics have a fixed momentum; may be absent
# Fields of the released config.json by those of `Config`, and of its `head`.
FIELDS = {
    "n_samples": "TSlength",
    "num_heads": "nhead",
    "depth": "nlayer",
    "pooling": "pooling",
    "normalize_input": "normalize_input",
    "head_hidden_dim": "projector_out1",
    "head_dim": "projector_out2",
    "drop_rate": "encoder_dropout",
    "freeze_encoder": "freeze_encoder",
    "inputs_are_embeddings": "inputs_are_embeddings",
}
HEAD_FIELDS = {name: name for name in Head.model_fields if name != "drop_rate"} | {"drop_rate": "head_dropout"}


def released_regions() -> Regions:
    """Return the 200 regions of the release; the encoder alone reads any."""
    return Regions.plain("cc200", 200)


def config_beside(path: Path) -> Config:
    """Return the settings that the ``config.json`` beside a checkpoint names; what it leaves out is as released.

    Raises
    ------
    CheckpointError
        The file is of another kind of model, or its values are none of this family's.
    """
    beside = path.with_name("config.json")
    if not beside.is_file():
        log.info("No config.json beside %s: the published settings are assumed.", path.name)
        return Config.published()
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
        if found.get("model_type") != "neuroclr":
            raise CheckpointError(f"{beside}: expected model_type neuroclr, found {found.get('model_type')!r}.")
        return from_released(found)
    except ValueError as error:  # not JSON, or values that do not fit
        raise CheckpointError(f"{beside} cannot be read as the settings of neuroclr: {error}") from error


def from_released(found: Mapping[str, Any]) -> Config:
    """Return a Config from the fields of a released config.json."""
    own = Config.published().model_dump()
    own |= {ours: found[theirs] for ours, theirs in FIELDS.items() if theirs in found}
    own["head"] |= {ours: found[theirs] for ours, theirs in HEAD_FIELDS.items() if theirs in found}
    if found.get("dim_feedforward"):
        own["mlp_ratio"] = found["dim_feedforward"] / own["n_samples"]
    return Config.model_validate(own)


def to_released(config: Config) -> dict[str, Any]:
    """Return the fields of a released config.json, those of encoder and head."""
    fields = {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    fields |= {theirs: getattr(config.head, ours) for ours, theirs in HEAD_FIELDS.items()}
    return fields | {"dim_feedforward": round(config.n_samples * config.mlp_ratio)}


def read(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> Model | Classifier:
    """Return the encoder as a `Model`, or a `Classifier` where the keys are those of one.

    A classifier may lack the projector, which it does not use.

    Raises
    ------
    CheckpointError
        A key is unknown, missing or there twice, or a tensor does not fit.
    """
    config = config or Config.published()
    if config.variant != "published":
        raise CheckpointError("Released weights of neuroclr need variant: published in the recipe's model section.")
    keys = parts(weights)
    if "dense.weight" in keys or any(key.startswith("basicblock_list.") for key in keys):
        module: Model | Classifier = _classifier(weights, keys, config)
    else:
        module = Model(config, regions or released_regions())
    headless = isinstance(module, Classifier) and not any(key.startswith("projector.") for key in keys)
    known = [replace(entry, key=keys.get(entry.key, entry.key)) for entry in entries(module)]
    if headless:
        known = [replace(entry, optional=entry.optional or "projector." in entry.name) for entry in known]
    fill(module, known, weights)
    return module


def parts(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the keys by what is left of them without a prefix; a key that is no part's keeps its name."""
    found: dict[str, str] = {}
    for key in weights:
        match = KEY.fullmatch(key)
        part = match[1] if match else key
        if part in found:
            raise CheckpointError(f"{key} and {found[part]} are the same part, {part}; expected one model per file.")
        found[part] = key
    return found


def _classifier(weights: Mapping[str, Tensor], keys: Mapping[str, str], config: Config) -> Classifier:
    needed = ("first_block_conv.conv.weight", "dense.weight")
    if missing := [key for key in needed if key not in keys]:
        raise CheckpointError(f"The classifier lacks {', '.join(missing)}, which tell its regions and labels.")
    first, last = (weights[keys[key]] for key in needed)
    return Classifier(config, first.shape[1], last.shape[0])


def entries(module: nn.Module) -> Iterator[Entry]:
    """Yield every part of a `Model`'s encoder, or of a `Classifier`, without any prefix."""
    for name in module.state_dict():
        yield Entry(name.partition(".")[2], name, optional=name.endswith(COUNTER))
