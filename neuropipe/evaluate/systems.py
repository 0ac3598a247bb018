"""Who answers a task: frozen embeddings of a trained or a random network, and the baselines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from neuropipe.config import RANDOM_WEIGHTS
from neuropipe.errors import InputError
from neuropipe.evaluate import connectome, tables
from neuropipe.evaluate.anatomy import Maps, MaskedVoxels, regional_volumes
from neuropipe.evaluate.attentive import READOUT, Tokens
from neuropipe.evaluate.drivers import Regional
from neuropipe.evaluate.features import Blocks, Features, Kernel, confound_design, confound_names, connectivity
from neuropipe.evaluate.identification import connectivity_of
from neuropipe.evaluate.leakage import pretrain_overlap, refuse_external, refuse_overlap
from neuropipe.evaluate.looks import Looks
from neuropipe.evaluate.protocol import ATTENTIVE, Answer, System, answer, constant_answer, resolve_readouts
from neuropipe.evaluate.question import Fold, Question
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.shards.read import Shards

Weights = Literal["trained", "random"]
Provider = Callable[[Fold], Features | Kernel]  # features on a fold, one row per person of its question

FC = "fc"

log = logging.getLogger("neuropipe")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The embeddings of one recipe and seed: a folder with ``receipt.json`` and one table per fold.

    Parameters
    ----------
    folder : Path
        ``embeddings/<recipe>/seed-<k>``.
    receipt : dict
        Its receipt: recipe, seed, and for every checkpoint its split, fold, mode and whom it learned from.
    """

    folder: Path
    receipt: dict[str, Any]

    @property
    def _study(self) -> Path:
        """What the receipt's folders are relative to: ``results/<study>``."""
        return Study.of(self.folder, "embeddings/<recipe>/seed-<seed>").root

    @classmethod
    def open(cls, folder: str | Path) -> Embeddings:
        """Open a folder that `neuropipe embed` wrote."""
        path = Path(folder) / "receipt.json"
        if not path.is_file():
            raise InputError(f"No embeddings at {folder} (no receipt.json); run `neuropipe embed` first.")
        return cls(Path(folder), read_json(path))

    def checkpoint(self, split: str, fold: str) -> dict[str, Any]:
        """Return the receipt's entry of the model that answers for a fold.

        Raises
        ------
        InputError
            No model was trained for the fold.
        """
        entries = self.receipt["checkpoints"]
        own = [entry for entry in entries if entry["split"] == split and str(entry["fold"]) == fold]
        if not own:
            raise InputError(
                f"{self.folder}/receipt.json has no model for fold {fold} of the split {split!r}; embed again."
            )
        return own[0]

    def features(self, question: Question, fold: Fold, weights: Weights) -> Features:
        """Return the embeddings for a fold, one row per person; NaN for people who have none."""
        entry = self.checkpoint(question.split, fold.name)
        path = self._study / entry["folder"] / f"{weights}.parquet"
        if not path.is_file():
            raise InputError(f"No embeddings at {path}; run `neuropipe embed` again.")
        table = pd.read_parquet(path)
        columns = [name for name in table if name[0] == "e" and name[1:].isdigit()]
        rows = table.set_index(table["dataset"] + "/" + table["participant_id"])[columns]
        return Features(rows.reindex(question.people.ids).to_numpy(np.float64))

    def has_tokens(self, question: Question, weights: Weights) -> bool:
        """Return whether there are tokens for every fold: some families have none."""
        return all(self._tokens(question, fold, weights).is_file() for fold in question.folds)

    def tokens(self, question: Question, fold: Fold, weights: Weights) -> Tokens:
        """Return the tokens for a fold, one row per person; NaN for people who have none."""
        path = self._tokens(question, fold, weights)
        table = pd.read_parquet(path.with_name(f"{weights}.parquet"), columns=["dataset", "participant_id"])
        values = np.load(path, allow_pickle=False)
        row = pd.Series(np.arange(len(table)), index=table["dataset"] + "/" + table["participant_id"])
        place = row.reindex(question.people.ids).to_numpy()
        found = np.full((len(place), *values.shape[1:]), np.nan, dtype=np.float32)
        found[np.isfinite(place)] = values[place[np.isfinite(place)].astype(int)]
        return Tokens(found)

    def recordings(self, question: Question, fold: Fold, weights: Weights, rows: np.ndarray) -> np.ndarray | None:
        """Return the embeddings (n, embed_dim) of single recordings, rows of `People.recordings`; None without any."""
        entry = self.checkpoint(question.split, fold.name)
        path = self._study / entry["folder"] / f"{weights}-recordings.parquet"
        if not path.is_file():
            return None
        table = pd.read_parquet(path)
        columns = [name for name in table if name[0] == "e" and name[1:].isdigit()]
        known = table.set_index(table["dataset"] + "/" + table["key"])[columns]
        wanted = question.people.recordings.loc[rows]
        return known.reindex(wanted["dataset"] + "/" + wanted["key"]).to_numpy(np.float64)

    def _tokens(self, question: Question, fold: Fold, weights: Weights) -> Path:
        entry = self.checkpoint(question.split, fold.name)
        return self._study / entry["folder"] / f"{weights}-tokens.npy"


def probe(
    question: Question,
    embeddings: Embeddings,
    readouts: list[str],
    weights: Weights = "trained",
    beside: Mapping[str, Provider] | None = None,
    looks: Looks | None = None,
    regional: Regional | None = None,
) -> list[Answer]:
    """Let readouts of frozen embeddings answer, alone and joined with the features of baselines.

    The attentive readout answers alone, if asked and where there are tokens. Joined, both parts have the same mean
    squared length on the training side, of which inner folds choose the embedding's share; what the readout then gains
    over the baseline alone is what the embeddings add to it.

    Parameters
    ----------
    beside : mapping of str to callable, optional
        By name of a baseline: its features on a fold, see `data_features`.
    looks : Looks, optional
        Sees the embeddings too, and says whether they answer once more with ComBat.
    regional : Regional, optional
        What is known of regions, to tell which of them the scores go with.

    Raises
    ------
    SplitError
        Pretraining saw test people although the study did not ask for that.
    """

    def alone(fold: Fold) -> Features:
        return embeddings.features(question, fold, weights)

    def joined(features: Provider) -> Provider:
        return lambda fold: Blocks((alone(fold), features(fold)))

    asked = {None: alone} | {name: joined(features) for name, features in (beside or {}).items()}
    found = [
        answer(question, system, name, own, regional)
        for baseline, features in asked.items()
        for system, own in _versions(embedding_system(question, embeddings, weights, baseline), features, looks)
        for name in resolve_readouts(readouts, question.target.kind)
    ]
    if looks is not None:
        system = embedding_system(question, embeddings, weights)
        single = partial(embeddings.recordings, question, weights=weights)
        looks.show(system, alone, lambda fold, rows: single(fold, rows=rows), strangers=weights == "trained")
    if ATTENTIVE in readouts and question.target.kind not in READOUT:
        log.warning("no attentive readout for %s: it tells two classes, or numbers", question.target.task)
    elif ATTENTIVE in readouts and embeddings.has_tokens(question, weights):
        system = embedding_system(question, embeddings, weights)
        found.append(answer(question, system, ATTENTIVE, lambda fold: embeddings.tokens(question, fold, weights)))
    return found


def embedding_system(
    question: Question, embeddings: Embeddings, weights: Weights, baseline: str | None = None
) -> System:
    """Return who the embeddings' network is, with its checkpoint and its overlap with every fold's test people.

    Parameters
    ----------
    baseline : str, optional
        Whose features are read out together with the embeddings.
    """
    receipt = embeddings.receipt
    name = receipt["recipe"] if baseline is None else tables.combined(receipt["recipe"], baseline)
    if weights == "random":
        return System(name + RANDOM_WEIGHTS, receipt["seed"])

    def checkpoint(fold: Fold) -> dict[str, Any]:
        return embeddings.checkpoint(question.split, fold.name)

    return replace(pretrained_system(question, receipt, checkpoint), name=name)


def pretrained_system(
    question: Question, receipt: dict[str, Any], checkpoint: Callable[[Fold], dict[str, Any]]
) -> System:
    """Return a pretrained network with its checkpoint and its overlap with every fold's test people.

    Parameters
    ----------
    receipt : dict
        ``recipe`` and ``seed``.
    checkpoint : callable
        Of a fold: ``checkpoint_sha256``, ``mode``, and the ``people`` that it learned from.

    Raises
    ------
    SplitError
        Pretraining saw test people although the study did not ask for that.
    """
    fold_facts, seen, modes = {}, set(), set()
    table = question.people.table
    for fold in question.folds:
        entry = checkpoint(fold)
        role = np.full(len(table), "other", dtype=object)
        role[fold.test] = "test"
        learned_from = {*entry["people"], *question.people.persons(entry["people"])}
        overlap = pretrain_overlap(learned_from, table.assign(role=role))
        refuse_overlap(overlap, receipt["recipe"], fold.name, entry["mode"])
        outside = np.isin(np.arange(len(table)), fold.external)
        n_outside = pretrain_overlap(learned_from, table.assign(role=np.where(outside, "test", "other")))
        refuse_external(n_outside, receipt["recipe"], fold.name, question.target.test_datasets)
        fold_facts[fold.name] = {"checkpoint_sha256": entry["checkpoint_sha256"], "pretrain_overlap_n": overlap}
        seen |= {person.partition("/")[0] for person in entry["people"]}
        modes.add(entry["mode"])
    facts = {"pretrain_datasets": "+".join(sorted(seen)), "pretrain_people": "+".join(sorted(modes))}
    return System(receipt["recipe"], receipt["seed"], facts, fold_facts)


def without_embedding(question: Question, embeddings: Embeddings) -> list[int]:
    """Return the rows of people with a target for whom some fold has no embedding."""
    missing: set[int] = set()
    for fold in question.folds:
        empty = ~np.isfinite(embeddings.features(question, fold, "trained").values).all(axis=1)
        missing |= set(np.flatnonzero(empty & question.target.known).tolist())
    return sorted(missing)


def _fixed(features: Features) -> Provider:
    """Return features that are the same in every fold."""
    return lambda fold: features


def majority(question: Question) -> list[Answer]:
    """Let the training side's prevalence or mean answer."""
    return [constant_answer(question, System("majority"))]


def confounds_only(question: Question, confounds: list[str], readouts: list[str]) -> list[Answer]:
    """Let a linear readout of the task's confounds and a series' length answer; nobody where there are none."""
    names = confound_names(confounds, question.target.column, question.people)
    if not names:
        log.warning("no baseline confounds for %s: the task names none", question.target.task)
        return []
    design = confound_design(question.people, names)
    system = System("confounds", facts={"confound_set": "+".join(names)})
    return [answer(question, system, name, _fixed(design)) for name in resolve_readouts(readouts, question.target.kind)]


def data_features(name: str, question: Question, sources: list) -> Provider | None:
    """Return what a linear model of the data itself reads on each fold; None where the samples have nothing of it.

    Parameters
    ----------
    name : str
        ``fc``, ``fc_partial``, ``fc_tangent`` of series, ``voxels`` of maps or slices, ``regions`` of maps.
    sources : list of Shards
        In the order that the question's people were gathered from.
    """
    return OF_DATA[name](question, sources)


def features_beside(names: Iterable[str], question: Question, sources: list) -> dict[str, Provider]:
    """Return the features of several baselines by name, those that the samples have."""
    found = {name: data_features(name, question, sources) for name in names}
    return {name: features for name, features in found.items() if features is not None}


def linear_model(
    name: str,
    question: Question,
    sources: list,
    readouts: list[str],
    looks: Looks | None = None,
    known: Mapping[str, Provider] | None = None,
) -> list[Answer]:
    """Let ridge and the asked readouts of `data_features` answer; nobody where the samples have nothing of it.

    What is `known` by name is not made again.
    """
    if (features := (known or {}).get(name) or data_features(name, question, sources)) is None:
        return []
    names = resolve_readouts([*readouts, "ridge"], question.target.kind)
    versions = _versions(System(name), features, looks)
    regions = _regional(name, features, question, sources)
    if looks is not None and name in (FC, "voxels"):
        single = partial(connectivity_of, question.people, sources)
        looks.show(System(name), features, (lambda _, rows: single(rows)) if name == FC else None)
    return [answer(question, system, readout, own, regions) for system, own in versions for readout in names]


def _versions(system: System, features: Provider, looks: Looks | None) -> list[tuple[System, Provider]]:
    """Return a system with its features and, where the study asks for it, both after ComBat."""
    return [(system, features)] if looks is None else list(looks.versions(system, features))


def _regional(name: str, features: Provider, question: Question, sources: list) -> Regional | None:
    """Return what a baseline's features are by region, where it has one number per region or pair of regions."""
    table = features(question.folds[0]) if name in ("fc", "regions") else None
    if not isinstance(table, Features):
        return None
    return Regional.of_pairs(table, sources) if name == "fc" else Regional.of_volumes(table, sources)


def regional(question: Question, sources: list, known: Mapping[str, Provider]) -> Regional | None:
    """Return connectivity of series, or the regional volumes of maps; None where neither is known.

    What is `known` by name is not made again.
    """
    name = {"series": "fc", "volume": "regions"}.get(question.people.content)
    if name is None or (name == "regions" and not all(_has_regional(source) for source in sources)):
        return None
    return _regional(name, known.get(name) or data_features(name, question, sources), question, sources)


def _has_regional(source: Shards) -> bool:
    """Return whether a dataset of maps has regional volumes."""
    return (source.folder / "regional.parquet").is_file() and not source.regional.empty


def _tangent(question: Question, sources: list) -> Provider:
    """Return connectivity in the tangent space of each fold's training side, made once per fold."""
    on = connectome.tangent_connectivity(question.people, sources)
    return cache(lambda fold: on(fold.train))


def _voxels(question: Question, sources: list) -> Provider | None:
    """Return masked voxels; slices of different shapes have no pixels to compare."""
    maps = Maps(question.people, sources)
    if question.people.content == "image" and len(maps.shapes) > 1:
        log.warning("no baseline voxels for %s: scans have slices of several shapes", question.target.task)
        return None
    measured = MaskedVoxels.of(maps, [fold.train for fold in question.folds])
    return lambda fold: measured.kernel(question.folds.index(fold))


def _regions(question: Question, sources: list) -> Provider | None:
    """Return regional volumes and their sum, where the sources have them."""
    if missing := [source.dataset for source in sources if source.regional.empty]:
        log.warning("no baseline regions for %s: %s has no regional volumes", question.target.task, ", ".join(missing))
        return None
    return _fixed(regional_volumes(question.people, sources))


OF_DATA: dict[str, Callable[[Question, list], Provider | None]] = {
    "fc": lambda question, sources: _fixed(connectivity(question.people, sources)),
    "fc_partial": lambda question, sources: _fixed(connectome.partial_connectivity(question.people, sources)),
    "fc_tangent": _tangent,
    "voxels": _voxels,
    "regions": _regions,
}
