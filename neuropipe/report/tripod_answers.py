"""What the tables and the config of a study tell of single items of TRIPOD+AI; an empty answer tells nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neuropipe.report import excluded, methods_data, methods_models, methods_preparation, words
from neuropipe.report.methods_data import counted, joined
from neuropipe.report.subject import Subject
from neuropipe.report.tables import NAMES, Board, Entry
from neuropipe.report.words import amount, interval


def _tasks(subject: Subject) -> list[str]:
    return [board.name for board in subject.boards]


def title(subject: Subject) -> str:
    """Item 1: what was developed for telling what."""
    if not subject.judged:
        return ""
    targets = joined(list(dict.fromkeys(board.task.target for board in subject.boards)))
    family = methods_models.family(subject.about.get("family", "unknown"))
    return f"Development and evaluation of {subject.recipe}, {family}, for telling {targets} from brain images."


def objectives(subject: Subject) -> str:
    """Item 4: whether a model is developed, evaluated, or both."""
    if not subject.judged:
        return "A model is developed; this study does not evaluate it."
    return (
        "The model is developed (pretraining without labels, then readouts) and evaluated on "
        f"{joined(_tasks(subject))}, beside baselines on the same people."
    )


def sources(subject: Subject) -> str:
    """Item 5a: what the datasets are."""
    return " ".join(methods_data.dataset(name, subject.results)[0] for name in subject.datasets)


def setting(subject: Subject) -> str:
    """Item 6a: how many sites."""
    runs = subject.results.runs
    if runs is None or "site" not in runs:
        return ""
    sites = runs.loc[runs["dataset"].isin(subject.datasets), "site"].replace("", np.nan).dropna().nunique()
    return f"{counted(sites, 'site')} in the table of participants." if sites else ""


def eligibility(subject: Subject) -> str:
    """Item 6b: which recordings were left out by a limit."""
    return " ".join(methods_preparation.limits(subject.results))


def preparation(subject: Subject) -> str:
    """Item 7: how images became numbers."""
    return " ".join(methods_preparation.preparation(subject.results))


def outcome(subject: Subject) -> str:
    """Item 8a: what is told, from which column."""
    said = []
    for board in subject.boards:
        task = board.task
        kind = {"binary": f"whether it is {task.positive}", "regression": "as a number"}.get(task.kind, "as classes")
        said.append(f"{board.name}: the column {task.target} of the participants' table, {kind}.")
    return " ".join(said).replace("column state of the participants' table", "label of each clip")


def predictors(subject: Subject) -> str:
    """Item 9a: which predictors were considered."""
    return "All that the prepared images hold; none was selected before models were built."


def definitions(subject: Subject) -> str:
    """Item 9b: what the predictors are."""
    about = subject.about
    if about.get("content", "series") == "series":
        found = methods_preparation.atlases(subject.results)
        named = joined([f"{n} of {atlas}" for atlas, n in found.items()]) or "an unknown atlas"
        return f"Time series of {about.get('n_regions', 'unknown')} regions ({named})."
    return "Maps or slices of anatomy as described under item 7."


def sizes(subject: Subject) -> str:
    """Item 10: who was taken."""
    return "All people whose recordings could be used; no calculation of a sample size was recorded."


def missing(subject: Subject) -> str:
    """Item 11: what is missing, and who was left out."""
    said = []
    coverage = subject.results.config.exclude.min_region_coverage
    if coverage is not None and subject.about.get("content", "series") == "series":
        said.append(f"Regions covered by less than {100 * coverage:g} % are marked as missing, not filled in.")
    left = subject.results.excluded
    own = left[left["dataset"].isin(subject.datasets)]
    if len(own):
        listed = joined([f"{reason} ({n})" for reason, n in own["reason"].value_counts().items()])
        said.append(f"Left out with their reasons: {listed}.")
    else:
        said.append("No recording was left out.")
    return " ".join(said)


def handling(subject: Subject) -> str:
    """Item 12b: how predictors are scaled."""
    how = subject.about.get("normalisation") or (subject.about.get("volumes") or {}).get("scale")
    first = f"Input: {how}. " if how else ""
    return f"{first}Features are standardised on the training side of each fold."


def building(subject: Subject) -> str:
    """Item 12c: the model, its training, its readouts."""
    model = methods_models.recipe(subject.recipe, subject.trainings, subject.results)
    return " ".join([*model, *methods_models.prediction(subject.results)[1:2]])


def measures(subject: Subject) -> str:
    """Item 12e: the measures that were computed."""
    found = subject.results.metrics["metric"].unique()
    return "Measures: " + joined([NAMES.get(name, name.replace("_", " ")) for name in found]) + "."


def heterogeneity(subject: Subject) -> str:
    """Item 12d: whether sites and groups were looked at."""
    folds = [board.name for board in subject.boards if "site" in subject.results.config.splits[board.task.split].scheme]
    said = [f"On {joined(folds)} every site was held out once."] if folds else []
    if len(subject.groups()):
        said.append("Performance was computed within sites and sexes.")
    return " ".join(said)


def updating(subject: Subject) -> str:
    """Items 12f and 24: whether the model was changed after its evaluation."""
    return "The model was not changed after its evaluation."


def computed(subject: Subject) -> str:
    """Item 12g: how a prediction comes about."""
    return (
        "Embeddings of evenly spaced clips are averaged to recordings and to people and read out by the models of each "
        "fold; code, settings and commands are recorded beside the results."
    )


def balance(subject: Subject) -> str:
    """Item 13: whether classes were balanced."""
    numbers_alone = all(board.task.kind == "regression" for board in subject.boards)
    return "" if numbers_alone else "Splits keep the mixture of classes where they are stratified by them."


def output(subject: Subject) -> str:
    """Item 15: what is returned, and where thresholds come from."""
    said = []
    for board in subject.boards:
        if board.task.kind == "regression":
            said.append(f"{board.name}: {board.task.target} as a number.")
            continue
        rows = subject.results.metrics[subject.results.metrics["task"] == board.name]
        named = rows["threshold_source"].dropna().unique() if "threshold_source" in rows else []
        sources = sorted({part for name in named for part in str(name).split("+")})
        chosen = {"fixed": "a fixed threshold", "validation": "a threshold chosen on validation people"}
        how = joined([chosen.get(name, name) for name in sources])
        said.append(f"{board.name}: a probability{f'; classes by {how}' if how else ''}.")
    return " ".join(said)


def sides(subject: Subject) -> str:
    """Item 16: on whom the model was evaluated."""
    said = []
    for board in subject.boards:
        external = board.task.test_datasets
        also = f", and on people of {joined(external)}, which no training saw" if external else ""
        said.append(f"{board.name}: evaluated on other people of the same datasets{also}.")
    return " ".join(said)


def code(subject: Subject) -> str:
    """Item 18f: where the code is."""
    return "neuropipe; the report lists versions, settings, hashes and the commands that make the study again."


def flow(subject: Subject) -> str:
    """Item 20a: how many recordings and people came through each stage."""
    said = []
    for name in subject.datasets:
        steps = excluded.flow(subject.results.study, name, subject.results.excluded)
        if steps:
            chain = " → ".join(f"{step.title.lower()} {step.n_recordings} ({step.n_people} people)" for step in steps)
            said.append(f"{name}: {chain}.")
    return " ".join(said)


def characteristics(subject: Subject) -> str:
    """Item 20b: who the people are."""
    return " ".join(" ".join(methods_data.dataset(name, subject.results)[1:]) for name in subject.datasets).strip()


def comparison(subject: Subject) -> str:
    """Item 20c: age and sex of each side of the splits of the model's tasks."""
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


def events(subject: Subject) -> str:
    """Item 21: people and cases of each task."""
    said = []
    for board in subject.boards:
        entry = next(entry for judged, entry in subject.judged if judged is board)
        test = f"{entry.n_test:.0f} for test{_cases(board, entry, subject)}"
        said.append(f"{board.name}: {entry.n_train:.0f} people for training, {test}.")
    return " ".join(said)


def _cases(board: Board, entry: Entry, subject: Subject) -> str:
    predictions = subject.results.predictions
    if board.task.kind != "binary" or predictions is None:
        return ""
    rows = entry.system.rows(predictions)
    test = rows[rows["role"] == "test"].drop_duplicates(["dataset", "participant_id"])
    return f" ({int(test['y'].sum())} of them {board.task.positive})" if len(test) else ""


def model(subject: Subject) -> str:
    """Item 22: where the model lies."""
    place = f"models/{subject.recipe}/"
    return f"Weights (safetensors), configuration and region table lie in {place}; hashes are in this card."


def performance(subject: Subject) -> str:
    """Item 23a: performance with its interval."""
    said = []
    for board, entry in subject.judged:
        value = amount(entry.value, board.metric)
        between = interval(entry.ci_low, entry.ci_high, board.metric)
        said.append(f"{board.name}, {entry.system.readout}: {NAMES[board.metric]} {value} ({between}).")
    return " ".join(said)


def differences(subject: Subject) -> str:
    """Item 23b: the range over folds."""
    said = []
    for board, entry in subject.judged:
        values = entry.system.rows(board.folds)["value"].dropna() if len(board.folds) else []
        if len(values):
            low, high = amount(min(values), board.metric), amount(max(values), board.metric)
            said.append(f"{board.name}, {entry.system.readout}: {low} to {high} over {counted(len(values), 'fold')}.")
    if len(subject.groups()):
        said.append("Sites and sexes are in the table of this card.")
    return " ".join(said)


def interpretation(subject: Subject) -> str:
    """Item 25: the verdict of each task."""
    said = [words.verdict(board) for board in subject.boards]
    return " ".join(verdict.headline for verdict in said)


def limitations(subject: Subject) -> list[str]:
    """Item 26: the limits of a model that tables show, one sentence each."""
    said = []
    for board in subject.boards:
        tested = max(entry.n_test for judged, entry in subject.judged if judged is board)
        if not board.task.test_datasets:
            said.append(
                f"{board.name} was tested on {tested:.0f} people of the datasets that it learned from, on no others."
            )
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


def poor_input(subject: Subject) -> str:
    """Item 27a: what happens to input that does not fit."""
    if subject.about.get("content", "series") == "series":
        return "Other regions, or another order, are refused; padding and missing regions are marked and passed over."
    return "Another grid, space or tissue than in training is refused, never resampled in silence."
