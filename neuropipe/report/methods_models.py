"""Sentences on models: how each was trained, and how answers were read out of it and of what stands beside it."""

from __future__ import annotations

from typing import Any

from neuropipe.provenance import read_json
from neuropipe.report.methods_data import counted, joined
from neuropipe.report.read import Results, Training
from neuropipe.report.references import cite
from neuropipe.report.systems import BASELINES, BESIDE, HARMONISED, RANDOM, SCRATCH

FAMILIES = {  # what a family is, in words, and who published it
    "semantoks": ("Brain-Semantoks (self-distillation on tokens of functional networks)", "gijsen2026"),
    "neuroclr": ("NeuroCLR (contrast of regional series)", "neuroclr"),
    "csm": ("causal sequence modelling of brain dynamics (CSM)", "thomas2022"),
    "sequence_bert": ("Sequence-BERT (hidden time points and the order of pieces)", "thomas2022"),
    "network_bert": ("Network-BERT (hidden regions and the order of pieces)", "thomas2022"),
    "autoencoder": ("a recurrent autoencoder of brain dynamics", "thomas2022"),
    "linear_baseline": ("the linear baseline of learning from brains", "thomas2022"),
    "multiscale_vit": ("the multi-scale vision transformer of NeuroSSL", "neurossl"),
    "yaware": ("y-Aware contrastive learning", "dufumier2021"),
}
PEOPLE = {
    "train_side": "on the training side",
    "external": "on people of whom none is in any task",
    "everyone": "on everyone, unlabelled test people included",
}
READOUTS = {
    "ridge": f"ridge regression {cite('hoerl1970')}",
    "logistic": "L2-penalised logistic regression",
    "attentive": "attentive pooling of the tokens by one learned query",
    "knn": f"the nearest training people {cite('cover1967')}",
}
BESIDE_WORDS = {
    "majority": "the majority class or the mean of the training side",
    "confounds": "the confounds alone",
    "fc": "functional connectivity (Fisher-transformed Pearson correlations of all pairs of regions)",
    "fc_partial": f"partial correlations from shrunk covariances {cite('ledoit2004')}",
    "fc_tangent": f"covariances in their tangent space {cite('ledoit2004', 'varoquaux2010')}",
    "mean_pattern": "the mean activity of each region",
    "voxels": "principal components of the {points}",
    "regions": "the volumes of the regions",
}
POINTS = {"volume": "voxels", "image": "pixels"}


def training(results: Results) -> list[str]:
    """Return a paragraph on each recipe: family, people, steps, time and device."""
    by_recipe: dict[str, list[Training]] = {}
    for one in results.trainings:
        by_recipe.setdefault(one.recipe, []).append(one)
    return [" ".join(recipe(name, models, results)) for name, models in by_recipe.items()]


def family(name: str) -> str:
    """Return a family in words with its source."""
    words, key = FAMILIES.get(name, (f"the family {name}", ""))
    return f"{words} {cite(key)}" if key else words


def recipe(name: str, models: list[Training], results: Results) -> list[str]:
    """Return the sentences on one recipe."""
    about, item = models[0].config, results.config.pretrain.get(name)
    named = f"{name} is {family(about.get('family', 'unknown'))}"
    if item is not None and item.checkpoint:
        return [f"{named}; its released weights were used without further training."]
    settings = (about.get("recipe") or {}).get("train") or {}
    said = [f"{named}.", _learned(models, item, settings)]
    if how := _optimised(settings):
        said.append(how)
    seconds = [float(one.curve["seconds"].sum()) for one in models if one.curve is not None and "seconds" in one.curve]
    devices = sorted({d for one in models if (d := one.config.get("training", {}).get("device"))})
    if seconds:
        where = f" on {joined([f'a {d}' if d == 'processor' else d for d in devices])}" if devices else ""
        each = " on average" if len(seconds) > 1 else ""
        said.append(f"Training took {_duration(sum(seconds) / len(seconds))}{each}{where}.")
    return said


def _learned(models: list[Training], item: Any, settings: dict[str, Any]) -> str:
    steps = [int(one.curve["step"].max()) for one in models if one.curve is not None and len(one.curve)]
    people = sorted({len(one.people) for one in models if one.people is not None})
    seeds = sorted({one.seed for one in models})
    number = "One model was" if len(models) == 1 else f"{len(models)} models were"
    text = f"{number} trained without labels"
    if item is not None:
        each = " of each fold" if item.people == "train_side" and len(models) > len(seeds) else ""
        text += f" {PEOPLE[item.people]}{each} of {joined(item.datasets)}"
    if people:
        sizes = str(people[0]) if len(people) == 1 else f"{people[0]} to {people[-1]}"
        text += f" ({sizes} people)"
    if len(seeds) > 1:
        text += f", with {len(seeds)} seeds"
    if steps:
        text += f", for {counted(max(steps), 'step')}"
    if settings.get("batch_size"):
        text += f" of {settings['batch_size']} people"  # `accumulate` cuts them into parts
    return f"{text}."


def _optimised(settings: dict[str, Any]) -> str:
    if "lr" not in settings:
        return ""
    kind = "AdamW" if settings.get("weight_decay_in", "weights") == "weights" else "Adam"
    text = f"The optimiser was {kind} with a learning rate of {settings['lr']:g}"
    if settings.get("lr_schedule"):
        text += f" ({settings['lr_schedule']} schedule)"
    if settings.get("weight_decay"):
        text += f" and a weight decay of {settings['weight_decay']:g}"
    return f"{text}."


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# --- prediction ---------------------------------------------------------------------------------


def prediction(results: Results) -> list[str]:
    """Return the tasks, the readouts that answered them, and what stands beside the models."""
    judged = results.metrics["task"].unique()
    tasks = [_task(name, results) for name in results.config.tasks if name in judged]
    systems = {str(name) for name in results.metrics["system"].unique()}
    readouts = [words for name, words in READOUTS.items() if (results.metrics["readout"] == name).any()]
    said = [f"What was predicted: {'; '.join(tasks)}."] if tasks else []
    if readouts:
        said.append(
            f"Answers were read by {joined(readouts)}; scaling and the strength of the penalty were fitted within "
            "the training side, the strength on inner folds."
        )
    if beside := [words for name, words in BESIDE_WORDS.items() if name in systems]:
        maps = results.config.contents(results.config.datasets)
        points = joined([word for content, word in POINTS.items() if content in maps])
        said.append(f"Beside the models stood {joined(beside)}.".format(points=points))
    if any(name.endswith(RANDOM) for name in systems):
        said.append("Each network was also read out with random weights.")
    return said + _joined_with(systems) + _finetuned(results, systems) + _harmonised(results)


def _task(name: str, results: Results) -> str:
    task = results.config.tasks[name]
    kinds = {"binary": f"{task.positive} or not", "multiclass": "classes", "regression": "a number"}
    kind = kinds.get(task.kind, "the condition of labelled clips")
    text = f"{task.target} ({kind}) in {joined(task.datasets)}"
    if task.test_datasets:
        text += f", tested also on {joined(task.test_datasets)}, which no training saw"
    return text


def _joined_with(systems: set[str]) -> list[str]:
    plain = {name.removesuffix(HARMONISED).removesuffix(RANDOM) for name in systems}
    names = sorted({name.partition(BESIDE)[2] for name in plain if BESIDE in name})
    words = ["functional connectivity" if n == "fc" else BASELINES.get(n, n).lower() for n in names]
    return [f"Embeddings were also read out together with {joined(words)}."] if names else []


def _finetuned(results: Results, systems: set[str]) -> list[str]:
    """Return how whole networks were trained for tasks."""
    if not (results.metrics["readout"] == "finetune").any():
        return []
    said = ["Networks were also trained as a whole for their tasks, starting from the pretrained weights"]
    if any(name.endswith(SCRATCH) for name in systems):
        said[0] += " and, for comparison, from random ones"
    said[0] += "; the step was chosen on people held out of the training side."
    paths = sorted(results.study.root.glob("finetuned/*/*/seed-*/**/config.json"))
    calibrations = [read_json(path).get("calibration") for path in paths if "checkpoints" not in path.parts]
    if any(calibrations):
        said.append(
            f"Their probabilities were calibrated on those people by a temperature {cite('guo2017')} and a bias "
            f"{cite('platt1999')}."
        )
    predictions = results.predictions
    if predictions is not None and "uncertainty" in predictions and predictions["uncertainty"].notna().any():
        said.append(f"Their uncertainty is the deviation over passes with dropout {cite('gal2016')}.")
    if any(results.rollouts.values()):
        said.append(f"Where they look was read by attention rollout {cite('abnar2020')}.")
    return said


def _harmonised(results: Results) -> list[str]:
    used = results.metrics.get("harmonisation")
    if used is None or not used.fillna("").str.contains("combat").any():
        return []
    return [
        "Everything that reads features also answered after ComBat, fitted on the training side of each fold "
        f"{cite('johnson2007', 'fortin2018')}."
    ]
