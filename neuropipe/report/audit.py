"""The leakage audit as a checklist, and the warnings that go to the top of the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from neuropipe.report.read import Results, SplitFacts, Training
from neuropipe.report.tables import Board
from neuropipe.report.words import amount, interval
from neuropipe.splits.people import individuals

State = Literal["passed", "failed", "unknown"]
Topic = Literal["split", "scores", "pretraining"]
APART = "Models learned from nobody whom they are tested on, kin included"
SHOWN = 3  # failed checks named in a banner
# Parts of the audit that stay open until a study measures them: a word of the check's name, title, why.
OPEN = {
    "transform": (
        "No transform is fitted outside the training side",
        "holds by the one protocol that every system goes through; not measured in this study",
    ),
    "site": ("How well the embedding tells the site is reported beside the reference", "not measured in this study"),
}


@dataclass(frozen=True)
class Check:
    """One line of the checklist.

    Attributes
    ----------
    topic : {"split", "scores", "pretraining"}
        What it is about.
    title : str
        What must hold.
    state : {"passed", "failed", "unknown"}
        Whether it does; unknown where the study does not tell.
    detail : str
        What was found.
    group : str
        What is asked of several systems, models or splits alike; empty where it is asked once.
    """

    topic: Topic
    title: str
    state: State
    detail: str
    group: str = ""


@dataclass(frozen=True)
class Group:
    """Checks that ask the same, in the order of the list, all of one state."""

    title: str
    state: State
    checks: list[Check]


def grouped(checks: Iterable[Check]) -> list[Group]:
    """Return checks that ask the same together: what failed first, then what is not known, then what passed."""
    found: dict[tuple[State, str], list[Check]] = {}
    for check in checks:
        found.setdefault((check.state, check.group or check.title), []).append(check)
    order: list[State] = ["failed", "unknown", "passed"]
    groups = [Group(title, state, own) for (state, title), own in found.items()]
    return sorted(groups, key=lambda group: order.index(group.state))


@dataclass(frozen=True)
class Banner:
    """A warning at the top of the page; `link` is the id of the section that explains it."""

    title: str
    detail: str
    link: str


def checklist(results: Results, boards: Iterable[Board]) -> list[Check]:
    """Return every check of the leakage audit: splits, scores, pretraining."""
    labels = {e.system.run_id: f"{board.name}, {e.system.label}" for board in boards for e in board.entries}
    checks = [check for name, facts in results.splits.items() for check in _split_checks(name, facts)]
    if results.leakage is None:
        missing = "There is no leakage.json; run neuropipe evaluate."
        checks.append(Check("scores", "Shuffled labels score at chance", "unknown", missing))
    else:
        checks += [_measured(item, labels) for item in results.leakage]
    names = " ".join(str(item["check"]) for item in results.leakage or [])
    checks += [Check("scores", title, "unknown", why) for word, (title, why) in OPEN.items() if word not in names]
    by_model: dict[str, list[Training]] = {}
    for one in results.trainings:
        by_model.setdefault(f"{one.recipe}, seed {one.seed}", []).append(one)
    return checks + [_pretraining(name, models, results) for name, models in by_model.items()]


def _split_checks(name: str, facts: SplitFacts) -> list[Check]:
    if facts.audit is None:
        return [Check("split", f"Split {name} is sound", "unknown", "There is no audit.json; run neuropipe split.")]
    n_folds = len(facts.audit.get("folds", []))
    scope = f"{facts.audit.get('n_people', 'all')} people, {n_folds} fold{'' if n_folds == 1 else 's'}"
    return [
        Check(
            "split",
            f"Split {name}: {item['check']}",
            "passed" if item["passed"] else "failed",
            str(item.get("detail") or scope),
            f"Split {name}",
        )
        for item in facts.audit["checks"]
    ]


def _measured(item: dict[str, Any], labels: dict[str, str]) -> Check:
    """Return a check of ``leakage.json`` in words."""
    where = str(item["where"])
    group = f"{str(item['check'])[:1].upper()}{str(item['check'])[1:]}"
    detail = ""
    if "value" in item:
        value = item["value"]
        found = f"{value:.3f}" if isinstance(value, float) else str(value)
        detail = f"found {found}, expected {item.get('expected', 'nothing else')}"
    topic: Topic = "pretraining" if "pretraining" in str(item["check"]) else "scores"
    state: State = "passed" if item["passed"] else "failed"
    return Check(topic, f"{group}: {labels.get(where, where)}", state, detail, group)


def _pretraining(name: str, models: list[Training], results: Results) -> Check:
    """Check by the lists of people that no model of a recipe and seed learned from those it is tested on."""
    title = f"Model {name}: learned from nobody whom it is tested on, kin included"
    seen, known, links = set(), 0, results.config.same_people()
    for one in models:
        tested = _tested(one, results)
        if one.people is None or tested is None:
            continue
        known += 1
        learned = set(individuals(one.people, links))
        persons = _persons_of(learned, results)
        seen |= {name for name, person in tested.items() if name in learned or person in persons}
    scope = f"by the lists of people of {known} of {len(models)} model{'' if len(models) == 1 else 's'}"
    if seen:
        return Check("pretraining", title, "failed", f"{len(seen)} test people were seen, {scope}", APART)
    return Check("pretraining", title, "passed" if known == len(models) else "unknown", scope, APART)


def _tested(training: Training, results: Results) -> dict[str, str] | None:
    """Return person by individual of everyone whom the model is tested on; None where unknown."""
    split, _, fold = training.where.partition("/")
    facts = [results.splits[split]] if split in results.splits else list(results.splits.values())
    tables = [one.table for one in facts if one.table is not None]
    if not tables or len(tables) < len(facts):
        return None
    rows = pd.concat([table[(table["role"] == "test") & ((table["fold"] == fold) | (not fold))] for table in tables])
    return dict(zip(individuals(rows, results.config.same_people()), rows["person"].astype(str), strict=True))


def _persons_of(learned: set[str], results: Results) -> set[str]:
    """Return the persons (or families) of everyone in `learned`, as far as the splits know them."""
    tables = [facts.table for facts in results.splits.values() if facts.table is not None]
    if not tables:
        return set()
    rows = pd.concat(tables).drop_duplicates(["dataset", "participant_id"])
    return set(rows.loc[individuals(rows, results.config.same_people()).isin(learned), "person"].astype(str))


def banners(results: Results, boards: Iterable[Board], checks: Iterable[Check]) -> list[Banner]:
    """Return what a reader must know before believing any number."""
    failed = [check for check in checks if check.state == "failed"]
    found = []
    if audit := [check for check in failed if check.topic != "pretraining"]:
        count = "One check" if len(audit) == 1 else f"{len(audit)} checks"
        found.append(Banner(f"{count} of the leakage audit failed", _listed(audit), "audit"))
    everyone = [name for name, item in results.config.pretrain.items() if item.people == "everyone"]
    if everyone:
        detail = (
            "The study asked for it (people: everyone): unlabelled test people were part of training. "
            "These numbers say nothing about new people."
        )
        found.append(Banner(f"Pretraining of {', '.join(everyone)} has seen the test people", detail, "audit"))
    elif seen := [check for check in failed if check.topic == "pretraining"]:
        found.append(Banner("Pretraining has seen test people", _listed(seen), "audit"))
    return found + [banner for board in boards if (banner := below_reference(board)) is not None]


def _listed(checks: list[Check]) -> str:
    named = "; ".join(f"{check.title} ({check.detail})" for check in checks[:SHOWN])
    return f"{named}; and {len(checks) - SHOWN} more." if len(checks) > SHOWN else f"{named}."


def below_reference(board: Board) -> Banner | None:
    """Return a warning where the best model scores below the reference."""
    model = board.best("model")
    reference = board.twin(model, "reference") if model else None
    if model is None or reference is None:
        return None
    difference = board.difference(model, reference)
    if not board.gain(difference.value) < 0:
        return None
    between = interval(difference.low, difference.high, board.metric, signed=True)
    says = {
        "worse": f"The 95 % interval of the difference ({between}) excludes zero.",
        "undecided": f"The 95 % interval of the difference ({between}) includes zero.",
        "better": f"The 95 % interval of the difference is {between}.",
    }[board.judge(difference)]
    if between == "–":
        says = "No interval of the difference is available."
    detail = (
        f"{amount(model.value, board.metric)} against {amount(reference.value, board.metric)}. {says} "
        f"A linear readout of {board.reference.data} is the simpler choice here."
    )
    return Banner(
        f"{model.system.label} scores below {board.reference.words} on {board.name}", detail, f"task-{board.name}"
    )
