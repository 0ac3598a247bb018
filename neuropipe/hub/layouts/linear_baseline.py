"""Checkpoints of the linear baseline of learning-from-brains, which was released as code only.

A file of its training script holds an unembedder too, which nothing uses.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from neuropipe.errors import CheckpointError
from neuropipe.hub.published import Entry, fill
from neuropipe.models.linear_baseline import Config, Model
from neuropipe.models.network import OnEmbedding
from neuropipe.signals.regions import Regions

SECTION = "state_dict"

HEAD, OVER_TIME, DEAD = "decoder.decoding_head.0.", "decoder.timseries_model.0.", "unembedder."


def read(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> OnEmbedding:
    """Return the trained baseline with its decoding head; regions and clip are as many as the weights say.

    Raises
    ------
    CheckpointError
        A key is unknown or missing, or a tensor does not fit.
    """
    if missing := [key for key in (f"{HEAD}weight", f"{OVER_TIME}weight") if key not in weights]:
        raise CheckpointError(f"The checkpoint lacks {', '.join(missing)}: it is no linear baseline.")
    n_outputs, n_regions = weights[f"{HEAD}weight"].shape
    n_samples = weights[f"{OVER_TIME}weight"].shape[1]
    config = config or Config.published().model_copy(update={"n_samples": n_samples})
    network = Model(config, regions or Regions.plain("difumo1024", n_regions)).classifier(n_outputs, None)
    fill(network, entries(network, weights), weights)
    return network


def entries(network: nn.Module, weights: Mapping[str, Tensor]) -> list[Entry]:
    """Return every key of a released state dict in the order of the release."""
    own = [Entry(f"{HEAD}{kind}", f"fc.{kind}") for kind in ("weight", "bias")]
    own += [Entry(f"{OVER_TIME}{kind}", f"model.over_time.{kind}") for kind in ("weight", "bias")]
    return own + [Entry(key, "", "fact", value) for key, value in weights.items() if key.startswith(DEAD)]
