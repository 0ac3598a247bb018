"""A recipe: the hyperparameters of one training run, one YAML file, an input of the training job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neuropipe import models
from neuropipe.config import mistakes, read_yaml
from neuropipe.data.samples import Mixture
from neuropipe.data.slices import Slicing
from neuropipe.errors import ConfigError
from neuropipe.models.base import ModelConfig, Spec


class TrainSettings(BaseModel):
    """How a model is trained, whatever its family."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    decides_nothing: ClassVar[tuple[str, ...]] = ("needs_gpu", "residence", "log_every", "checkpoint_every")

    n_steps: Annotated[int, Field(ge=1)]
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)]
    """People per step, over all processes and accumulated parts."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts that a batch (of each process) is cut into to save memory."""
    across_processes: bool = True
    """Several processes: contrasts, coding rates and batch norms are those of the people of all of them, as in one;
    false: every process compares its own people, as published systems do."""
    needs_gpu: bool = False
    """Refuse to train on a processor."""
    lr: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    lr_schedule: Literal["cosine", "published", "constant"] = "cosine"
    """``cosine``: linear warm-up from above zero, then cosine to zero; ``published``: the same with rate zero at the
    first step (Brain-Semantoks); ``constant``: no decay after the warm-up (y-Aware)."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps spent warming up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay at the first step."""
    weight_decay_in: Literal["weights", "gradient"] = "weights"
    """Shrink the weights by themselves (AdamW), or add them to the gradient (Adam, as y-Aware was trained)."""
    weight_decay_end: Annotated[float, Field(ge=0)] | None = None
    """Weight decay at the last step (cosine in between); default: constant."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from one layer to the one below it."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moments."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient."""
    precision: Literal["float32", "bf16"] = "float32"
    """``bf16``: autocast on devices that have it; weights stay float32."""
    compile: bool = False
    """``torch.compile`` the loss (GPU)."""
    residence: Literal["device", "mapped"] = "device"
    """Recordings, maps or slices resident on the device, or memory-mapped on the host."""
    log_every: Annotated[int, Field(ge=1)] = 20
    """Steps between two rows of metrics."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 200
    """Steps between two checkpoints; the last two are kept."""

    def decisive(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON: settings that only say where and how to run have their defaults.

        ``compile`` is not one of them: what is compiled rounds, and draws dropout, otherwise.
        """
        plain = {name: type(self).model_fields[name].default for name in self.decides_nothing}
        return self.model_copy(update=plain).model_dump(mode="json")


class PretrainSettings(TrainSettings):
    """How a family learns by its own loss: as is said above, and what is said here."""

    mixture: Mixture = "proportional"
    """``proportional``: every person makes as much of the batches; ``balanced``: every dataset does, however small."""
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training people, of every dataset two at least, who are not learned from but show the loss."""
    validate_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between two looks at them."""
    probe_at: list[Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=list)
    """Shares of the training at which the frozen embedding is probed on people of the training side, for the tasks
    that judge the recipe; the trained weights stay the same, bit for bit."""


class FinetuneSettings(TrainSettings):
    """How the whole network is trained for a task: as in ``train``, and what is said here."""

    decides_nothing: ClassVar[tuple[str, ...]] = (*TrainSettings.decides_nothing, "from_scratch")

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training people that choose the step and fit the calibration, where the split has no validation
    side; every label keeps its share, and families stay together."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """Binary: both classes weigh the same in the loss, or every person does; the calibration restores the prior."""
    head: Literal["linear", "mlp"] = "linear"
    """What decides on the features: one linear layer, or two with a GELU between."""
    head_hidden_dim: Annotated[int, Field(ge=1)] = 256
    """Width of the hidden layer of head: mlp."""
    head_norm: Literal["layer", "batch", "none"] | None = None
    """Norm of the features before it; null is the family's own."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout on the features before the head; null is the family's own."""
    freeze: Literal["none", "encoder"] | Annotated[list[str], Field(min_length=1)] = "none"
    """What is held still: nothing, all that was pretrained, or parts of it by the names that the family gives
    (Model.parts); batch norms in it keep their statistics."""
    unfreeze_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the steps after which what was frozen learns too; null: never."""
    evaluate_every: Annotated[int, Field(ge=1)] = 20
    """Steps between two looks at the validation people."""
    patience: Annotated[int, Field(ge=1)] | None = 10
    """Looks without a smaller validation loss before training ends; null takes all steps."""
    n_clips: Annotated[int, Field(ge=1)] | None = 8
    """Evenly spaced clips per recording, or slices per scan, whose outputs are averaged; null: all of them."""
    n_passes: Annotated[int, Field(ge=0)] = 10
    """Passes with dropout that say how sure an output is; 0 leaves that out."""
    from_scratch: bool = True
    """Train the same network from random weights beside it; all of it learns from the first step."""

    @property
    def hidden_dim(self) -> int | None:
        """Width of the head's hidden layer; None where it has none."""
        return self.head_hidden_dim if self.head == "mlp" else None

    @property
    def frozen(self) -> list[str]:
        """Names of what is held still."""
        return [] if self.freeze == "none" else [self.freeze] if isinstance(self.freeze, str) else self.freeze

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneSettings:
        if self.unfreeze_at is not None and self.freeze == "none":
            raise ValueError("unfreeze_at needs freeze: nothing is frozen that could learn later")
        if self.head_norm == "batch" and self.batch_size // self.accumulate < 2:
            raise ValueError("head_norm: batch needs two people at least in every part of a batch")
        return self


class Recipe(BaseModel):
    """A training run: which family, which model, which settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    family: str
    """A file of ``neuropipe/models``, or a dotted module of your own."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Fields of the family's Config."""
    n_networks: Annotated[int, Field(ge=2)] | None = None
    """Series: networks derived from the training side's connectivity where the atlas names none."""
    slices: Slicing | None = None
    """Families of images: how slices are cut from volumes when they are read; their size is the family's own.
    Null is the default of each key."""
    train: PretrainSettings
    """Optimisation."""
    finetune: FinetuneSettings | None = None
    """Training for the tasks that the study names under ``pretrain.<recipe>.finetune``."""
    n_clips: Annotated[int, Field(ge=1)] | None = 8
    """Evenly spaced clips per recording, or slices per scan, that an embedding is averaged over; null: all slices, or
    as many clips as fit in side by side. A volume is read whole."""

    def slicing(self, spec: Spec) -> Slicing | None:
        """Return how volumes are cut for a family that reads `spec`; None where it does not read images."""
        return (self.slices or Slicing()) if spec.content == "image" else None

    def tuning(self, source: str = "the recipe") -> FinetuneSettings:
        """Return how the whole network is trained for a task; raise where the recipe does not say it."""
        if self.finetune is None:
            raise ConfigError(
                f"{source} has no section finetune:, so nothing says how to train for a task; add it (n_steps, "
                "batch_size, lr at least), or name no tasks under pretrain: finetune: in the configuration."
            )
        return self.finetune

    def model_settings(self, source: str = "the recipe") -> ModelConfig:
        """Return the family's checked Config."""
        try:
            return models.load(self.family).Config.model_validate(self.model)
        except ValidationError as error:
            raise ConfigError(mistakes(error, source, models.load(self.family).Config)) from None


def read(path: str | Path) -> Recipe:
    """Read and check a recipe, its model section included; all mistakes come in one message."""
    content = read_yaml(path)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(mistakes(error, str(path), Recipe)) from None
    content = recipe.model_settings(f"{path} (model)").reads().content
    for key, needed in (("n_networks", "series"), ("slices", "image")):
        if getattr(recipe, key) is not None and content != needed:
            raise ConfigError(
                f"{path}: {key} is for families that read {needed}, but {recipe.family} reads {content}; drop the key."
            )
    return recipe
