"""Networks that are trained for a task answer it: one per fold, from pretrained or from random weights."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neuropipe.errors import SplitError
from neuropipe.evaluate import calibration, tables
from neuropipe.evaluate.protocol import Answer, System, given_answer
from neuropipe.evaluate.question import Fold, Question
from neuropipe.hub import familiarity, finetuned
from neuropipe.hub.export import Saved
from neuropipe.hub.finetuned import Decision
from neuropipe.models.base import ModelConfig
from neuropipe.models.network import Network, on_top_of
from neuropipe.provenance import STAGE_VERSIONS, hash_json, read_json, sha256
from neuropipe.shards.manifest import write_parquet
from neuropipe.train.finetune import EarlyStopping, Objective, read_people, train
from neuropipe.train.recipe import FinetuneSettings

log = logging.getLogger("neuropipe")

READOUT = "finetune"


@dataclass(frozen=True, eq=False)
class Start:
    """Where the training for a task begins.

    Attributes
    ----------
    saved : Saved
        A pretrained model.
    origin : str or None
        Hash of its weights; None begins with random weights of the same shape.
    """

    saved: Saved
    origin: str | None

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.saved.about["family"]

    @property
    def config(self) -> ModelConfig:
        """The family's Config."""
        return self.saved.model.config

    def network(self, settings: FinetuneSettings, seed: int) -> Network:
        """Return the network, whose new layers are drawn with the seed; it takes over the weights of the model.

        Random weights are never frozen: they know nothing that is worth keeping.
        """
        shape = (settings.drop_rate, settings.hidden_dim, settings.head_norm)
        if self.origin is None:
            drop_rate, hidden_dim, norm = shape
            return finetuned.build(
                self.family,
                self.config,
                self.saved.regions,
                drop_rate=drop_rate,
                hidden_dim=hidden_dim,
                norm=norm,
                seed=seed,
            )
        torch.manual_seed(seed)
        network = on_top_of(self.saved.model, 1, *shape)
        network.freeze(settings.frozen, settings.unfreeze_at)
        return network


@dataclass(frozen=True, eq=False)
class Sides:
    """Rows of `People.table` that weights are fitted to, and that choose the step and the calibration."""

    train: np.ndarray
    validation: np.ndarray


def sides(question: Question, fold: Fold, share: float) -> Sides:
    """Return whom a network is trained on, and on whom its choices are made; test people play no part.

    Parameters
    ----------
    share : float
        Of the training people who are held out where the split has no validation side. Families stay together,
        and labels keep their shares.

    Raises
    ------
    SplitError
        A class is missing on one of the sides.
    """
    if len(fold.validation):
        found = Sides(fold.train, fold.validation)
    else:
        held_out = _held_out(question, fold, share)
        found = Sides(fold.train[~held_out], fold.train[held_out])
    needed = {"training": (found.train, 2), "validation": (found.validation, 1)}
    if question.target.kind == "binary":
        needed["validation"] = (found.validation, 2)
    for name, (rows, n_values) in needed.items():
        if (n := len(np.unique(question.target.y[rows]))) < n_values:
            raise SplitError(
                f"Task {question.target.task!r}, fold {fold.name} of the split {question.split!r}: expected people of "
                f"every class (or two different numbers) for {name}, found {len(rows)} people with {n} value(s). "
                "Set validation: in the recipe's finetune: to another share, or ask about more people."
            )
    return found


def _held_out(question: Question, fold: Fold, share: float) -> np.ndarray:
    """Return a bool array over `fold.train`: whole families, in even steps along the order of their targets."""
    family = question.people.table["person"].to_numpy()[fold.train]
    units = pd.Series(question.target.y[fold.train]).groupby(family).mean()  # in the order of their names
    rng = np.random.default_rng([question.seed, zlib.crc32(fold.name.encode()), fold.repeat])
    order = np.lexsort((rng.permutation(len(units)), units.to_numpy()))
    wanted = min(max(round(share * len(units)), 1), len(units) - 1)
    chosen = order[np.floor((np.arange(wanted) + rng.random()) * len(units) / wanted).astype(int)]
    return np.isin(family, units.index[chosen])


@dataclass(frozen=True, eq=False)
class Tuner:
    """Everything that the networks of all folds share.

    Attributes
    ----------
    question : Question
    settings : FinetuneSettings
    open_source : callable
        Opens the samples of some people (dataset, participant_id); see `neuropipe.data.source`.
    device : torch.device
    seed : int
        Of new layers, order, clips and dropout.
    facts : dict
        What ``config.json`` says of the data (volumes, slices, map) and, as ``training``, of the network's past.
    """

    question: Question
    settings: FinetuneSettings
    open_source: Callable[[pd.DataFrame], Any]
    device: torch.device
    seed: int
    facts: dict[str, Any]

    def people(self, rows: np.ndarray) -> pd.DataFrame:
        """Return ``dataset`` and ``participant_id`` of some rows of the question's people."""
        return self.question.people.table.iloc[rows][["dataset", "participant_id"]].reset_index(drop=True)

    def targets(self) -> dict[tuple[str, str], float]:
        """Return everyone's target, by dataset and participant_id."""
        ids = self.question.people.table[["dataset", "participant_id"]].itertuples(index=False, name=None)
        return dict(zip(ids, self.question.target.y.tolist(), strict=True))

    def tune(self, folder: Path, fold: Fold, start: Start) -> None:
        """Train a network on a fold's training side, unless `folder` already holds exactly this one."""
        question, settings, y = self.question, self.settings, self.targets()
        parts = sides(question, fold, settings.validation)
        source, validation = (self.open_source(self.people(rows)) for rows in (parts.train, parts.validation))
        start.saved.check_reads(source, f"{folder}: fine-tuning")
        start.saved.check_map(self.facts.get("map"), f"{folder}: the pretrained model")
        identity = self._identity(start, parts, source, validation)
        if (folder / "config.json").is_file() and read_json(folder / "config.json").get("identity") == identity:
            log.info("finetune %s: already done", folder)
            return
        (folder / "config.json").unlink(missing_ok=True)
        kind, spec = question.target.kind, start.config.reads()
        objective = Objective.of(kind, question.target.y[parts.train], settings.class_weights == "balanced")
        network = start.network(settings, self.seed).to(self.device)
        what = f"{question.target.task} {folder.parent.name}/{folder.name}"
        rows, watch = train(
            network,
            source,
            validation,
            y,
            objective,
            spec,
            settings,
            seed=self.seed,
            folder=folder / "checkpoints",
            identity=identity,
            what=what,
        )
        write_parquet(folder / "metrics.parquet", _curve(rows, watch))
        read = [read_people(network, part, spec, settings) for part in (source, validation)]
        seen, unseen = (np.stack([reading.features for reading in part.values()]) for part in read)
        fitted = None
        if kind == "binary":
            fitted = calibration.fit([r.value for r in read[1].values()], [y[person] for person in read[1]])
        about = {
            "identity": identity,
            "content": source.content,
            "grid": None if source.grid is None else source.grid.as_json(),
            "t_r": float(source.table["t_r"].iloc[0]) if source.content == "series" else None,
            "task": {"name": question.target.task, "target": question.target.column}
            | {"kind": kind, "positive": question.target.positive},
            "calibration": fitted,
            "scaling": objective.scaling,
            "n_passes": settings.n_passes,
            "n_clips": settings.n_clips,
            "drop_rate": settings.drop_rate,
            "head": {"hidden_dim": settings.hidden_dim, "norm": settings.head_norm},
        }
        training = {"pretrained_sha256": start.origin, "seed": self.seed, "split": question.split, "fold": fold.name}
        training |= {"n_train": len(parts.train), "n_validation": len(parts.validation), "prior": objective.mean}
        training |= {"accumulate": int(rows[-1].get("accumulate", settings.accumulate))}
        training |= {"settings": settings.model_dump(mode="json"), **watch.best_row}
        finetuned.save(
            folder,
            family=start.family,
            config=start.config,
            network=network,
            familiarity=familiarity.fit(seen, unseen),
            regions=start.saved.regions,
            facts=self.facts | about | {"training": self.facts.get("training", {}) | training},
        )
        shutil.rmtree(folder / "checkpoints")  # they served a killed job, and are larger than the network

    def _identity(self, start: Start, parts: Sides, source, validation) -> str:
        """Return the hash of everything that decides the weights."""
        target = self.question.target
        task = [target.column, target.kind, target.positive]
        labels = [target.y[rows].tolist() for rows in (parts.train, parts.validation)]
        held = [part.table[["key", "sha256"]].to_numpy().tolist() for part in (source, validation)]
        begun = [start.origin, start.family, start.config.model_dump(mode="json"), self.seed]
        settings = [self.settings.decisive(), self.facts]
        return hash_json([STAGE_VERSIONS["finetune"], begun, settings, task, labels, held])

    def predict(self, folder: Path, people: pd.DataFrame) -> list[Decision]:
        """Return what the network in `folder` says of everyone in `people`, in their order."""
        saved, source = finetuned.load(folder, self.device), self.open_source(people)
        spec, n_clips = saved.spec, self.settings.n_clips
        groups = source.table.groupby(["dataset", "participant_id"]).indices
        return [
            saved.predict([source.evaluation_batch(int(i), spec, n_clips) for i in groups[person]])
            for person in people.itertuples(index=False, name=None)
        ]

    def answer(self, system: System, root: Path, start: Callable[[Fold], Start]) -> tuple[Answer, pd.DataFrame]:
        """Let networks that are trained for the question answer it, fold by fold.

        What is predicted comes from the folder that was written: the network that is judged is the one that is kept.

        Parameters
        ----------
        system : System
        root : path
            The folders of the folds' networks lie below.
        start : callable
            Of a fold: where its training begins.

        Returns
        -------
        answer : Answer
            Without a null, which would take as many trainings as it has draws.
        decisions : DataFrame
            Columns of `tables.DECISIONS`.
        """
        begun, value, uncertainty, parts = time.perf_counter(), {}, {}, []
        fold_facts: dict[str, dict[str, Any]] = {}
        for fold in self.question.folds:
            folder = root / self.question.split / fold.name
            self.tune(folder, fold, start(fold))
            people = self.people(fold.judged)
            said = pd.DataFrame(self.predict(folder, people))
            value[fold.name] = said["logit" if self.question.target.kind == "binary" else "value"].to_numpy()
            uncertainty[fold.name] = said["std"].to_numpy()
            weights = {"checkpoint_sha256": sha256(folder / "model.safetensors")}
            fold_facts[fold.name] = system.fold_facts.get(fold.name, {}) | weights
            people = people.assign(system=system.name, repeat=fold.repeat, fold=fold.name, role=fold.roles)
            parts.append(pd.concat([people, said], axis=1))
        system = dataclasses.replace(system, fold_facts=fold_facts)
        found = given_answer(self.question, system, READOUT, value, uncertainty, time.perf_counter() - begun)
        return found, tables.frame(pd.concat(parts, ignore_index=True), tables.DECISIONS)


def _curve(rows: list[dict[str, float]], watch: EarlyStopping) -> pd.DataFrame:
    """Return the metrics of training and validation, one row per step that has any."""
    return pd.DataFrame(rows).merge(pd.DataFrame(watch.losses), on="step", how="outer", sort=True)
