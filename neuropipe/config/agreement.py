"""Mistakes between sections: names that one uses and the other does not have, wishes that exclude each other."""

from __future__ import annotations

from typing import Any

from neuropipe.config.atlases import SURFACE_SPACE
from neuropipe.config.datasets import content_of, roots_of
from neuropipe.config.evaluation import OF_CONTENT, fits
from neuropipe.config.messages import with_hint
from neuropipe.config.presets import preset_names


def disagreements(content: dict[str, Any]) -> list[str]:
    """Return the mistakes between sections: names that one uses and the other does not have."""
    datasets, splits, tasks = (_part(content, key) for key in ("datasets", "splits", "tasks"))
    judged = {name for task in tasks.values() for name in _listed(task, "datasets")}
    lines = []
    if (name := content.get("preset")) is not None and name not in preset_names():
        lines.append(f"preset: {with_hint(name, preset_names())}")
    for part in ("tasks", "pretrain"):
        for key, item in _part(content, part).items():
            unknown = [name for name in _listed(item, "datasets") if name not in datasets]
            lines += [f"{part}.{key}.datasets: {with_hint(name, datasets)}" for name in unknown]
    for key, item in _part(content, "pretrain").items():
        unknown = [name for name in _listed(item, "splits") if name not in splits]
        lines += [f"pretrain.{key}.splits: {with_hint(name, splits)}" for name in unknown]
    for key, task in tasks.items():
        if "split" in task and task["split"] not in splits:
            lines.append(f"tasks.{key}.split: {with_hint(task['split'], splits)}")
    lines += _links(datasets)
    roots = roots_of(_links_of(datasets))
    judged = {roots.get(name, name) for name in judged}
    for key, item in _part(content, "pretrain").items():
        shared = sorted(name for name in _listed(item, "datasets") if roots.get(name, name) in judged)
        if item.get("people") == "external" and shared and item.get("checkpoint") is None:
            lines.append(
                f"pretrain.{key}.people: external means datasets that no task judges, but the people of "
                f"{', '.join(shared)} are judged; use people: train_side, or other datasets"
            )
    bold = [item for item in datasets.values() if item.get("kind") == "fmriprep" and item.get("map") is None]
    if bold and not content.get("atlases"):
        lines.append("atlases: a dataset of kind fmriprep needs at least one atlas (see `neuropipe atlas list`)")
    lines += _seen_test_datasets(content) + _mixed_contents(content) + _idle_baselines(content)
    lines += _finetuned_tasks(content) + _without_clips(content)
    return lines + _impossible_on_surfaces(content) + _without_sites(content)


def _links_of(datasets: dict[str, dict]) -> dict[str, str]:
    return {key: item["people_of"] for key, item in datasets.items() if isinstance(item.get("people_of"), str)}


def _links(datasets: dict[str, dict]) -> list[str]:
    """Return the datasets whose `people_of` names none, or leads back to themselves."""
    links = _links_of(datasets)
    lines = [
        f"datasets.{key}.people_of: {with_hint(named, datasets)}"
        for key, named in links.items()
        if named not in datasets
    ]
    endless = sorted(set(links) - set(roots_of(links)))
    if endless:
        lines.append(
            f"datasets.{endless[0]}.people_of: {', '.join(endless)} lead to each other in a circle; one of them names "
            "the people, and has no people_of"
        )
    return lines


def _mixed_contents(content: dict[str, Any]) -> list[str]:
    """Return the tasks and recipes whose datasets hold different things, which one model cannot read."""
    contents = {key: _held(item) for key, item in _part(content, "datasets").items()}
    lines = []
    for part in ("tasks", "pretrain"):
        for key, item in _part(content, part).items():
            listed = [*_listed(item, "datasets"), *_listed(item, "test_datasets")]
            named = {name: contents[name] for name in listed if name in contents}
            if len(set(named.values())) > 1:
                found = ", ".join(f"{name}: {held}" for name, held in named.items())
                lines.append(f"{part}.{key}.datasets: expected datasets of one content, found {found}; make two of it")
    return lines


def _seen_test_datasets(content: dict[str, Any]) -> list[str]:
    """Return the test datasets that do not exist, or that something may learn from."""
    datasets, tasks = _part(content, "datasets"), _part(content, "tasks")
    lines = []
    for key, task in tasks.items():
        where, names = f"tasks.{key}.test_datasets", _listed(task, "test_datasets")
        lines += [f"{where}: {with_hint(name, datasets)}" for name in names if name not in datasets]
        if names and task.get("kind") == "decoding":
            lines.append(f"{where}: clips are not judged on other datasets yet; leave it out")
        judges = [other for other, item in tasks.items() if item.get("split") == task.get("split")]
        for name in names:
            divided = [other for other in judges if name in _listed(tasks[other], "datasets")]
            if divided:
                lines.append(
                    f"{where}: {name} is one of the datasets of {', '.join(divided)}, so that the split "
                    f"{task.get('split')} lets something learn from it; a test dataset stands in test_datasets alone"
                )
        lines += [
            f"{where}: pretrain.{recipe} learns from {', '.join(seen)} (people: {item['people']}); no training may see "
            "a test dataset, so leave it out of pretrain, or out of the task"
            for recipe, item in _part(content, "pretrain").items()
            if (seen := _pretrained_on(item, task, datasets))
        ]
    return lines


def _pretrained_on(item: dict, task: dict, datasets: dict[str, dict]) -> list[str]:
    """Return the datasets of a recipe's training whose people a task keeps for its test.

    With ``train_side`` people are learned from only where a split trains on them. People whom the task's own datasets
    share are left out of the test when it is made.
    """
    splits = item.get("splits") if isinstance(item.get("splits"), list) else [task.get("split")]
    if item.get("people") not in ("external", "everyone") or item.get("checkpoint") is not None:
        return []
    if task.get("split") not in splits:
        return []
    roots = roots_of(_links_of(datasets))
    tested, own = ({roots.get(n, n) for n in _listed(task, key)} for key in ("test_datasets", "datasets"))
    return sorted(
        name
        for name in _listed(item, "datasets")
        if name in _listed(task, "test_datasets") or roots.get(name, name) in tested - own
    )


def _content(item: dict[str, Any]) -> str:
    """Return what the samples of a raw dataset are."""
    return content_of(item.get("kind"), item.get("map"), item.get("holds"))


def _held(item: dict[str, Any]) -> str:
    """Return what a raw dataset holds, of anatomy also which map: one model reads one of them."""
    content = _content(item)
    return f"volume ({item.get('map') or 'gm'})" if content == "volume" else content


def _idle_baselines(content: dict[str, Any]) -> list[str]:
    """Return the baselines that were asked for by name although no task has the data that they need."""
    evaluate, datasets = content.get("evaluate"), _part(content, "datasets")
    keys = ("baselines", "combine") if isinstance(evaluate, dict) else ()
    tasks = _part(content, "tasks").values()
    contents = {
        "clip" if task.get("kind") == "decoding" else _content(datasets[name])
        for task in tasks
        for name in _listed(task, "datasets")
        if name in datasets
    }
    atlases = bool(content.get("atlases"))
    return [
        f"evaluate.{key}: {name} fits no task: expected {_fitting(name)}"
        + (" and atlases" if name == "regions" else "")
        + f", found {' and '.join(sorted(contents))}; leave it out"
        for key in keys
        for name in _listed(evaluate, key)
        if contents and name in OF_CONTENT and not any(fits(name, found, atlases) for found in contents)
    ]


def _fitting(baseline: str) -> str:
    """Return in words for which tasks a baseline can answer."""
    contents = [name for name in OF_CONTENT[baseline] if name != "clip"]
    return f"datasets of {' or '.join(contents)}" if contents else "a task of kind decoding"


def _without_clips(content: dict[str, Any]) -> list[str]:
    """Return the decoding tasks that ask about datasets without labelled clips."""
    datasets = _part(content, "datasets")
    return [
        f"tasks.{key}.datasets: decoding needs labelled clips, but datasets.{name} has {_wanting(datasets[name])}"
        for key, task in _part(content, "tasks").items()
        for name in _listed(task, "datasets")
        if task.get("kind") == "decoding" and name in datasets and not _has_clips(datasets[name])
    ]


def _has_clips(item: dict[str, Any]) -> bool:
    return bool(item.get("clips")) if item.get("kind") == "shards" else item.get("events") is not None


def _wanting(item: dict[str, Any]) -> str:
    if item.get("kind") == "shards":
        return "none; where they were published with the shards, write clips: true"
    return "no section events; add one, e.g. events: {labels: hcp7}"


def _impossible_on_surfaces(content: dict[str, Any]) -> list[str]:
    """Return the mistakes of a study with atlases of vertices that asks for what is done to voxels only."""
    atlases = content["atlases"] if isinstance(content.get("atlases"), list) else []
    spaces = [str(atlas.get("space")) for atlas in atlases if isinstance(atlas, dict)]
    if not any(map(SURFACE_SPACE.fullmatch, spaces)):
        return []
    lines = []
    if isinstance(content.get("clean"), dict) and content["clean"].get("smoothing_fwhm_mm"):
        lines.append("clean.smoothing_fwhm_mm: vertices are not smoothed; write null, and smooth before (wb_command)")
    if content.get("warp"):
        lines.append("warp: atlases of vertices are not warped; write false, and name an atlas of the mesh")
    return lines


def _without_sites(content: dict[str, Any]) -> list[str]:
    """Return what keeps a study from being harmonised: datasets without sites, columns that are kept for nothing."""
    evaluate = content.get("evaluate")
    asked = evaluate if isinstance(evaluate, dict) else {}
    if asked.get("harmonise") is None:
        kept = _listed(asked, "harmonise_keep")
        return ["evaluate.harmonise_keep: says what harmonise keeps, which is not asked for"] if kept else []
    datasets, tasks = _part(content, "datasets"), _part(content, "tasks")
    judged = {name for task in tasks.values() if task.get("kind") != "decoding" for name in _listed(task, "datasets")}
    lacking = [
        name
        for name in sorted(judged & set(datasets))
        if isinstance(roles := datasets[name].get("roles"), dict) and "site" in roles and roles["site"] is None
    ]
    lines = [
        f"evaluate.harmonise: needs sites, but datasets.{name}.roles.site is null; name the column, or leave "
        "harmonise out"
        for name in lacking
    ]
    if "site" in _listed(asked, "harmonise_keep"):
        lines.append("evaluate.harmonise_keep: site is what harmonise takes away; leave it out")
    return lines


def _part(content: Any, key: str) -> dict[str, dict]:
    """Return a mapping of mappings out of raw content, leaving out what is neither (reported elsewhere)."""
    found = content.get(key)
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def _listed(item: dict, key: str) -> list:
    return item[key] if isinstance(item.get(key), list) else []


def _shared(task: dict, own: list[str], datasets: dict[str, dict]) -> bool:
    """Return whether a recipe on the datasets `own` has models for a task: of clips, other series will do."""
    links = roots_of(_links_of(datasets)) if task.get("kind") == "decoding" else {}
    asked, known = ({links.get(name, name) for name in names} for names in (_listed(task, "datasets"), own))
    return bool(asked & known)


def _finetuned_tasks(content: dict[str, Any]) -> list[str]:
    """Return the mistakes in the tasks that a recipe is fine-tuned for: each must be one that judges the recipe."""
    datasets, tasks = _part(content, "datasets"), _part(content, "tasks")
    held = {key: _held(item) for key, item in datasets.items()}
    lines = []
    for key, item in _part(content, "pretrain").items():
        own = _listed(item, "datasets")
        for name in _listed(item, "finetune"):
            where = f"pretrain.{key}.finetune"
            if name not in tasks:
                lines.append(f"{where}: {with_hint(name, tasks)}")
                continue
            if tasks[name].get("kind") == "multiclass":
                lines.append(
                    f"{where}: task {name} has several classes, and networks are trained to tell two, or a number; "
                    "leave it out (readouts of frozen embeddings answer it)"
                )
                continue
            asked, split = _listed(tasks[name], "datasets"), tasks[name].get("split")
            found = {held[d] for d in asked if d in held}
            if found != {held[d] for d in own if d in held}:
                lines.append(
                    f"{where}: the datasets of task {name} hold {' and '.join(sorted(found))}, not what the "
                    "recipe is trained on"
                )
            elif item.get("people") != "external" and not _shared(tasks[name], own, datasets):
                lines.append(
                    f"{where}: the recipe is trained on none of the datasets of task {name}, so that it has no "
                    "model for its folds; add one to datasets, or use people: external"
                )
            elif item.get("splits") is not None and split not in _listed(item, "splits"):
                lines.append(f"{where}: task {name} is judged by the split {split}, which splits: leaves out")
    return lines
