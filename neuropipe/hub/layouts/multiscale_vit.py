"""Checkpoints of NeuroSSL (``checkpoint_best.pt``): the whole classifier under ``model_state``.

The number of classes and whether there is a covariance branch, the keys tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from neuropipe.errors import CheckpointError
from neuropipe.hub.published import Entry, fill
from neuropipe.models.multiscale_vit import Classifier, Config
from neuropipe.signals.regions import Regions

SECTION = "model_state"

OUR_OWN = ("head.temperature", "head.bias")  # the calibration, which the release keeps outside its weights
# Our names to the released ones; the first that matches counts.
TABLE = (
    (r"encoder\.patch_embed\.(.*)", r"encoder.patch_embed.proj.\1"),
    (r"(encoder\.blocks\.\d+\.attn)\.qkv\.(.*)", r"\1.in_proj_\2"),
    (r"(encoder\.blocks\.\d+\.attn)\.proj\.(.*)", r"\1.out_proj.\2"),
    (r"(encoder\.blocks\.\d+\.mlp)\.fc1\.(.*)", r"\1.0.\2"),
    (r"(encoder\.blocks\.\d+\.mlp)\.fc2\.(.*)", r"\1.3.\2"),
    (r"head\.fusion\.fc\.(.*)", r"encoder.scale_fusion.0.\1"),
    (r"head\.fusion\.norm\.(.*)", r"encoder.scale_fusion.2.\1"),
    (r"head\.covariance\.fc1\.(.*)", r"cov_proj.0.\1"),
    (r"head\.covariance\.fc2\.(.*)", r"cov_proj.3.\1"),
    (r"head\.norm\.(.*)", r"head.0.\1"),
    (r"head\.fc\.(.*)", r"head.2.\1"),
    (r"(encoder\..*)", r"\1"),
)


def read(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> Classifier:
    """Return the released classifier.

    Raises
    ------
    CheckpointError
        A key is unknown or missing, or a tensor does not fit.
    """
    config = config or Config.published()
    if "head.2.weight" not in weights:
        raise CheckpointError("The checkpoint lacks head.2.weight; expected a whole classifier, as it was released.")
    if not any(key.startswith("cov_proj.") for key in weights):
        config = config.model_copy(update={"covariance": "none"})
    module = Classifier(config, n_classes=len(weights["head.2.weight"]))
    fill(module, entries(module), weights)
    return module


def entries(module: Classifier) -> Iterator[Entry]:
    """Yield every key of a released state dict of `module` in its order, then our calibration, which may be absent."""
    for name in module.state_dict():
        if name not in OUR_OWN:
            key = next(re.sub(pattern, new, name) for pattern, new in TABLE if re.fullmatch(pattern, name))
            yield Entry(key, name)
    for name in OUR_OWN:
        yield Entry(f"neuropipe.{name}", name, optional=True)
