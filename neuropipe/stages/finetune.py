"""Train a recipe's whole network for one task, on every fold, beside the same network from random weights."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropipe import config as configuration
from neuropipe.errors import ConfigError, InputError
from neuropipe.locks import lock
from neuropipe.paths import MODELS, Study
from neuropipe.provenance import read_json, sha256

if TYPE_CHECKING:
    import pandas as pd

    from neuropipe.data.slices import Slicing
    from neuropipe.evaluate.answers import Posed
    from neuropipe.evaluate.protocol import Answer, System
    from neuropipe.evaluate.question import Fold, Question
    from neuropipe.evaluate.rollouts import Rollouts
    from neuropipe.train.recipe import FinetuneSettings, Recipe

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe finetune``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--task", required=True, help="name of the task in the config")
    parser.add_argument("--recipe", required=True, help="name under pretrain: in the config")
    parser.add_argument("--seed", type=int, required=True, help="seed of new layers, order, clips and dropout")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="folders of the datasets' shards")
    parser.add_argument("--split-dir", type=Path, required=True, help="folder of the split that judges the task")
    parser.add_argument("--models", type=Path, required=True, help="receipt.json of pretrain")
    parser.add_argument("--threads", type=int, help="processor threads; default: torch's own choice")
    parser.add_argument("--output", type=Path, required=True, help="folder for predictions, decisions and costs")


def run(
    *,
    config: Path,
    task: str,
    recipe: str,
    seed: int,
    shards: list[Path],
    split_dir: Path,
    models: Path,
    threads: int | None,
    output: Path,
) -> None:
    """Write the task's tables (`neuropipe probe` names them) and ``decisions.parquet``; networks go to ``finetuned/``.

    A network that is finished is not trained again; one that was killed goes on from its last checkpoint.
    Pretraining that saw test people is refused before anything is trained.
    """
    from neuropipe.evaluate import answers, tables
    from neuropipe.evaluate.systems import pretrained_system
    from neuropipe.train import devices

    posed = answers.pose(config, task, split_dir, shards)
    chosen = _recipe(posed.study, recipe, config)
    settings = chosen.tuning(str(posed.study.recipe_path(recipe)))
    if posed.question.target.kind == "decoding":
        _decode(posed, settings, models, seed, threads, output)
        return
    question, made, study = posed.question, read_json(models), Study.of(models, MODELS)
    entries = {fold.name: _checkpoint(made, question, fold, study) for fold in question.folds}
    pretrained = pretrained_system(question, {"recipe": recipe, "seed": seed}, lambda fold: entries[fold.name])
    networks = study.finetuned(task, recipe, seed)
    folders = {fold: study.root / entry["folder"] for fold, entry in entries.items()}
    with lock(output / ".lock"), devices.claim(threads) as device:
        devices.check(device, settings.needs_gpu, f"finetune: of {recipe}")
        answer, decisions, maps = _answers(posed, chosen, settings, pretrained, folders, networks, device)
        posed.inputs[f"models/{recipe}/seed-{seed}/receipt.json"] = sha256(models)
        tables.write(output / "decisions.parquet", decisions, tables.DECISIONS)
        if maps is not None:
            maps.write(output / "rollouts.npz")
        answers.write("finetune", posed, answer, output)


def _decode(
    posed: Posed, settings: FinetuneSettings, models: Path, seed: int, threads: int | None, output: Path
) -> None:
    """Train networks to tell the labels of clips, and write what `neuropipe decode` writes for others."""
    from neuropipe.evaluate import trials
    from neuropipe.evaluate.clip_finetune import ClipTuner
    from neuropipe.evaluate.decoding import Decoded, Decoder, Networks
    from neuropipe.evaluate.protocol import System
    from neuropipe.stages import decode
    from neuropipe.train import devices

    task, asked = posed.question.target.task, trials.gather(posed.question, posed.sources)
    decoder = Decoder(asked, posed.study.tasks[task].training_people)
    study, found = Study.of(models, MODELS), Decoded()
    with lock(output / ".lock"), devices.claim(threads) as device:
        devices.check(device, settings.needs_gpu, f"finetune: of {models.absolute().parents[1].name}")
        networks = Networks(study.root, read_json(models), device)
        root = study.finetuned(task, networks.made["recipe"], seed)
        system = networks.system(asked)
        begun = [(system, True, root)]
        if settings.from_scratch:
            begun.append((System(system.name + configuration.FROM_SCRATCH, seed), False, root / "from-scratch"))
        for who, pretrained, folder in begun:
            tuner = ClipTuner(decoder, settings, lambda fold: networks.saved(asked, fold), pretrained, device, seed)
            found.add(tuner.answer(who, folder))
        decode.write(posed, asked, found, [models], output)


def _recipe(study: configuration.StudyConfig, name: str, config: Path) -> Recipe:
    """Return a recipe of the study."""
    from neuropipe.train import recipe

    if name not in study.pretrain:
        raise ConfigError(f"{config} has no recipe {name!r} under pretrain:; known: {', '.join(study.pretrain)}.")
    return recipe.read(study.recipe_path(name))


def _answers(
    posed: Posed,
    chosen: Recipe,
    settings: FinetuneSettings,
    pretrained: System,
    folders: dict[str, Path],
    networks: Path,
    device,
) -> tuple[Answer, pd.DataFrame, Rollouts | None]:
    """Return what the pretrained networks and, where the recipe says so, those from random weights answer and decide.

    The third result is where the pretrained ones look, of families that can tell.

    Parameters
    ----------
    folders : dict of str to path
        Pretrained models by fold.
    networks : path
        Fine-tuned networks go below.
    """
    import pandas as pd

    from neuropipe.data.source import Source, open_source
    from neuropipe.evaluate import rollouts
    from neuropipe.evaluate.finetune import Start, Tuner
    from neuropipe.evaluate.protocol import Answer, System
    from neuropipe.hub import export

    sites = {source.dataset: posed.study.datasets[source.dataset].roles.site for source in posed.sources}
    slicing = chosen.slicing(chosen.model_settings().reads())

    def opened(people: pd.DataFrame) -> Source:
        return open_source(posed.sources, people, sites, device, settings.residence, slices=slicing)

    def start(fold: Fold) -> Start:
        folder = folders[fold.name]
        return Start(export.load(folder), sha256(folder / "model.safetensors"))

    def scratch(fold: Fold) -> Start:
        return Start(export.load(folders[fold.name]), None)

    seed, facts = pretrained.seed, _facts(posed, pretrained, slicing)
    tuner = Tuner(posed.question, settings, opened, device, seed, facts)
    parts = [tuner.answer(pretrained, networks, start)]
    maps = rollouts.gather(tuner, networks)
    if settings.from_scratch:
        untrained = System(pretrained.name + configuration.FROM_SCRATCH, seed)
        tuner = Tuner(posed.question, settings, opened, device, seed, _facts(posed, untrained, slicing))
        parts.append(tuner.answer(untrained, networks / "from-scratch", scratch))
    answers, decisions = zip(*parts, strict=True)
    return Answer.join(list(answers)), pd.concat(decisions, ignore_index=True), maps


def _checkpoint(made: dict[str, Any], question: Question, fold: Fold, study: Study) -> dict[str, Any]:
    """Return what is known of the pretrained model of a fold: folder, hash, mode and people."""
    import pandas as pd

    own = [m for m in made["models"] if m["split"] == question.split and str(m["fold"]) == fold.name]
    if not own:
        raise InputError(
            f"The pretraining of {made['recipe']} has no model for fold {fold.name} of the split {question.split!r}; "
            "name the split under splits: of the recipe, and pretrain again."
        )
    people = pd.read_parquet(study.root / own[0]["folder"] / "people.parquet")
    seen = (people["dataset"] + "/" + people["participant_id"]).tolist()
    return own[0] | {"mode": made["mode"], "people": seen}


def _facts(posed: Posed, system: System, slicing: Slicing | None) -> dict[str, Any]:
    """Return what ``config.json`` says of the data's preparation and of pretraining, as far as it is the study's."""
    study, datasets = posed.study, posed.study.tasks[posed.question.target.task].datasets
    content = posed.sources[0].content
    return {
        "system": system.name,
        "clean": study.clean.model_dump(mode="json") if content == "series" else None,
        "volumes": None if content == "series" else study.volumes.model_dump(mode="json"),
        "map": study.map_of(datasets),
        "slices": slicing.model_dump(mode="json") if slicing and content == "volume" else None,
        "training": {"datasets": datasets, "pretraining": system.facts.get("pretrain_people")},
    }
