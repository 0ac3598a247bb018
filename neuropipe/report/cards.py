"""Model cards: what a recipe's models are, from whom they learned, what they reached, and TRIPOD+AI item by item."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neuropipe import __version__
from neuropipe.report import lineage, tripod, tripod_answers, words
from neuropipe.report.audit import Check
from neuropipe.report.read import Results, Training
from neuropipe.report.subject import Subject
from neuropipe.report.systems import REFERENCES
from neuropipe.report.tables import NAMES, Board, Entry
from neuropipe.report.words import amount, interval, probability

TEMPLATES = Path(__file__).parent / "templates"
MAPS = {"gm": "grey-matter maps", "wm": "white-matter maps", "t1w": "T1-weighted images"}
NOTES = {
    "train_side": ": the training side of each fold, never its test people",
    "external": ": datasets that share nobody with any task",
    "everyone": ": **unlabelled test people included; its numbers say nothing about new people**",
}

STATES = ("told", "in part", "to write")
TASK_TYPES = {  # as the hub names them, nearest to what is done
    "binary": "image-classification",
    "multiclass": "image-classification",
    "decoding": "time-series-classification",
    "regression": "image-regression",
}


def render(results: Results, boards: list[Board], checks: list[Check], recipe: str, made_at: datetime) -> str:
    """Return the card of a recipe as Markdown, with front matter as the Hugging Face hub reads it."""
    subject = Subject.of(results, boards, checks, recipe)
    about, item, items = subject.about, subject.item, tripod.checklist(subject)
    judged, groups = subject.judged, subject.groups()
    front = yaml.safe_dump(_front_matter(subject), sort_keys=False, allow_unicode=True)
    body = (
        _environment()
        .get_template("card.md.j2")
        .render(
            recipe=recipe,
            study=results.config.study,
            version=__version__,
            date=f"{made_at:%Y-%m-%d}",
            family=about.get("family", "unknown"),
            input=_input(about),
            t_r=f"{about['t_r']:g} s" if about.get("t_r") else "as in the data",
            series=about.get("content", "series") == "series",
            normalisation=about.get("normalisation") or (about.get("volumes") or {}).get("scale", "unknown"),
            fits=_fits(about),
            reference=(judged[0][0].reference if judged else REFERENCES["series"]).label,
            people=item.people if item else "unknown",
            people_note=NOTES[item.people] if item else "",
            datasets=", ".join(item.datasets) if item else "unknown",
            learners=subject.learners(),
            models=[_model(one, results) for one in subject.trainings],
            results=[_result(board, entry) for board, entry in judged],
            groups=[_group(row, judged) for row in groups.to_dict("records")],
            targets=", ".join(dict.fromkeys(board.task.target for board, _ in judged)),
            verdicts=[words.verdict(board) for board in subject.boards],
            limitations=tripod_answers.limitations(subject),
            checks=subject.checks,
            tripod=items,
            count={state: sum(line.state == state for lines in items.values() for line in lines) for state in STATES},
            configuration=yaml.safe_dump(
                {"model": about.get("model"), "recipe": about.get("recipe")}
                | {key: about[key] for key in ("clean", "volumes", "slices") if about.get(key)},
                sort_keys=False,
            ),
        )
    )
    return f"---\n{front}---\n{body}"


def _front_matter(subject: Subject) -> dict[str, Any]:
    """Return what the Hugging Face hub reads at the head of a card: tags, and the results of its tasks."""
    content = subject.about.get("content", "series")
    tags = ["neuroimaging", "fmri" if content == "series" else "structural-mri", "self-supervised-learning"]
    found = [
        {
            "task": {"type": TASK_TYPES[board.task.kind], "name": board.name},
            "dataset": {"type": "private", "name": ", ".join(board.task.datasets), "split": board.task.split},
            "metrics": [
                {"type": board.metric, "name": f"{NAMES[board.metric]}, {entry.system.readout}", "value": entry.value}
            ],
        }
        for board, entry in subject.judged
    ]
    index = [{"name": subject.recipe, "results": found}] if found else []
    front = {"library_name": "neuropipe", "tags": [*tags, str(subject.about.get("family", "unknown"))]}
    return front | ({"model-index": index} if index else {})


@cache
def _environment() -> Environment:
    """Return the templates' environment; Markdown is plain text, so cells are made harmless by `_cell` instead."""
    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_cell)


def _cell(value: Any) -> Any:
    """Return text that neither ends a table's cell nor starts HTML."""
    if not isinstance(value, str):
        return value
    return value.replace("|", "\\|").replace("<", "&lt;")


def _model(one: Training, results: Results) -> dict[str, Any]:
    about = one.config.get("training", {})
    path = f"{one.folder.relative_to(results.study.root)}/model.safetensors"
    return {
        "where": one.where,
        "seed": one.seed,
        "people": len(one.people) if one.people is not None else about.get("n_people", "unknown"),
        "recordings": about.get("n_recordings", "unknown"),
        "steps": int(one.curve["step"].max()) if one.curve is not None and len(one.curve) else "unknown",
        "digest": lineage.weights(results.study).get(path, "unknown"),
    }


def _result(board: Board, entry: Entry) -> dict[str, str]:
    reference = board.twin(entry, "reference")
    row = {
        "task": board.name,
        "readout": entry.system.readout,
        "metric": NAMES[board.metric],
        "value": amount(entry.value, board.metric),
        "interval": interval(entry.ci_low, entry.ci_high, board.metric),
        "reference": "–",
        "difference": "–",
        "p": probability(entry.p_perm),
        "n_test": f"{entry.n_test:.0f}",
    }
    if reference is not None:
        difference = board.difference(entry, reference)
        between = interval(difference.low, difference.high, board.metric, signed=True)
        row["reference"] = amount(reference.value, board.metric)
        row["difference"] = f"{amount(difference.value, board.metric, signed=True)} ({between})"
    return row


def _group(row: dict[str, Any], judged: list[tuple[Board, Entry]]) -> dict[str, str]:
    """Return the performance of one run within one site or sex."""
    board, entry = next((b, e) for b, e in judged if e.system.run_id == row["run_id"])
    return {
        "task": board.name,
        "readout": entry.system.readout,
        "column": str(row["column"]),
        "group": str(row["group"]),
        "metric": NAMES[board.metric],
        "value": amount(row["value"], board.metric),
        "interval": interval(row["ci_low"], row["ci_high"], board.metric),
        "n": f"{row['n']:.0f}",
    }


def _input(about: dict[str, Any]) -> str:
    """Return what a model reads: regions, maps on a grid, or slices."""
    if about.get("content", "series") == "series":
        return f"{about.get('n_regions', '?')} regions of {' + '.join(about.get('atlases') or ['an unknown atlas'])}"
    held = MAPS.get(about.get("map"), "pictures" if about["content"] == "image" else "maps")
    if grid := about.get("grid"):
        held += f" of {' × '.join(map(str, grid['shape']))} voxels in {grid.get('space') or 'an unnamed space'}"
    if about["content"] == "volume":
        return held
    plane = (about.get("slices") or {}).get("plane")
    return f"{plane} slices of {held}" if plane else held


def _fits(about: dict[str, Any]) -> str:
    """Return which data a model may be given."""
    if about.get("content", "series") == "series":
        digest = about.get("region_order_hash", "unknown")
        return f"the same regions in the same order (`{digest}`), cleaned as in the configuration below"
    return "the same content in the same space, prepared as in the configuration below"
