"""Training a whole network for one task: what it is to get right, and when it is at its best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuropipe.data.batch import Batch
from neuropipe.models.base import Spec
from neuropipe.models.network import Network, Reading, one_view, read
from neuropipe.train import loop
from neuropipe.train.recipe import FinetuneSettings


@dataclass(frozen=True)
class Objective:
    """What the training people say about the target, and the loss that follows.

    Attributes
    ----------
    kind : {"binary", "regression"}
    mean : float
        Of the target over the training people: the prior of the positive class, or the mean number.
    sd : float
        Population standard deviation of the target over them.
    balanced : bool
        Binary: both classes weigh the same.
    """

    kind: str
    mean: float
    sd: float
    balanced: bool = True

    @classmethod
    def of(cls, kind: str, y: np.ndarray, balanced: bool = True) -> Objective:
        """Return the objective for training people with the targets `y` (n,)."""
        return cls(kind, float(np.mean(y)), float(np.std(y)), balanced)

    @property
    def scaling(self) -> dict[str, float] | None:
        """What turns an output into the target's unit; None for classes."""
        return None if self.kind == "binary" else {"mean": self.mean, "sd": self.sd}

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of outputs (n,): cross-entropy, or the squared error in units of `sd`."""
        if self.kind == "regression":
            return F.mse_loss(output, (y - self.mean) / self.sd)
        weight = torch.where(y > 0.5, 0.5 / self.mean, 0.5 / (1 - self.mean)) if self.balanced else None
        return F.binary_cross_entropy_with_logits(output, y, weight)


def read_people(
    network: Network, source, spec: Spec, settings: FinetuneSettings, n_passes: int = 0
) -> dict[tuple[str, str], Reading]:
    """Return what `network` makes of everyone in `source`, by dataset and participant_id, sorted."""
    groups = source.table.groupby(["dataset", "participant_id"], sort=True).indices
    found = {}
    for person, rows in groups.items():
        recordings = [source.evaluation_batch(int(i), spec, settings.n_clips) for i in rows]
        found[person] = read(network, recordings, n_passes)
    return found


class EarlyStopping:
    """Keeps the weights with which the validation people are predicted best.

    Parameters
    ----------
    network : Network
    validation
        Source of the validation people.
    y : dict of (dataset, participant_id) to float
        Their targets.
    objective : Objective
        Of the training people.
    spec, settings
        How recordings are cut, and how often and how long is looked.
    """

    def __init__(
        self,
        network: Network,
        validation,
        y: dict[tuple[str, str], float],
        objective: Objective,
        spec: Spec,
        settings: FinetuneSettings,
    ) -> None:
        self.network, self.validation, self.y = network, validation, y
        self.objective, self.spec, self.settings = objective, spec, settings
        self.losses: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}

    @property
    def best_row(self) -> dict[str, float]:
        """Step and validation loss of the weights that are kept."""
        return min(self.losses, key=lambda row: (row["validation_loss"], row["step"]))

    @property
    def stopped(self) -> bool:
        """Whether the loss has not become smaller for as many looks as the settings allow."""
        if self.settings.patience is None or not self.losses:
            return False
        return len(self.losses) - 1 - self.losses.index(self.best_row) >= self.settings.patience

    def look(self, step: int) -> None:
        """Predict the validation people, where it is time, and keep the weights if they are the best so far."""
        if step % self.settings.evaluate_every and step != self.settings.n_steps:
            return
        self.network.eval()
        loss = self.measure()
        self.network.train()
        row = {"step": step, "validation_loss": loss if math.isfinite(loss) else math.inf}
        self.losses.append(row)
        if self.best_row is row:
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def measure(self) -> float:
        """Return the loss of the validation people; the network is in evaluation mode."""
        readings = read_people(self.network, self.validation, self.spec, self.settings)
        output = torch.tensor([reading.value for reading in readings.values()], dtype=torch.float64)
        y = torch.tensor([self.y[person] for person in readings], dtype=torch.float64)
        return self.objective.loss(output, y).item()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"losses": self.losses, "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.losses, self.best = state["losses"], state["best"]


def train(
    network: Network,
    source,
    validation,
    y: dict[tuple[str, str], float],
    objective: Objective,
    spec: Spec,
    settings: FinetuneSettings,
    *,
    seed: int,
    folder: Path,
    identity: str,
    what: str = "finetune",
) -> tuple[list[dict[str, float]], EarlyStopping]:
    """Train `network` in place, and leave it in evaluation mode with the weights that predict validation best.

    Parameters
    ----------
    network : Network
        On the device of `source`.
    source, validation
        Training and validation people; see `neuropipe.data.source`.
    y : dict of (dataset, participant_id) to float
        Targets of both.
    spec : Spec
        What the family reads.
    seed, folder, identity, what
        See `neuropipe.train.loop.train`.

    Returns
    -------
    rows : list of dict
        Metrics of the training steps.
    watch : EarlyStopping
        Validation losses, and which step was best.
    """
    spec = one_view(spec)
    watch = EarlyStopping(network, validation, y, objective, spec, settings)
    people = source.table.drop_duplicates("person").sort_values("person")
    known = [y[person] for person in zip(people["dataset"], people["participant_id"], strict=True)]
    targets = torch.tensor(known, dtype=torch.float32, device=source.device)  # by the code of the person

    def loss_of(batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        output = network(batch, generator)[:, 0]
        with torch.autocast(output.device.type, enabled=False):
            return {"loss": objective.loss(output.float(), targets[batch.person])}

    rows = loop.train(
        network,
        source,
        spec,
        settings,
        seed=seed,
        folder=folder,
        identity=identity,
        what=what,
        loss_of=loss_of,
        watch=watch,
    )
    network.load_state_dict(watch.best)
    network.eval()
    return rows, watch
