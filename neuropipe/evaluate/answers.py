"""From a study's files to a question, and from answers to the tables of a task's folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from neuropipe import config as configuration
from neuropipe.errors import ConfigError, InputError
from neuropipe.evaluate import tables
from neuropipe.evaluate.features import confound_names, confound_values
from neuropipe.evaluate.protocol import Answer
from neuropipe.evaluate.question import Question, ask
from neuropipe.evaluate.targets import has_clips, read_target
from neuropipe.paths import write_text
from neuropipe.provenance import describe, hash_json, sha256, write_json
from neuropipe.shards.read import Shards
from neuropipe.splits.people import of_study

EXCLUDED = ["stage", "dataset", "participant_id", "run_id", "path", "reason", "detail"]


@dataclass(frozen=True, eq=False)
class Posed:
    """A question with the files that it came from."""

    question: Question
    study: configuration.StudyConfig
    sources: list[Shards]
    inputs: dict[str, str]


def pose(config: Path, task: str, split_dir: Path, shards: list[Path]) -> Posed:
    """Read a study's files and pose the question of one task.

    Raises
    ------
    ConfigError
        The task is not in the configuration, or its datasets' shards were not given.
    InputError
        A file is missing.
    """
    study = configuration.load(config)
    if task not in study.tasks:
        raise ConfigError(f"No task {task!r} in {config}; known are {', '.join(study.tasks) or 'none'}.")
    settings = study.tasks[task]
    path = split_dir / "splits.parquet"
    if not path.is_file():
        raise InputError(f"No split at {path}; run `neuropipe split` first.")
    sources = [Shards(folder) for folder in shards if folder.name in settings.asked]
    if missing := sorted(set(settings.asked) - {source.dataset for source in sources}):
        raise ConfigError(f"Task {task!r} asks about {', '.join(missing)}, but --shards has no such folder; add it.")
    if settings.test_datasets and sources[0].content == "series":
        for source in sources[1:]:
            sources[0].regions.check_same(source.regions, f"Task {task!r}: the regions of {source.dataset}")
    people = of_study(study, sources)
    clips = settings.kind == "decoding"
    target = has_clips(task, settings, people, sources) if clips else read_target(task, settings, people)
    table = pd.read_parquet(path)
    judged = {"task": settings, "split": study.splits[settings.split], "evaluate": study.evaluate}
    labelled = {f"shards/{s.dataset}/clips.parquet": sha256(s.folder / "clips.parquet") for s in sources if clips}
    facts = {
        **_atlas(sources[0]),
        "config_hash": hash_json({k: v.model_dump(mode="json") for k, v in judged.items()} | {"seed": study.seed}),
        "data_hash": hash_json([*sorted(people.recordings["sha256"]), *labelled.values()]),
    }
    draws = 0 if clips else study.evaluate.permutations
    question = ask(people, target, table, draws=draws, seed=study.seed, facts=facts)
    question = replace(question, learning_draws=0 if clips else study.evaluate.learning_curve_draws)
    inputs = {f"shards/{s.dataset}/manifest.parquet": sha256(s.folder / "manifest.parquet") for s in sources} | labelled
    return Posed(question, study, sources, inputs | {f"splits/{split_dir.name}/splits.parquet": sha256(path)})


def _atlas(source: Shards) -> dict[str, str]:
    """Return what the tables say of the regions; ``n/a`` for maps and slices without an atlas."""
    if source.content != "series" and not ((source.folder / "regions.tsv").is_file() and len(source.regions)):
        return {"atlas_id": "n/a", "roi_order_hash": "n/a"}
    return {"atlas_id": "+".join(source.regions.atlases), "roi_order_hash": source.regions.order_hash}


def write(stage: str, posed: Posed, answer: Answer, output: Path, unseen: dict[str, list[int]] | None = None) -> None:
    """Write a task's tables, who could not be asked or seen, and the sidecar.

    Parameters
    ----------
    unseen : dict of str to list of int
        By system: rows of people without an embedding.
    """
    keys = ["run_id", "repeat", "fold"]
    order = [*keys, "dataset", "participant_id"]
    predictions = answer.predictions.sort_values([*keys, "role", *order[3:]], ignore_index=True)
    tables.write(output / "predictions.parquet", predictions, tables.PREDICTIONS)
    tables.write(output / "nulls.parquet", answer.nulls.sort_values(order, ignore_index=True), tables.NULLS)
    choices = answer.choices.sort_values([*keys, "share", "n_neighbours", "strength"], ignore_index=True)
    tables.write(output / "choices.parquet", choices, tables.CHOICES)
    tables.write(output / "costs.parquet", answer.costs.sort_values(["run_id", "measure"]), tables.COSTS)
    drivers = output / "drivers.parquet"
    drivers.unlink(missing_ok=True)
    if len(answer.drivers):
        tables.write(drivers, answer.drivers.sort_values(["run_id", "region"], ignore_index=True), tables.DRIVERS)
    curves = output / "efficiency.parquet"
    curves.unlink(missing_ok=True)
    if len(answer.efficiency):
        places = [*keys, "n_people", "draw", "metric"]
        tables.write(curves, answer.efficiency.sort_values(places, ignore_index=True), tables.EFFICIENCY)
    write_excluded(stage, posed.question, output / "excluded.tsv", unseen or {})
    task = posed.question.target.task
    settings = posed.study.tasks[task].model_dump(mode="json")
    sidecar = describe(stage, inputs=posed.inputs, settings=settings, packages=["numpy", "scipy", "pandas"], task=task)
    write_json(output / f"{stage}.json", sidecar)


def write_confounds(posed: Posed, path: Path) -> None:
    """Write what each person who is asked brings that could explain an answer; no file where the task names nothing."""
    question, task = posed.question, posed.question.target.task
    people = question.people
    parts = []
    for name in confound_names(posed.study.tasks[task].confounds, question.target.column, people):
        values = confound_values(people, name)
        numeric = pd.api.types.is_numeric_dtype(values) and name != "site"
        kind = {"number": values.to_numpy(float)} if numeric else {"text": values.astype("string").to_numpy()}
        table = people.table[["dataset", "participant_id"]].reset_index(drop=True)
        parts.append(table.assign(task=task, confound=name, **kind)[question.target.known])
    path.unlink(missing_ok=True)
    if parts:
        tables.write(path, pd.concat(parts, ignore_index=True), tables.CONFOUNDS)


def write_excluded(stage: str, question: Question, path: Path, unseen: dict[str, list[int]]) -> None:
    """List people without a target (not asked) and people without an embedding (predicted from the mean)."""
    people = question.people.table
    lacking = "a labelled clip" if question.target.kind == "decoding" else question.target.column
    rows = [
        [stage, people["dataset"].iat[i], people["participant_id"].iat[i], "", "", "no target", f"{lacking} is missing"]
        for i in range(len(people))
        if not question.target.known[i] and i not in question.related
    ]
    rows += [
        [stage, people["dataset"].iat[i], people["participant_id"].iat[i], "", "", "not external",
         "is, or is kin of, somebody of the task's other datasets"]
        for i in question.related
    ]  # fmt: skip
    rows += [
        [stage, people["dataset"].iat[i], people["participant_id"].iat[i], "", "", "no embedding",
         f"{system}: predicted from the training side's mean embedding"]
        for system, missing in sorted(unseen.items())
        for i in missing
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=EXCLUDED)
    write_text(path, table.to_csv(sep="\t", index=False, lineterminator="\n"))
