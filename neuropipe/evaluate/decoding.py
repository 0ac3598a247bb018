"""Who tells the labels of clips: baselines and frozen networks with a multinomial readout, and what they said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neuropipe.config import RANDOM_WEIGHTS
from neuropipe.errors import InputError
from neuropipe.evaluate import clip_features, tables
from neuropipe.evaluate.features import Features, confound_names
from neuropipe.evaluate.linear import STRENGTHS
from neuropipe.evaluate.metrics import METRICS, Scored
from neuropipe.evaluate.multinomial import Chosen, nested
from neuropipe.evaluate.protocol import System, run_facts
from neuropipe.evaluate.question import Fold
from neuropipe.evaluate.systems import pretrained_system
from neuropipe.evaluate.tables import CHOICES, COSTS, DECODING, EFFICIENCY
from neuropipe.evaluate.trials import Trials, drawn_people
from neuropipe.hub import export
from neuropipe.hub.export import Saved

READOUT = "logistic"
CLIP_MEASURES = ("duration_s", "censored_share", "mean_fd")  # what `clip_features.confounds` always holds
COLUMNS = {"predictions": DECODING, "efficiency": EFFICIENCY, "choices": CHOICES, "costs": COSTS}


@dataclass(frozen=True, eq=False)
class Decoded:
    """The tables of one or more decoders: rows of `tables.DECODING`, `EFFICIENCY`, `CHOICES` and `COSTS`."""

    predictions: list[pd.DataFrame] = field(default_factory=list)
    efficiency: list[dict[str, Any]] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: Decoded) -> None:
        """Append the rows of another decoder."""
        for part in fields(self):
            getattr(self, part.name).extend(getattr(other, part.name))

    def table(self, name: str) -> pd.DataFrame:
        """Return one of the tables with its columns and types."""
        rows = getattr(self, name)
        if name == "predictions" and rows:
            rows = pd.concat(rows, ignore_index=True)
        return tables.frame(rows, COLUMNS[name])


@dataclass(frozen=True, eq=False)
class Decoder:
    """What all systems of a decoding task share.

    Attributes
    ----------
    trials : Trials
    training_people : sequence of int
        Of the label-efficiency grid; none leaves it out.
    training_draws : int
        Draws of people for each number.
    """

    trials: Trials
    training_people: Sequence[int] = ()
    training_draws: int = 1

    def readout(self, system: System, features: Callable[[Fold], Features]) -> Decoded:
        """Let multinomial logistic regression of `features` (rows: clips) tell the labels, fold by fold."""
        begun, found = time.perf_counter(), Decoded()
        for fold in self.trials.question.folds:
            table = features(fold)
            chosen = self._fit(table, fold.train, fold.judged)
            self.record(found, system, READOUT, fold, chosen.probability)
            facts = run_facts(self.trials.question, system, READOUT, fold)
            found.choices.extend(_choices(facts, table.n_features, chosen))
            self._grid(found, facts, table, fold, chosen)
        seconds = time.perf_counter() - begun
        found.costs.append(facts | {"measure": "readout and label efficiency", "value": seconds, "unit": "s"})
        return found

    def majority(self) -> Decoded:
        """Let the shares of labels on the training side answer."""
        found, trials = Decoded(), self.trials
        for fold in trials.question.folds:
            counts = np.bincount(trials.y[trials.of(fold.train)], minlength=len(trials.labels))
            probability = np.tile(counts / counts.sum(), (len(self._judged(fold)), 1))
            self.record(found, System("majority"), "baseline", fold, probability)
        return found

    def record(self, found: Decoded, system: System, readout: str, fold: Fold, probability: np.ndarray) -> None:
        """Append the rows of one fold; `probability` (n, n_labels) is of the clips of `fold.judged`, in their order."""
        trials, clips = self.trials, self._judged(fold)
        names = np.array(trials.labels, dtype=object)
        yhat = probability.argmax(axis=1)
        table = trials.table.iloc[clips][["dataset", "participant_id", "key", "label"]].reset_index(drop=True)
        rows = trials.table["row"].to_numpy()[clips]
        found.predictions.append(
            table.rename(columns={"key": "clip"}).assign(
                **run_facts(trials.question, system, readout, fold),
                person=trials.question.people.table["person"].to_numpy()[rows],
                role=np.where(np.isin(rows, fold.test), "test", "validation"),
                y=trials.y[clips],
                predicted=names[yhat],
                yhat=yhat,
                probability=list(probability.astype(np.float32)),
            )
        )

    def _judged(self, fold: Fold) -> np.ndarray:
        return self.trials.of(fold.judged)

    def _fit(self, table: Features, people: np.ndarray, judged: np.ndarray) -> Chosen:
        """Fit the clips of some training people, and predict those of the `judged`."""
        trials, train = self.trials, self.trials.of(people)
        coordinates = table.coordinates(train)
        other, inner = coordinates[trials.of(judged)], trials.inner(people)
        return nested(coordinates[train], trials.y[train], other, inner, len(trials.labels))

    def _grid(self, found: Decoded, facts: dict[str, Any], table: Features, fold: Fold, all_of: Chosen) -> None:
        """Append how well decoders do that learn from some of the training people."""
        for n_people, draw, people in self.draws(fold, self.training_draws):
            chosen = all_of if len(people) == len(fold.train) else self._fit(table, people, fold.judged)
            row = facts | {"n_people": n_people, "draw": draw, "n_clips": len(self.trials.of(people))}
            found.efficiency.extend(self.scores(row, fold, chosen.probability))

    def draws(self, fold: Fold, n_draws: int) -> list[tuple[int, int, np.ndarray]]:
        """Return the (number of people, draw, people) that the grid learns from; see `trials.drawn_people`."""
        return drawn_people(self.trials, fold, self.training_people, n_draws) if self.training_people else []

    def scores(self, row: dict[str, Any], fold: Fold, probability: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yield a row of the grid per metric, for what was said of the clips of `fold.judged`."""
        judged = self._judged(fold)
        tested = np.isin(judged, self.trials.of(fold.test))
        y, yhat = self.trials.y[judged[tested]][None], probability[tested].argmax(axis=1)[None]
        scored = Scored(y, yhat, None, np.zeros(1))
        for name, metric in METRICS["decoding"].items():
            if scored.allows(metric):
                yield row | {"metric": name, "value": metric.compute(scored, np.ones(y.shape))[0]}


def _choices(facts: dict[str, Any], n_features: int, chosen: Chosen) -> list[dict[str, Any]]:
    """Return one row per strength."""
    return [
        facts | {"n_features": n_features, "strength": strength, "inner_loss": loss, "chosen": place == chosen.place}
        for place, (strength, loss) in enumerate(zip(STRENGTHS, chosen.inner_loss, strict=True))
    ]


def fixed(features: Features) -> Callable[[Fold], Features]:
    """Return features that are the same in every fold."""
    return lambda fold: features


def baseline(decoder: Decoder, name: str, confounds: list[str]) -> Decoded:
    """Return what a baseline without a network says: majority, confounds, mean_pattern or fc.

    Parameters
    ----------
    confounds : list of str
        The task's own, beside those of clips.
    """
    trials = decoder.trials
    if name == "majority":
        return decoder.majority()
    if name == "confounds":
        own = confound_names(confounds, trials.question.target.column, trials.question.people)
        own = [column for column in own if column not in CLIP_MEASURES]
        system = System("confounds", facts={"confound_set": "+".join([*CLIP_MEASURES, *own])})
        return decoder.readout(system, fixed(clip_features.confounds(trials, own)))
    measure = {"mean_pattern": clip_features.mean_pattern, "fc": clip_features.connectivity}[name]
    return decoder.readout(System(name), fixed(clip_features.per_clip(trials, measure)))


@dataclass(frozen=True, eq=False)
class Networks:
    """The pretrained networks of one recipe and seed.

    Attributes
    ----------
    root : Path
        ``results/<study>``.
    made : dict
        Receipt of pretrain.
    device : torch.device
    """

    root: Path
    made: dict[str, Any]
    device: torch.device

    def checkpoint(self, trials: Trials, fold: Fold) -> dict[str, Any]:
        """Return the receipt's entry of the network of a fold, with its mode and the people it learned from."""
        entry = self._entry(trials.question.split, fold.name)
        people = pd.read_parquet(self.root / entry["folder"] / "people.parquet")
        learned_from = (people["dataset"] + "/" + people["participant_id"]).tolist()
        return {**entry, "mode": self.made["mode"], "people": learned_from}

    def saved(self, trials: Trials, fold: Fold) -> Saved:
        """Return the network of a fold, after a check that it knows the regions of the clips."""
        folder = self.root / self._entry(trials.question.split, fold.name)["folder"]
        found = export.load(folder)
        for source in trials.sources:
            found.regions.check_same(source.regions, f"{folder}: decoding {source.dataset}")
        return found

    def _entry(self, split: str, fold: str) -> dict[str, Any]:
        own = [e for e in self.made["models"] if e["split"] == split and str(e["fold"]) == fold]
        if not own:
            raise InputError(
                f"models/{self.made['recipe']}/seed-{self.made['seed']}/receipt.json has no model for fold {fold} of "
                f"the split {split!r}; pretrain again."
            )
        return own[0]

    def system(self, trials: Trials) -> System:
        """Return who the trained networks are; refuses those that saw test people unasked."""
        receipt = {"recipe": self.made["recipe"], "seed": self.made["seed"]}
        return pretrained_system(trials.question, receipt, lambda fold: self.checkpoint(trials, fold))

    def untrained(self) -> System:
        """Return who the same networks before training are."""
        return System(self.made["recipe"] + RANDOM_WEIGHTS, self.made["seed"])

    def features(self, trials: Trials, trained: bool) -> Callable[[Fold], Features]:
        """Return the embeddings of all clips by the network of a fold, or by the same one before training."""
        known: dict[str, Features] = {}

        def of_fold(fold: Fold) -> Features:
            folder = self._entry(trials.question.split, fold.name)["folder"]
            if folder not in known:
                saved = self.saved(trials, fold)
                model, spec = saved.model, saved.model.config.reads()
                if not trained:
                    model = export.build(saved.about["family"], model.config, saved.regions, saved.about["seed"])
                known[folder] = clip_features.embeddings(model, trials, spec, self.device)
            return known[folder]

        return of_fold
