"""TRIPOD+AI for one model: what the tables and the config of its study tell of each item, and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from neuropipe.report import excluded, methods_data, methods_models, methods_statistics, words
from neuropipe.report.methods_data import counted, joined
from neuropipe.report.references import in_words
from neuropipe.report.subject import Subject
from neuropipe.report.tables import NAMES, Board, Entry
from neuropipe.report.tripod_items import SECTIONS, Item
from neuropipe.report.words import amount, interval

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


# --- what tables tell ---------------------------------------------------------------------------


def _tasks(subject: Subject) -> list[str]:
    return [board.name for board in subject.boards]


def _title(subject: Subject) -> str:
    if not subject.judged:
        return ""
    targets = joined(list(dict.fromkeys(board.task.target for board in subject.boards)))
    family = methods_models.family(subject.about.get("family", "unknown"))
    return f"Development and evaluation of {subject.recipe}, {family}, for telling {targets} from brain images."


def _objectives(subject: Subject) -> str:
    if not subject.judged:
        return "A model is developed; this study does not evaluate it."
    return (
        f"The model is developed (pretraining without labels, then readouts) and evaluated on {joined(_tasks(subject))}, "
        "beside baselines on the same people."
    )


def _sources(subject: Subject) -> str:
    return " ".join(methods_data.dataset(name, subject.results)[0] for name in subject.datasets)


def _setting(subject: Subject) -> str:
    runs = subject.results.runs
    if runs is None or "site" not in runs:
        return ""
    sites = runs.loc[runs["dataset"].isin(subject.datasets), "site"].replace("", np.nan).dropna().nunique()
    return f"{counted(sites, 'site')} in the table of participants." if sites else ""


def _eligibility(subject: Subject) -> str:
    return " ".join(methods_data.limits(subject.results))


def _preparation(subject: Subject) -> str:
    return " ".join(methods_data.preparation(subject.results))


def _outcome(subject: Subject) -> str:
    said = []
    for board in subject.boards:
        task = board.task
        kind = {"binary": f"whether it is {task.positive}", "regression": "as a number"}.get(task.kind, "as classes")
        said.append(f"{board.name}: the column {task.target} of the participants' table, {kind}.")
    return " ".join(said).replace("column state of the participants' table", "label of each clip")


def _predictors(subject: Subject) -> str:
    return "All that the prepared images hold; none was selected before models were built."


def _definitions(subject: Subject) -> str:
    about = subject.about
    if about.get("content", "series") == "series":
        found = methods_data.atlases(subject.results)
        named = joined([f"{n} of {atlas}" for atlas, n in found.items()]) or "an unknown atlas"
        return f"Time series of {about.get('n_regions', 'unknown')} regions ({named})."
    return "Maps or slices of anatomy as described under item 7."


def _sizes(subject: Subject) -> str:
    return "All people whose recordings could be used; no calculation of a sample size was recorded."


def _missing(subject: Subject) -> str:
    said = []
    coverage = subject.results.config.exclude.min_region_coverage
    if coverage is not None and subject.about.get("content", "series") == "series":
        said.append(f"Regions covered by less than {100 * coverage:g} % are marked as missing, not imputed in the data.")
    left = subject.results.excluded
    own = left[left["dataset"].isin(subject.datasets)]
    if len(own):
        listed = joined([f"{reason} ({n})" for reason, n in own["reason"].value_counts().items()])
        said.append(f"Left out with their reasons: {listed}.")
    else:
        said.append("No recording was left out.")
    return " ".join(said)


def _handling(subject: Subject) -> str:
    how = subject.about.get("normalisation") or (subject.about.get("volumes") or {}).get("scale")
    first = f"Input: {how}. " if how else ""
    return f"{first}Features are standardised on the training side of each fold."


def _building(subject: Subject) -> str:
    model = methods_models.recipe(subject.recipe, subject.trainings, subject.results)
    return " ".join([*model, *methods_models.prediction(subject.results)[1:2]])


def _measures(subject: Subject) -> str:
    found = subject.results.metrics["metric"].unique()
    return "Measures: " + joined([NAMES.get(name, name.replace("_", " ")) for name in found]) + "."


def _heterogeneity(subject: Subject) -> str:
    folds = [board.name for board in subject.boards if "site" in subject.results.config.splits[board.task.split].scheme]
    said = [f"On {joined(folds)} every site was held out once."] if folds else []
    if len(subject.groups()):
        said.append("Performance was computed within sites and sexes.")
    return " ".join(said)


def _updating(subject: Subject) -> str:
    return "The model was not changed after its evaluation."


def _computed(subject: Subject) -> str:
    return (
        "Embeddings of evenly spaced clips are averaged to recordings and to people and read out by the models of each "
        "fold; code, settings and commands are recorded beside the results."
    )


def _balance(subject: Subject) -> str:
    return "" if all(b.task.kind == "regression" for b in subject.boards) else "Splits keep classes where they stratify."


def _output(subject: Subject) -> str:
    said = []
    for board in subject.boards:
        if board.task.kind == "regression":
            said.append(f"{board.name}: {board.task.target} as a number.")
            continue
        rows = subject.results.metrics[subject.results.metrics["task"] == board.name]
        sources = sorted(rows["threshold_source"].dropna().unique()) if "threshold_source" in rows else []
        chosen = {"fixed": "a fixed threshold", "validation": "a threshold chosen on validation people"}
        how = joined([chosen.get(str(name), str(name)) for name in sources])
        said.append(f"{board.name}: a probability{f'; classes by {how}' if how else ''}.")
    return " ".join(said)


def _sides(subject: Subject) -> str:
    said = []
    for board in subject.boards:
        external = board.task.test_datasets
        where = f"{joined(external)}, which no training saw," if external else "the same datasets"
        said.append(f"{board.name}: evaluated on other people of {where}.".replace(",.", "."))
    return " ".join(said)


def _code(subject: Subject) -> str:
    return "neuropipe; the report lists versions, settings, hashes and the commands that make the study again."


def _flow(subject: Subject) -> str:
    said = []
    for name in subject.datasets:
        steps = excluded.flow(subject.results.study, name, subject.results.excluded)
        if steps:
            chain = " → ".join(f"{step.title.lower()} {step.n_recordings} ({step.n_people} people)" for step in steps)
            said.append(f"{name}: {chain}.")
    return " ".join(said)


def _characteristics(subject: Subject) -> str:
    return " ".join(" ".join(methods_data.dataset(name, subject.results)[1:]) for name in subject.datasets).strip()


def _comparison(subject: Subject) -> str:
    """Return age and sex of each side of the splits of the model's tasks."""
    said = []
    for split in dict.fromkeys(board.task.split for board in subject.boards):
        table = subject.results.splits[split].table
        if table is None:
            continue
        if len(table[["repeat", "fold"]].drop_duplicates()) > 1:
            said.append(f"{split}: every person is evaluated in one fold and learned from in others.")
            continue
        for role in ("train", "test"):
            said += [f"{split}, {role}: {facts}." for facts in _side(table[table["role"] == role], subject)]
    return " ".join(said)


def _side(rows: pd.DataFrame, subject: Subject) -> list[str]:
    for name in subject.datasets:  # the same people under the same ids in further datasets are not told twice
        path, own = subject.results.study.participants(name), rows[rows["dataset"] == name]
        if path.is_file() and len(own):
            people = set(own["participant_id"])
            facts = methods_data.demography(subject.results.config.datasets[name], path, people)
            return ["; ".join([f"{len(people)} people", *facts])]
    return []


def _events(subject: Subject) -> str:
    said = []
    for board in subject.boards:
        entry = next(entry for judged, entry in subject.judged if judged is board)
        said.append(f"{board.name}: {entry.n_train:.0f} people for training, {entry.n_test:.0f} for test{_cases(board, entry, subject)}.")
    return " ".join(said)


def _cases(board: Board, entry: Entry, subject: Subject) -> str:
    predictions = subject.results.predictions
    if board.task.kind != "binary" or predictions is None:
        return ""
    rows = entry.system.rows(predictions)
    test = rows[rows["role"] == "test"].drop_duplicates(["dataset", "participant_id"])
    return f" ({int(test['y'].sum())} of them {board.task.positive})" if len(test) else ""


def _model(subject: Subject) -> str:
    place = f"models/{subject.recipe}/"
    return f"Weights (safetensors), configuration and region table of each model lie in {place}; hashes are in this card."


def _performance(subject: Subject) -> str:
    said = []
    for board, entry in subject.judged:
        between = interval(entry.ci_low, entry.ci_high, board.metric)
        said.append(
            f"{board.name}, {entry.system.readout}: {NAMES[board.metric]} {amount(entry.value, board.metric)} ({between})."
        )
    return " ".join(said)


def _differences(subject: Subject) -> str:
    said = []
    for board, entry in subject.judged:
        values = entry.system.rows(board.folds)["value"].dropna() if len(board.folds) else []
        if len(values):
            low, high = amount(min(values), board.metric), amount(max(values), board.metric)
            said.append(f"{board.name}, {entry.system.readout}: {low} to {high} over {counted(len(values), 'fold')}.")
    if len(subject.groups()):
        said.append("Sites and sexes are in the table of this card.")
    return " ".join(said)


def _interpretation(subject: Subject) -> str:
    said = [words.verdict(board) for board in subject.boards]
    return " ".join(verdict.headline for verdict in said)


def limitations(subject: Subject) -> list[str]:
    """Return the limits of a model that tables show."""
    said = []
    for board in subject.boards:
        tested = max(entry.n_test for judged, entry in subject.judged if judged is board)
        if not board.task.test_datasets:
            said.append(f"{board.name} was tested on {tested:.0f} people of the datasets that it learned from; no other study was tested.")
    item = subject.item
    if item is not None and item.people == "everyone":
        said.append("Pretraining has seen the test people: its numbers say nothing about new people.")
    for check in subject.checks:
        if check.state != "passed":
            said.append(f"{check.title}: {'failed' if check.state == 'failed' else 'not known'} ({check.detail}).")
    for board, entry in subject.judged:
        reference = board.twin(entry, "reference")
        if reference is not None and board.gain(entry.value - reference.value) < 0:
            said.append(
                f"On {board.name} ({entry.system.readout}) it does not reach {board.reference.words}: "
                f"{amount(entry.value, board.metric)} against {amount(reference.value, board.metric)}."
            )
    if not len(subject.groups()):
        said.append("Performance within sites and sexes was not computed.")
    return said


def _poor_input(subject: Subject) -> str:
    if subject.about.get("content", "series") == "series":
        return "Other regions, or another order of them, are refused; padding and missing regions are marked and passed over."
    return "Another grid, space or tissue than in training is refused, never resampled in silence."


FILLS: dict[str, Callable[[Subject], str]] = {
    "1": _title,
    "4": _objectives,
    "5a": _sources,
    "6a": _setting,
    "6b": _eligibility,
    "7": _preparation,
    "8a": _outcome,
    "9a": _predictors,
    "9b": _definitions,
    "9c": lambda subject: "Not needed: predictors are computed from images.",
    "10": _sizes,
    "11": _missing,
    "12a": lambda subject: " ".join(methods_data.partitions(subject.results)),
    "12b": _handling,
    "12c": _building,
    "12d": _heterogeneity,
    "12e": lambda subject: " ".join([_measures(subject), *methods_statistics.statistics(subject.results)]),
    "12f": _updating,
    "12g": _computed,
    "13": _balance,
    "15": _output,
    "16": _sides,
    "18f": _code,
    "20a": _flow,
    "20b": _characteristics,
    "20c": _comparison,
    "21": _events,
    "22": _model,
    "23a": _performance,
    "23b": _differences,
    "24": _updating,
    "25": _interpretation,
    "26": lambda subject: " ".join(limitations(subject)),
    "27a": _poor_input,
}
# Items that tables tell in part: what is left to write stands beside them.
IN_PART = frozenset(
    ["5a", "6a", "6b", "7", "8a", "9a", "9b", "10", "11", "12d", "13", "16", "20b", "22", "25", "26", "27a"]
)
