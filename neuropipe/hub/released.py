"""A released classifier as a network for a task: NeuroSSL's checkpoint with the settings it was published with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from neuropipe.data.batch import Batch
from neuropipe.errors import CheckpointError, ConfigError
from neuropipe.hub.finetuned import Finetuned
from neuropipe.hub.published import published, read_weights
from neuropipe.models.multiscale_vit import Classifier, Config, Evidence, standardize
from neuropipe.models.network import Network

FAMILY = "multiscale_vit"
HEAD_WIDTH = 64  # of an attention head in every published size; the weights do not tell it
N_PASSES = 10
KEYS = ("encoder.cls_token", "encoder.pos_embed", "head.2.weight")  # by which a checkpoint of the family is known


class TwoClasses(Network):
    """A classifier with two classes, whose difference is the log odds of the second one."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def deciding(self) -> nn.Module:
        """Norm and linear layer are the covariance head's."""
        return self.classifier.head

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Evidence:
        """Return the head's evidence of every slice."""
        images = standardize(batch.image, self.classifier.config)
        return self.classifier.head.evidence(self.classifier.encoder(images, generator=generator))

    def features(self, encoded: Evidence) -> Tensor:
        """Return the class token, (rows, width)."""
        return encoded.parts

    def decide(self, encoded: Evidence, generator: torch.Generator | None = None) -> Tensor:
        """Return log odds, (rows, 1); with a generator, dropout as in training."""
        head = self.classifier.head
        if generator is None:
            return log_odds(head(encoded))
        return log_odds(head(encoded, head.draw(1, len(encoded.parts), generator, training=True))[0])

    def passes(self, encoded: Evidence, n_passes: int, generator: torch.Generator) -> Tensor:
        """Return log odds of passes with dropout, (n_passes, rows, 1)."""
        head = self.classifier.head
        return log_odds(head(encoded, head.draw(n_passes, 1, generator)))

    def rollout(self, batch: Batch) -> Tensor:
        """Return the attention rollout of every slice, (rows, row, column) of patches, in [0, 1]."""
        return self.classifier.rollout(batch.image)

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict]:
        """Return the classifier's groups."""
        return self.classifier.param_groups(weight_decay, layer_decay)


def log_odds(logits: Tensor) -> Tensor:
    """Return the log odds of the second of two classes, (..., 1)."""
    return logits[..., 1:] - logits[..., :1]


def load(source: str | Path, family: str | None = None, device: torch.device | str = "cpu") -> Finetuned:
    """Return a released classifier as a network for its task.

    Parameters
    ----------
    source : str or path
        A checkpoint file, or ``hf:owner/name[@revision][:file]`` on the Hugging Face hub.
    family : str, optional
        Where the keys are not to be trusted to tell.

    Raises
    ------
    CheckpointError
        The file cannot be had or read, is of no known family, or has not two classes.
    ConfigError
        `family` has no released classifier.
    """
    if family not in (None, FAMILY):
        raise ConfigError(f"No released classifier of the family {family!r} is known; expected {FAMILY}.")
    weights = read_weights(source, "model_state")
    if family is None and (missing := [key for key in KEYS if key not in weights]):
        raise CheckpointError(
            f"{source} lacks {', '.join(missing)}: it is no released classifier of {FAMILY}. Name a folder below "
            f"finetuned/, or say --family {FAMILY} to see what does not fit."
        )
    config = sized(weights)
    classifier = published(FAMILY, weights, config=config)
    if (n_classes := classifier.head.fc.out_features) != 2:
        raise CheckpointError(f"{source} tells {n_classes} classes apart; expected two.")
    return Finetuned(TwoClasses(classifier).to(device).eval(), _about(config), None)


def sized(weights: Mapping[str, Tensor]) -> Config:
    """Return the published settings with the sizes that weights have.

    Raises
    ------
    CheckpointError
        The sizes are none of this family's.
    """
    try:
        n_tokens, dim = weights["encoder.pos_embed"].shape[1:]
        patch_size = tuple(weights["encoder.patch_embed.proj.weight"].shape[2:])
        hidden = weights["encoder.blocks.0.mlp.0.weight"].shape[0]
        depth = 1 + max(int(key.split(".")[2]) for key in weights if key.startswith("encoder.blocks."))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"The checkpoint does not tell its sizes ({error}); expected one of {FAMILY}.") from error
    edge = math.isqrt(n_tokens - 1)
    if dim % HEAD_WIDTH or edge**2 != n_tokens - 1:
        raise CheckpointError(
            f"The checkpoint has tokens of {dim} numbers for {n_tokens - 1} patches; expected a multiple of "
            f"{HEAD_WIDTH} and a square."
        )
    return Config.published().model_copy(
        update={
            "img_size": (edge * patch_size[0], edge * patch_size[1]),
            "patch_size": patch_size,
            "embed_dim": dim,
            "depth": depth,
            "num_heads": dim // HEAD_WIDTH,
            "mlp_ratio": hidden / dim,
        }
    )


def _about(config: Config) -> dict:
    """Return what the config.json of a network would say."""
    return {
        "family": FAMILY,
        "model": config.model_dump(mode="json"),
        "content": "image",
        "slices": None,
        "volumes": None,
        "grid": None,
        "map": None,
        "task": {"name": "impairment", "target": "impairment", "kind": "binary", "positive": "impaired"},
        "calibration": {"temperature": config.temperature, "bias": 0.0},
        "calibrate_passes": config.calibrate_passes,
        "scaling": None,
        "n_passes": N_PASSES,
        "n_clips": None,
        "released": True,
        "training": {},
    }
