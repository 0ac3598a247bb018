"""Train one recipe with one seed: once for every fold that judges it, on that fold's training side."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from neuropipe import config as configuration
from neuropipe.errors import ConfigError, SplitError
from neuropipe.locks import lock
from neuropipe.paths import MODELS, Study
from neuropipe.provenance import STAGE_VERSIONS, describe, hash_json, read_json, sha256, write_json
from neuropipe.shards.manifest import read_parquet, write_parquet

if TYPE_CHECKING:
    from neuropipe.train.distributed import Group

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe pretrain``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--recipe", required=True, help="name under pretrain: in the config")
    parser.add_argument("--seed", type=int, required=True, help="seed of weights, order, clips and masks")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="folders shards/<dataset>")
    parser.add_argument("--splits", type=Path, nargs="+", required=True, help="folders splits/<split> that judge it")
    parser.add_argument("--threads", type=int, help="processor threads; default: torch's own choice")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that share the batches, on this machine (torchrun)")
    parser.add_argument("--output", type=Path, required=True, help="receipt.json in models/<recipe>/seed-<seed>")


@dataclass(frozen=True)
class Run:
    """One model to train: where it goes, whom it sees, and the (split, fold) pairs it serves."""

    folder: str
    people: pd.DataFrame | None
    serves: list[tuple[str, str]]


def plan(mode: str, splits: dict[str, pd.DataFrame], datasets: list[str]) -> list[Run]:
    """Return the models that a recipe needs.

    Parameters
    ----------
    mode : {"train_side", "external", "everyone"}
        Whom the recipe may learn from.
    splits : dict of str to DataFrame
        The tables that judge it.
    datasets : list of str
        The recipe's datasets.

    Raises
    ------
    SplitError
        A fold's training side has nobody in `datasets`.
    """
    folds = [(name, fold) for name, table in splits.items() for fold in sorted(table["fold"].unique())]
    if mode != "train_side":
        return [Run(mode, None, folds)]
    runs = []
    for name, fold in folds:
        table = splits[name]
        chosen = table[(table["fold"] == fold) & (table["role"] == "train") & table["dataset"].isin(datasets)]
        if chosen.empty:
            raise SplitError(f"Fold {fold} of split {name} has nobody of {', '.join(datasets)} on its training side.")
        people = chosen[["dataset", "participant_id"]].sort_values(["dataset", "participant_id"], ignore_index=True)
        runs.append(Run(f"{name}/{fold}", people, [(name, fold)]))
    return runs


def _train(
    run: Run, root: Path, recipe_path: Path, seed: int, shards: list[Path], facts: dict[str, Any], device
) -> None:
    """Train one model, unless the folder already holds exactly this one; only the first process writes."""
    from neuropipe.data import networks
    from neuropipe.data.source import check_reads, open_source
    from neuropipe.hub import export
    from neuropipe.shards.read import Shards
    from neuropipe.train import devices, distributed, loop, recipe
    from neuropipe.train.validation import Watches, watching

    chosen = recipe.read(recipe_path)
    config, group = chosen.model_settings(str(recipe_path)), distributed.current()
    devices.check(device, chosen.train.needs_gpu, str(recipe_path))
    spec, slicing = config.reads(), chosen.slicing(config.reads())
    datasets = [Shards(path) for path in shards]
    check_reads(spec, datasets, str(recipe_path))
    place = facts["sites"], device, chosen.train.residence
    form = {"labels": config.labels(), "slices": slicing, "mixture": chosen.train.mixture}
    learners, held = _sides(run, datasets, chosen.train.validation, facts["same_people"], seed)
    source = open_source(datasets, learners, *place, **form)
    settings = chosen.model_dump(mode="json", exclude={"finetune", "train"}) | {"train": chosen.train.decisive()}
    data, folder = _data_hash(source), root / run.folder
    identity = hash_json([STAGE_VERSIONS["pretrain"], settings, data, seed])
    if group.agreed(_is_done(folder, identity)):
        log.info("pretrain %s: already done", folder)
        return
    if group.writes:
        (folder / "config.json").unlink(missing_ok=True)
    regions = source.regions
    if regions is not None and _lacks_networks(regions, chosen):
        regions = networks.derive(source, chosen.n_networks)
    model = export.build(chosen.family, config, regions, seed).to(device)
    watch = None
    if held is not None:
        mapped = facts["sites"], device, "mapped"
        watch = watching(
            model,
            lambda people: open_source(datasets, people, *mapped, **form),
            learners,
            held,
            spec,
            chosen.train,
            seed,
        )
    prober = _prober(run, model, chosen, datasets, facts, device) if chosen.train.probe_at else None
    rows = loop.train(
        model,
        source,
        spec,
        chosen.train,
        seed=seed,
        folder=folder / "checkpoints",
        identity=identity,
        tensorboard=folder / "tensorboard",
        what=f"{facts['recipe']} {run.folder}",
        watch=Watches([one for one in (watch, prober) if one is not None]),
    )
    if not group.writes:
        return
    curve = pd.DataFrame(rows)
    if watch is not None:
        curve = curve.merge(pd.DataFrame(watch.rows), on="step", how="outer", sort=True)
    write_parquet(folder / "metrics.parquet", curve)
    (folder / "probes.parquet").unlink(missing_ok=True)
    if prober is not None:
        write_parquet(folder / "probes.parquet", prober.table)
    people = source.table[["dataset", "participant_id"]].drop_duplicates()
    write_parquet(folder / "people.parquet", people.reset_index(drop=True))
    about = {
        "identity": identity,
        "recipe": settings,
        "seed": seed,
        **_what_it_reads(source, slicing, facts),
        "training": {
            "mode": facts["mode"],
            "n_people": source.n_people,
            "n_validation": 0 if held is None else len(held),
            "n_recordings": len(source),
            "data_hash": data,
            "device": devices.name(device),
            "n_processes": group.size,
            "accumulate": int(rows[-1].get("accumulate", chosen.train.accumulate)),
        },
    }
    export.save(
        folder, family=chosen.family, config=config, model=model, regions=regions, facts=about | facts["provenance"]
    )


def _sides(
    run: Run, datasets: list, share: float | None, same_people: dict[str, str], seed: int
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Return whom a model learns from (None: everyone), and who is held out to watch the loss (None: nobody)."""
    from neuropipe.data.labels import samples
    from neuropipe.splits.people import individuals
    from neuropipe.train.validation import held_out

    if share is None:
        return run.people, None
    people = samples(datasets, run.people)[["dataset", "participant_id"]].drop_duplicates(ignore_index=True)
    held = held_out(people, individuals(people, same_people), share, seed)
    return people[~held], people[held]


def _prober(run: Run, model, chosen, datasets: list, facts: dict[str, Any], device):
    """Return what probes the model during its training, on the training sides of the folds that it serves."""
    from neuropipe.data.source import open_source
    from neuropipe.evaluate import moments

    asked = moments.ask(facts["study"], datasets, facts["splits"], run.serves)
    ids = [one.people.table.iloc[one.train][["dataset", "participant_id"]] for one in asked]
    if not ids:
        return None
    spec = model.config.reads()
    people = pd.concat(ids).drop_duplicates().sort_values(["dataset", "participant_id"], ignore_index=True)
    source = open_source(datasets, people, facts["sites"], device, "mapped", slices=chosen.slicing(spec))
    return moments.Prober(model, source, spec, chosen.n_clips, asked, chosen.train.probe_at, chosen.train.n_steps)


def _take_over(run: Run, root: Path, recipe_path: Path, shards: list[Path], facts: dict[str, Any]) -> None:
    """Write released weights where a trained model would be, unless the folder already holds exactly these."""
    from neuropipe.data.source import check_reads
    from neuropipe.hub import names
    from neuropipe.shards.read import Shards
    from neuropipe.stages.import_weights import take
    from neuropipe.train import recipe

    chosen, datasets = recipe.read(recipe_path), [Shards(path) for path in shards]
    check_reads(chosen.model_settings().reads(), datasets, str(recipe_path))
    regions = datasets[0].regions if datasets[0].content == "series" else None
    settings = chosen.model_dump(mode="json", exclude={"finetune", "train"})
    digest = sha256(names.locate(facts["checkpoint"]))
    identity = hash_json([STAGE_VERSIONS["import"], settings, digest, regions and regions.order_hash])
    folder = root / run.folder
    if _is_done(folder, identity):
        log.info("pretrain %s: already done", folder)
        return
    (folder / "config.json").unlink(missing_ok=True)
    write_parquet(folder / "people.parquet", pd.DataFrame(columns=["dataset", "participant_id"], dtype=str))
    about = {"identity": identity, "map": facts["map"]}
    take(facts["checkpoint"], chosen.family, folder, chosen, regions, about)


def _is_done(folder: Path, identity: str) -> bool:
    """Return whether a folder holds the finished model of this identity."""
    return (folder / "config.json").is_file() and read_json(folder / "config.json").get("identity") == identity


def _data_hash(source) -> str:
    """Return a hash of what is learned from: the samples, where they lie, and the labels of their people."""
    labels = {name: values.tolist() for name, values in source.labels.items()}
    place = source.regions.order_hash if source.regions is not None else source.grid and source.grid.as_json()
    return hash_json([source.table[["key", "sha256"]].to_numpy().tolist(), place, labels])


def _what_it_reads(source, slicing, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what ``config.json`` says of a model's input and of how it was prepared."""
    if source.content == "series":
        t_r = float(source.table["t_r"].iloc[0])
        return {"t_r": t_r, "normalisation": "z-score per region and recording", "clean": facts["clean"]}
    return {
        "grid": None if source.grid is None else source.grid.as_json(),
        "map": facts["map"],
        "volumes": facts["volumes"],
        "slices": None if slicing is None else slicing.model_dump(mode="json"),
    }


def _lacks_networks(regions, chosen) -> bool:
    return not regions.networks and chosen.n_networks is not None


def run(
    *,
    config: Path,
    recipe: str,
    seed: int,
    shards: list[Path],
    splits: list[Path],
    threads: int | None,
    gpus: int = 1,
    output: Path,
) -> None:
    """Train every model of a recipe and seed, and list them in the receipt.

    A model that is finished is not trained again; one that was killed goes on from its last
    checkpoint, step for step as it would have gone, by however many GPUs.
    """
    from neuropipe.train import devices, distributed

    if gpus > 1 and distributed.place().size == 1:
        distributed.launch(gpus, sys.argv[1:])
    study, study_config = Study.of(output, MODELS), configuration.load(config)
    if recipe not in study_config.pretrain:
        known = ", ".join(study_config.pretrain) or "none"
        raise ConfigError(f"{config} has no recipe {recipe!r} under pretrain:; known: {known}.")
    item, recipe_path = study_config.pretrain[recipe], study_config.recipe_path(recipe)
    tables = {path.name: read_parquet(path / "splits.parquet") for path in splits}
    provenance = describe("pretrain", inputs={recipe_path.name: sha256(recipe_path)}, packages=("torch", "numpy"))
    facts = {
        "recipe": recipe,
        "study": study_config,
        "splits": tables,
        "mode": item.people,
        "checkpoint": None if item.checkpoint is None else configuration.expand(item.checkpoint),
        "sites": {name: study_config.datasets[name].roles.site for name in item.datasets},
        "same_people": study_config.same_people(),
        "clean": study_config.clean.model_dump(mode="json"),
        "volumes": study_config.volumes.model_dump(mode="json"),
        "map": study_config.map_of(item.datasets),
        "provenance": {key: provenance[key] for key in ("GeneratedBy", "Inputs", "GeneratedAt")},
    }
    root, runs = output.parent, plan(item.people, tables, item.datasets)
    with _held(root, distributed.place()), devices.claim(threads) as device, distributed.joined(device) as group:
        for one in runs:
            if item.checkpoint is None:
                _train(one, root, recipe_path, seed, shards, facts, device)
            elif group.writes:
                _take_over(one, root, recipe_path, shards, facts)
        if not group.writes:
            return
        models = [_entry(study, root, one, split, fold) for one in runs for split, fold in one.serves]
        write_json(output, {"stage": "pretrain", "recipe": recipe, "seed": seed, "mode": item.people, "models": models})


def _held(root: Path, group: Group) -> AbstractContextManager:
    """Return the lock on what this stage writes, which the first of several processes holds for all."""
    return lock(root / ".lock") if group.writes else nullcontext()


def _entry(study: Study, root: Path, one: Run, split: str, fold: str) -> dict[str, Any]:
    folder = root / one.folder
    weights = sha256(folder / "model.safetensors")
    return {"split": split, "fold": fold, "folder": study.relative(folder), "checkpoint_sha256": weights}
