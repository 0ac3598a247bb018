"""Whether what is known of people answers the study's tasks: what later stages would refuse, before they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from neuropipe import config as configuration
from neuropipe.doctor.check import Check, attempt
from neuropipe.errors import InputError

MEASURES_MOTION = ("fmriprep", "xcpd", "giga_connectome", "shards")  # of other series nobody knows it


@dataclass(frozen=True, eq=False)
class Everyone:
    """A dataset as if everybody in its participants table had one recording, of which all was measured that can be."""

    dataset: str
    manifest: pd.DataFrame
    participants: pd.DataFrame

    @classmethod
    def of(cls, name: str, section: configuration.Dataset, table: pd.DataFrame) -> Everyone:
        """Wrap the participants table of a dataset."""
        from neuropipe.evaluate.features import SCAN_MEASURES

        measures = dict.fromkeys(SCAN_MEASURES, 1.0) | {"n_timepoints": 1.0, "t_r": 1.0}
        if section.kind not in MEASURES_MOTION:
            del measures["mean_fd"]
        manifest = pd.DataFrame({"participant_id": table["participant_id"], "sha256": "", "content": section.content})
        return cls(name, manifest.assign(**measures), table.set_index("participant_id", drop=False))


def check_tasks(study: configuration.StudyConfig, tables: Mapping[str, pd.DataFrame]) -> list[Check]:
    """Check targets, their values, confounds and the columns of splits, task by task, and the roles of datasets.

    `tables` are the participants tables that can be read, by dataset.
    """
    checks = [check for name, table in tables.items() if (check := _check_roles(study, name, table))]
    tables = {name: table for name, table in tables.items() if f"roles {name}" not in {check.name for check in checks}}
    for name, task in study.tasks.items():
        # What is missing altogether is said by the check of the dataset.
        if all(dataset in tables and targets(study, dataset, name) <= set(tables[dataset]) for dataset in task.asked):
            checks.append(attempt(f"task {name}", lambda name=name: _answerable(study, name, tables)))
    return checks


def targets(study: configuration.StudyConfig, dataset: str, task: str | None = None) -> set[str]:
    """Return the columns of a dataset's participants table that are targets, of one task or of all.

    What is decoded are the labels of clips.
    """
    roles = dict(study.datasets[dataset].roles)
    asked = {name: one for name, one in study.tasks.items() if dataset in one.asked and one.kind != "decoding"}
    return {roles.get(one.target) or one.target for name, one in asked.items() if task in (None, name)}


def _check_roles(study: configuration.StudyConfig, name: str, table: pd.DataFrame) -> Check | None:
    """Return a problem where a role was given to a column that is not there: nobody would play it."""
    roles = study.datasets[name].roles
    given = {role: getattr(roles, role) for role in roles.model_fields_set}
    absent = {role: column for role, column in given.items() if column is not None and column not in table}
    if not absent:
        return None
    wrong = ", ".join(f"{role}: {column}" for role, column in absent.items())
    remedy = (
        f"datasets.{name}.roles names columns that its participants table lacks ({wrong}); found {', '.join(table)}. "
        "Correct them, or write null where there is none."
    )
    return Check(f"roles {name}", False, wrong, remedy)


def _answerable(study: configuration.StudyConfig, name: str, tables: Mapping[str, pd.DataFrame]) -> str:
    """Return what a task asks of how many people; raise what the stages would."""
    from neuropipe.evaluate import features
    from neuropipe.evaluate.targets import class_labels, read_target
    from neuropipe.splits.people import gather

    task = study.tasks[name]
    sources = [Everyone.of(dataset, study.datasets[dataset], tables[dataset]) for dataset in task.asked]
    people = gather(sources, {dataset: study.datasets[dataset].roles for dataset in task.asked})
    split = study.splits[task.split]
    for column in [*(split.stratify or []), *([split.site] if split.site else []), *([split.by] if split.by else [])]:
        _known(f"splits.{task.split}", lambda column=column: people.column(column))
    for column in task.confounds:
        _known(f"tasks.{name}.confounds", lambda column=column: features.confound_values(people, column))
    if task.kind == "decoding":
        return f"{task.target}, told from clips"
    target = read_target(name, task, people)
    if task.kind == "regression":
        y = target.y[target.known]
        return f"{task.target} of {len(y)} people, {y.min():g} to {y.max():g}"
    counts = class_labels(name, task, people).value_counts()
    return f"{task.target}: " + ", ".join(f"{n} {label}" for label, n in counts.items())


def _known(where: str, look: Callable[[], object]) -> None:
    """Look a column up; say where it is asked for if it is not there."""
    try:
        look()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
