"""Train a recipe's whole network for one task, on every fold, beside the same network from random weights."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropipe.errors import ConfigError, InputError
from neuropipe.locks import lock
from neuropipe.paths import Study
from neuropipe.provenance import read_json, sha256

if TYPE_CHECKING:
    from neuropipe.data.slices import Slicing
    from neuropipe.evaluate.answers import Posed
    from neuropipe.evaluate.finetune import Start
    from neuropipe.evaluate.question import Fold, Question

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
    import pandas as pd

    from neuropipe.data.source import Source, open_source
    from neuropipe.evaluate import answers, finetune, tables
    from neuropipe.evaluate.protocol import Answer, System
    from neuropipe.evaluate.systems import pretrained_system
    from neuropipe.train import devices
    from neuropipe.train import recipe as recipes

    posed = answers.pose(config, task, split_dir, shards)
    if recipe not in posed.study.pretrain:
        raise ConfigError(
            f"{config} has no recipe {recipe!r} under pretrain:; known: {', '.join(posed.study.pretrain)}."
        )
    chosen = recipes.read(posed.study.recipe_path(recipe))
    if chosen.finetune is None:
        raise ConfigError(
            f"{posed.study.recipe_path(recipe)} has no section finetune:; add one (n_steps, batch_size, lr)."
        )
    question, made, study = posed.question, read_json(models), Study(models.parents[3])
    entries = {fold.name: _checkpoint(made, question, fold, study) for fold in question.folds}
    pretrained = pretrained_system(question, {"recipe": recipe, "seed": seed}, lambda fold: entries[fold.name])
    systems = {"": pretrained}
    if chosen.finetune.from_scratch:
        systems["from-scratch"] = System(recipe + tables.FROM_SCRATCH, seed)
    networks = study.finetuned(task, recipe, seed)
    sites = {name: posed.study.datasets[name].roles.site for name in posed.study.tasks[task].datasets}
    residence = chosen.finetune.residence
    slicing = chosen.slicing(chosen.model_settings().reads())
    with lock(output / ".lock"), devices.claim(threads) as device:

        def opened(people: pd.DataFrame) -> Source:
            return open_source(posed.sources, people, sites, device, residence, slices=slicing)

        parts, decisions = [], []
        for below, system in systems.items():
            facts = _facts(posed, recipe, slicing, made["mode"] if system is pretrained else None)
            tuner = finetune.Tuner(question, chosen.finetune, opened, device, seed, facts)

            def start(fold: Fold, scratch: bool = system is not pretrained) -> Start:
                return _start(study.root / entries[fold.name]["folder"], scratch)

            answer, said = tuner.answer(system, networks / below, start)
            parts.append(answer)
            decisions.append(said)
            log.info("finetune %s: %s seed %s", task, system.name, seed)
        said = pd.concat(decisions, ignore_index=True)
        posed.inputs[f"models/{recipe}/seed-{seed}/receipt.json"] = sha256(models)
        tables.write(output / "decisions.parquet", said, tables.DECISIONS)
        answers.write("finetune", posed, Answer.join(parts), output)


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


def _start(folder: Path, scratch: bool) -> Start:
    """Return the pretrained model of a folder, or the same model with random weights."""
    from neuropipe.evaluate.finetune import Start
    from neuropipe.hub import export

    return Start(export.load(folder), None if scratch else sha256(folder / "model.safetensors"))


def _facts(posed: Posed, recipe: str, slicing: Slicing | None, mode: str | None) -> dict[str, Any]:
    """Return what ``config.json`` says of the data's preparation and of pretraining, as far as it is the study's."""
    study, datasets = posed.study, posed.study.tasks[posed.question.target.task].datasets
    content = posed.sources[0].content
    return {
        "recipe": recipe,
        "clean": study.clean.model_dump(mode="json") if content == "series" else None,
        "volumes": None if content == "series" else study.volumes.model_dump(mode="json"),
        "map": study.map_of(datasets),
        "slices": slicing.model_dump(mode="json") if slicing and content == "volume" else None,
        "training": {"pretraining": mode, "datasets": datasets},
    }
