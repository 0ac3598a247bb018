"""Model cards: what a recipe's models are, from whom they learned, and what they reached."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from neuropipe import __version__
from neuropipe.report import lineage, words
from neuropipe.report.audit import Check
from neuropipe.report.read import Results, Training
from neuropipe.report.tables import NAMES, Board, Entry
from neuropipe.report.words import amount, interval, probability

TEMPLATES = Path(__file__).parent / "templates"
NOTES = {
    "train_side": ": the training side of each fold, never its test people",
    "external": ": datasets that share nobody with any task",
    "everyone": ": **unlabelled test people included; its numbers say nothing about new people**",
}


def render(results: Results, boards: list[Board], checks: list[Check], recipe: str, made_at: datetime) -> str:
    """Return the card of a recipe as Markdown."""
    trainings = [one for one in results.trainings if one.recipe == recipe]
    about = trainings[0].config
    item = results.config.pretrain.get(recipe)
    judged = [(board, entry) for board in boards for entry in board.entries if entry.system.name == recipe]
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            recipe=recipe,
            study=results.config.study,
            version=__version__,
            date=f"{made_at:%Y-%m-%d}",
            family=about.get("family", "unknown"),
            regions=_regions(about),
            t_r=f"{about['t_r']:g} s" if "t_r" in about else "as in the data",
            normalisation=about.get("normalisation", "unknown"),
            order_hash=about.get("region_order_hash", "unknown"),
            people=item.people if item else "unknown",
            people_note=NOTES[item.people] if item else "",
            datasets=", ".join(item.datasets) if item else "unknown",
            models=[_model(one, results) for one in trainings],
            results=[_result(board, entry) for board, entry in judged],
            verdicts=[words.verdict(board) for board in boards if board.name in {b.name for b, _ in judged}],
            checks=[check for check in checks if check.title.startswith(f"Model {recipe},")],
            configuration=yaml.safe_dump(
                {"model": about.get("model"), "recipe": about.get("recipe"), "clean": about.get("clean")},
                sort_keys=False,
            ),
        )
    )


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
    connectivity = board.twin(entry, "fc")
    row = {
        "task": board.name,
        "readout": entry.system.readout,
        "metric": NAMES[board.metric],
        "value": amount(entry.value, board.metric),
        "interval": interval(entry.ci_low, entry.ci_high, board.metric),
        "fc": "–",
        "difference": "–",
        "p": probability(entry.p_perm),
        "n_test": f"{entry.n_test:.0f}",
    }
    if connectivity is not None:
        difference = board.difference(entry, connectivity)
        between = interval(difference.low, difference.high, board.metric, signed=True)
        row["fc"] = amount(connectivity.value, board.metric)
        row["difference"] = f"{amount(difference.value, board.metric, signed=True)} ({between})"
    return row


def _regions(about: dict[str, Any]) -> str:
    return f"{about.get('n_regions', '?')} regions of {' + '.join(about.get('atlases') or ['an unknown atlas'])}"
