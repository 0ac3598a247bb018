"""TRIPOD+AI for one model: what the tables and the config of its study tell of each item, and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from neuropipe.report import methods_data, methods_statistics
from neuropipe.report import tripod_answers as answers
from neuropipe.report.references import in_words
from neuropipe.report.subject import Subject
from neuropipe.report.tripod_items import SECTIONS, Item

State = Literal["told", "in part", "to write"]


@dataclass(frozen=True)
class Line:
    """One item as a card shows it.

    Attributes
    ----------
    item : Item
        Of the checklist.
    state : {"told", "in part", "to write"}
        Whether it is answered.
    text : str
        What the study tells; empty where it tells nothing.
    """

    item: Item
    state: State
    text: str


def checklist(subject: Subject) -> dict[str, list[Line]]:
    """Return every item by section, each with what the study tells of it."""
    return {title: [_line(item, subject) for item in items] for title, items in SECTIONS.items()}


def _line(item: Item, subject: Subject) -> Line:
    """Return an item with what tables tell and what the config states; a statement answers an item wholly."""
    told = in_words(FILLS[item.number](subject)) if item.number in FILLS else ""
    stated = subject.results.config.statements.get(item.number, "")
    text = " ".join(filter(None, [told, stated]))
    if not text:
        return Line(item, "to write", "")
    return Line(item, "told" if stated or item.number not in IN_PART else "in part", text)


FILLS: dict[str, Callable[[Subject], str]] = {
    "1": answers.title,
    "4": answers.objectives,
    "5a": answers.sources,
    "6a": answers.setting,
    "6b": answers.eligibility,
    "7": answers.preparation,
    "8a": answers.outcome,
    "9a": answers.predictors,
    "9b": answers.definitions,
    "9c": lambda subject: "Not needed: predictors are computed from images.",
    "10": answers.sizes,
    "11": answers.missing,
    "12a": lambda subject: " ".join(methods_data.partitions(subject.results)),
    "12b": answers.handling,
    "12c": answers.building,
    "12d": answers.heterogeneity,
    "12e": lambda subject: " ".join([answers.measures(subject), *methods_statistics.statistics(subject.results)]),
    "12f": answers.updating,
    "12g": answers.computed,
    "13": answers.balance,
    "15": answers.output,
    "16": answers.sides,
    "18f": answers.code,
    "20a": answers.flow,
    "20b": answers.characteristics,
    "20c": answers.comparison,
    "21": answers.events,
    "22": answers.model,
    "23a": answers.performance,
    "23b": answers.differences,
    "24": answers.updating,
    "25": answers.interpretation,
    "26": lambda subject: " ".join(answers.limitations(subject)),
    "27a": answers.poor_input,
}
# Items that tables tell in part: what is left to write stands beside them.
IN_PART = frozenset(
    ["5a", "6a", "6b", "7", "8a", "9a", "9b", "10", "11", "12d", "13", "16", "20b", "22", "25", "26", "27a"]
)
