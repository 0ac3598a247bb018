"""Watching a family's own loss on people who are not learned from, dataset by dataset, while it is pretrained.

Nothing is chosen by it: the last weights are kept, whatever it says. The same clips and the same random numbers are
used at every look, so that two looks differ by the weights alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from neuropipe.data import order
from neuropipe.data.batch import Batch
from neuropipe.data.source import Source
from neuropipe.errors import SplitError
from neuropipe.models.base import Spec
from neuropipe.train.loop import Watch
from neuropipe.train.predictors import errors, lag_one
from neuropipe.train.recipe import PretrainSettings

MOST_BATCHES = 16  # of a dataset that are looked at
FEWEST = 2  # people of a dataset on either side: many losses compare people


def held_out(table: pd.DataFrame, individual: pd.Series, share: float, seed: int) -> np.ndarray:
    """Return which rows are of people who are held out (bool): of every dataset that share, two at least.

    Parameters
    ----------
    table : DataFrame
        With ``dataset`` and ``participant_id``, one row per person and dataset.
    individual : Series
        Who each row is; someone who is in several datasets is on one side in all of them.
    share : float
        Of the people of each dataset.
    seed : int
        Decides who.

    Raises
    ------
    SplitError
        A dataset has too few people.
    """
    held: set[str] = set()
    for number, (dataset, rows) in enumerate(individual.groupby(table["dataset"], sort=True)):
        people = np.array(sorted(set(rows)))
        wanted = max(round(share * len(people)), FEWEST)
        if len(people) - wanted < FEWEST:
            raise SplitError(
                f"validation: {share:g} of the training people: {dataset} has {len(people)}, of whom {wanted} would be "
                f"held out; expected {FEWEST} at least on either side. Leave validation: out of the recipe."
            )
        drawn = np.random.default_rng([seed, 4, number]).permutation(people)
        held |= set(drawn[: max(0, wanted - len(held & set(people)))])
    return individual.isin(held).to_numpy()


def batches(source: Source, spec: Spec, size: int, seed: int) -> Iterator[Batch]:
    """Yield some batches of a source, the same ones every time."""
    for number in range(min(order.steps_per_epoch(source.n_people, size), MOST_BATCHES)):
        yield source.training_batch(spec, size, seed, number)


class Validation:
    """A `neuropipe.train.loop.Watch` that never stops a training.

    Parameters
    ----------
    model : Module
        The one that is trained.
    sources : mapping of str to Source
        The people who are held out, by dataset.
    spec : Spec
        How they are cut, as for training.
    settings : PretrainSettings
        How many people a batch has, and how often is looked.
    seed : int
        Of clips and of all that the loss draws.
    fading : mapping of str to Tensor (region,), optional
        By dataset, the correlation of a sample with the next one among those who are learned from.
    """

    def __init__(
        self,
        model: nn.Module,
        sources: Mapping[str, Source],
        spec: Spec,
        settings: PretrainSettings,
        seed: int,
        fading: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.sources, self.spec, self.settings, self.seed = model, sources, spec, settings, seed
        self.fading = fading or {}
        self.rows: list[dict[str, float]] = []

    @property
    def stopped(self) -> bool:
        """Training goes on."""
        return False

    def look(self, step: int) -> None:
        """Judge the model, where it is time: one row of means, ``validation_<part>[_<dataset>]``."""
        if step % self.settings.validate_every and step != self.settings.n_steps:
            return
        was_training = self.model.training
        self.model.eval()
        row: dict[str, float] = {"step": step}
        for dataset in self.sources:
            row |= {f"validation_{part}_{dataset}": value for part, value in self.errors(dataset, step).items()}
        losses = [row[f"validation_loss_{dataset}"] for dataset in self.sources]
        self.rows.append(row | {"validation_loss": float(np.mean(losses))})
        self.model.train(was_training)

    @torch.no_grad()
    def errors(self, dataset: str, step: int) -> dict[str, float]:
        """Return the mean of the loss and of its parts over the people of a dataset.

        Beside a family that reconstructs stand the errors of simple predictions; see `neuropipe.train.predictors`.
        """
        source, progress = self.sources[dataset], step / self.settings.n_steps
        generator, found = torch.Generator(device=source.device), defaultdict(list)
        for number, batch in enumerate(batches(source, self.spec, self.settings.batch_size, self.seed)):
            generator.manual_seed(order.step_seed(self.seed, number))
            parts = self.model.loss(batch, generator, progress)
            if hasattr(self.model, "reconstruct"):
                generator.manual_seed(order.step_seed(self.seed, number))
                parts |= errors(self.model.reconstruct(batch, generator), self.fading.get(dataset))
            parts.pop("weight", None)
            for part, value in parts.items():
                found[part].append(value.item())
        return {part: float(np.mean(values)) for part, values in found.items()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": self.rows}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.rows = state["rows"]


def watching(
    model: nn.Module,
    opened: Callable[[pd.DataFrame], Source],
    learners: pd.DataFrame,
    held: pd.DataFrame,
    spec: Spec,
    settings: PretrainSettings,
    seed: int,
) -> Validation:
    """Return what watches the loss of `model` on the people `held`, dataset by dataset.

    Parameters
    ----------
    opened : callable
        Opens the samples of some people (``dataset``, ``participant_id``).
    learners, held : DataFrame
        Whom the model learns from, and who is held out.
    """

    def by_dataset(people: pd.DataFrame) -> dict[str, Source]:
        return {str(name): opened(rows) for name, rows in people.groupby("dataset", sort=True)}

    fading = {}
    if hasattr(model, "reconstruct"):
        learning = by_dataset(learners)
        fading = {name: lag_one(batches(one, spec, settings.batch_size, seed)) for name, one in learning.items()}
    return Validation(model, by_dataset(held), spec, settings, seed, fading)


class Watches:
    """Several watches as one; it stops where one of them does."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self.watches = watches

    @property
    def stopped(self) -> bool:
        """Whether one of them wants no further step."""
        return any(watch.stopped for watch in self.watches)

    def look(self, step: int) -> None:
        """Let all of them look."""
        for watch in self.watches:
            watch.look(step)

    def state(self) -> dict[str, Any]:
        """Return the states of all, in order."""
        return {"watches": [watch.state() for watch in self.watches]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        for watch, own in zip(self.watches, state["watches"], strict=True):
            watch.restore(own)
