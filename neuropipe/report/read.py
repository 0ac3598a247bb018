"""Everything the page shows, read from a study's tables; what is not there becomes a sentence, not an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from neuropipe.config import StudyConfig
from neuropipe.errors import InputError
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.report import excluded, rollouts
from neuropipe.report.beside import Beside
from neuropipe.report.decoding import Clips
from neuropipe.report.rollouts import Maps


@dataclass(frozen=True)
class Training:
    """One trained model.

    Attributes
    ----------
    recipe, seed : str, int
        What was trained.
    where : str
        ``<split>/<fold>``, ``external`` or ``everyone``.
    folder : Path
        With the weights.
    config : dict
        Content of ``config.json``.
    curve : DataFrame or None
        ``metrics.parquet``: step, seconds, samples_per_s, lr, loss and its parts.
    people : DataFrame or None
        ``people.parquet``: dataset and participant_id of whom it learned from.
    probes : DataFrame or None
        ``probes.parquet``: what its embedding told of training people at moments of the training.
    """

    recipe: str
    seed: int
    where: str
    folder: Path
    config: dict[str, Any]
    curve: pd.DataFrame | None
    people: pd.DataFrame | None
    probes: pd.DataFrame | None = None


@dataclass(frozen=True)
class SplitFacts:
    """A frozen split: its table (None where only the audit is there) and its audit."""

    table: pd.DataFrame | None
    audit: dict[str, Any] | None


@dataclass(frozen=True)
class Results:
    """A study as the report sees it.

    Attributes
    ----------
    config : StudyConfig
        What was asked.
    study : Study
        Where the products are.
    metrics : DataFrame
        One row per (run, split, metric).
    predictions, nulls, costs : DataFrame or None
        Scores of people, permuted scores, measurements.
    leakage : list of dict or None
        Checks of ``leakage.json``: check, where, value, expected, passed.
    splits : dict of str to SplitFacts
        By name.
    runs : DataFrame or None
        Quality, one row per recording, with ``dataset``, ``site`` and the targets of the tasks.
    regions : DataFrame or None
        Coverage, one row per region, with ``dataset``.
    trainings : list of Training
        In the order of recipe, seed, split, fold.
    excluded : DataFrame
        From `excluded.merge`.
    missing : list of str
        One sentence for each table that is not there.
    rollouts : dict of str to list of Maps
        By task: where its fine-tuned networks for slices look.
    clips : Clips or None
        What decoding tasks judge.
    beside : Beside
        Learning curves, decision curves, groups of people, places of embeddings: all optional.
    """

    config: StudyConfig
    study: Study
    metrics: pd.DataFrame
    predictions: pd.DataFrame | None
    nulls: pd.DataFrame | None
    costs: pd.DataFrame | None
    leakage: list[dict[str, Any]] | None
    splits: dict[str, SplitFacts]
    runs: pd.DataFrame | None
    regions: pd.DataFrame | None
    trainings: list[Training]
    excluded: pd.DataFrame
    missing: list[str] = field(default_factory=list)
    rollouts: dict[str, list[Maps]] = field(default_factory=dict)
    clips: Clips | None = None
    beside: Beside = field(default_factory=Beside)


def read(config: StudyConfig, root: str | Path) -> Results:
    """Read a study below `root`.

    Raises
    ------
    InputError
        ``metrics.parquet`` is not there, or a table cannot be read.
    """
    study = Study(root)
    missing: list[str] = []
    metrics = _parquet(study.root / "metrics.parquet")
    if metrics is None:
        raise InputError(
            f"No {study.root / 'metrics.parquet'}: a report needs at least the metrics. Run `neuropipe evaluate` first."
        )
    return Results(
        config=config,
        study=study,
        metrics=metrics,
        predictions=_optional(study.root / "predictions.parquet", "curves of single people's scores", missing),
        nulls=_optional(study.root / "nulls.parquet", "null distributions", missing),
        costs=_optional(study.root / "costs.parquet", "computing costs", missing),
        leakage=_leakage(study, missing),
        splits={name: _split(study, name, missing) for name in config.splits},
        runs=_runs(config, study, missing),
        regions=_regions(config, study, missing),
        trainings=_trainings(study),
        excluded=excluded.merge(study),
        missing=missing,
        clips=_clips(config, study, missing),
        beside=_beside(config, study, missing),
        rollouts={name: rollouts.read(study.task(name, "finetune")) for name in config.tasks},
    )


def _clips(config: StudyConfig, study: Study, missing: list[str]) -> Clips | None:
    """Return the table of decoding; None without such a task."""
    if all(task.kind != "decoding" for task in config.tasks.values()):
        return None
    predictions = _optional(study.root / "decoding.parquet", "confusion matrices", missing)
    return None if predictions is None else Clips(predictions)


def _beside(config: StudyConfig, study: Study, missing: list[str]) -> Beside:
    """Return the optional tables; one that the study's tasks would fill is missed in words."""
    kinds = {task.kind for task in config.tasks.values()}
    shows = {"efficiency": "what more training people bring", "breakdown": "single sites and sexes"}
    if "binary" in kinds:
        shows["net_benefit"] = "decision curves"
    if config.pretrain:
        shows["places"] = "maps of embeddings"
    return Beside(**{name: _optional(study.root / f"{name}.parquet", words, missing) for name, words in shows.items()})


def _parquet(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise InputError(f"{path} cannot be read as parquet ({error}); run the stage that writes it again.") from error


def _optional(path: Path, shows: str, missing: list[str]) -> pd.DataFrame | None:
    """Return a table, or None and a sentence in `missing`."""
    table = _parquet(path)
    if table is None:
        missing.append(f"{_short(path)} is not there, so {shows} cannot be shown.")
    return table


def _leakage(study: Study, missing: list[str]) -> list[dict[str, Any]] | None:
    path = study.root / "leakage.json"
    if not path.is_file():
        missing.append("leakage.json is not there, so what shuffled labels score cannot be shown.")
        return None
    return read_json(path)["checks"]


def _short(path: Path) -> str:
    """Return the last parts of a path, enough to find the file inside the study."""
    return "/".join(path.parts[-3:]) if len(path.parts) > 3 and path.parts[-3] in {"qc", "splits"} else path.name


def _split(study: Study, name: str, missing: list[str]) -> SplitFacts:
    folder = study.split(name)
    table = _optional(folder / "splits.parquet", f"who was on which side of the split {name}", missing)
    audit = folder / "audit.json"
    if not audit.is_file():
        missing.append(f"{_short(audit)} is not there: the split {name} has not been audited.")
    return SplitFacts(table, read_json(audit) if audit.is_file() else None)


def participants(config: StudyConfig, study: Study, dataset: str) -> pd.DataFrame | None:
    """Return participant_id, site and the targets of the tasks of one dataset; None without a table."""
    path = study.participants(dataset)
    if not path.is_file():
        return None
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    site = config.datasets[dataset].roles.site
    wanted = {task.target for task in config.tasks.values() if dataset in task.asked} & set(table)
    facts = table[["participant_id", *sorted(wanted)]]
    return facts.assign(site=table.get(site, ""))


def _runs(config: StudyConfig, study: Study, missing: list[str]) -> pd.DataFrame | None:
    parts = []
    for dataset in config.datasets:
        table = _optional(study.qc(dataset) / "runs.parquet", f"{_shown(config, dataset)} of {dataset}", missing)
        if table is None:
            continue
        people = participants(config, study, dataset)
        if people is not None:
            table = table.drop(columns=["site"], errors="ignore").merge(people, on="participant_id", how="left")
        parts.append(table.assign(dataset=dataset))
    return pd.concat(parts, ignore_index=True) if parts else None


def _shown(config: StudyConfig, dataset: str) -> str:
    return "motion" if config.datasets[dataset].content == "series" else "quality"


def _regions(config: StudyConfig, study: Study, missing: list[str]) -> pd.DataFrame | None:
    parts = []
    for dataset in config.datasets:
        table = _optional(study.qc(dataset) / "regions.parquet", f"coverage of {dataset}", missing)
        if table is not None:
            parts.append(table.assign(dataset=dataset))
    return pd.concat(parts, ignore_index=True) if parts else None


def _trainings(study: Study) -> list[Training]:
    """Return every trained model below ``models/``."""
    found = []
    for path in study.root.glob("models/*/seed-*/**/config.json"):
        recipe, seed, *where = path.parent.relative_to(study.root / "models").parts
        if "checkpoints" in where:
            continue
        found.append(
            Training(
                recipe=recipe,
                seed=int(seed.removeprefix("seed-")),
                where="/".join(where),
                folder=path.parent,
                config=read_json(path),
                curve=_parquet(path.with_name("metrics.parquet")),
                people=_parquet(path.with_name("people.parquet")),
                probes=_parquet(path.with_name("probes.parquet")),
            )
        )
    return sorted(found, key=lambda training: (training.recipe, training.seed, training.where))
