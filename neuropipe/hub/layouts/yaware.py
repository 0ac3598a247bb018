"""Checkpoints of y-Aware (``DenseNet121_BHB-10K_yAwareContrastive.pth`` and those of its training script).

An encoder with or without its projection head, a classifier or a segmenter; which one it is, and of which
backbone, the keys tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from neuropipe.hub.published import Entry, fill
from neuropipe.models.yaware import Classifier, Config, Model, Segmenter
from neuropipe.signals.regions import Regions

SECTION = "model"

COUNTER = "num_batches_tracked"  # of no use where running statistics have a fixed momentum; may be absent
# Our names to the released ones; the first that matches counts, and numbers in angle brackets count from 1 there.
BACKBONE = (
    (r"backbone\.(conv0|norm0)\.(.*)", r"features.\1.\2"),
    (r"backbone\.blocks\.(\d+)\.(\d+)\.(.*)", r"features.denseblock<\1>.denselayer<\2>.\3"),
    (r"backbone\.transitions\.(\d+)\.(.*)", r"features.transition<\1>.\2"),
    (r"backbone\.final_norm\.(.*)", r"features.norm5.\1"),
    (r"backbone\.levels\.(\d+)\.(.*)", r"down.\1.doubleconv.\2"),
)
HEADS = {
    Model: ((r"head\.fc1\.(.*)", r"hidden_representation.\1"), (r"head\.fc2\.(.*)", r"head_projection.\1")),
    Classifier: ((r"head\.(.*)", r"classifier.\1"),),
    Segmenter: (
        (r"upconvs\.(\d+)\.(.*)", r"up.\1.upconv.\2"),
        (r"levels\.(\d+)\.(.*)", r"up.\1.doubleconv.\2"),
        (r"(conv_final\..*)", r"\1"),
    ),
}


def read(weights: Mapping[str, Tensor], regions: Regions | None, config: Config | None) -> nn.Module:
    """Return a `Model`, or a `Classifier` or `Segmenter` where the keys are those of one.

    Without a projection head in the checkpoint the model's head is left as it was initialised; `embed` does
    not use it.

    Raises
    ------
    CheckpointError
        A key is unknown or missing, or a tensor does not fit.
    """
    config = config or Config.published()
    if any(key.startswith("down.") for key in weights):
        config = config.model_copy(update={"backbone": "unet"})
    module = _module(weights, config)
    load(module, weights)
    return module


def _module(weights: Mapping[str, Tensor], config: Config) -> nn.Module:
    if "conv_final.weight" in weights:
        return Segmenter(config, len(weights["conv_final.weight"]))
    if "classifier.weight" in weights:
        return Classifier(config.model_copy(update={"final_norm": True}), len(weights["classifier.weight"]))
    if "classifier.fc2.weight" in weights:
        n_classes, hidden_dim = weights["classifier.fc2.weight"].shape
        return Classifier(config, n_classes, hidden_dim, activate_output=True)
    return Model(config)


def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fill `module` from a released state dict; all of its backbone must be there, and its head all or not at all."""
    headless = isinstance(module, Model) and not weights.keys() & {e.key for e in entries(module) if _of_head(e)}
    fill(module, (replace(e, optional=e.optional or (headless and _of_head(e))) for e in entries(module)), weights)


def _of_head(entry: Entry) -> bool:
    return entry.name.startswith("head.")


def entries(module: nn.Module) -> Iterator[Entry]:
    """Yield every key of a released state dict of `module`, in the order of our tensors."""
    table = BACKBONE + HEADS[type(module)]
    for name in module.state_dict():
        yield Entry(_rename(name, table), name, optional=name.endswith(COUNTER))


def _rename(name: str, table: Sequence[tuple[str, str]]) -> str:
    key = next(re.sub(pattern, new, name) for pattern, new in table if re.fullmatch(pattern, name))
    return re.sub(r"<(\d+)>", lambda found: str(int(found[1]) + 1), key)
