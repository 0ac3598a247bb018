"""What a model card is about: one recipe, its trained models, and how they were judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from neuropipe.config import Pretrain
from neuropipe.report.audit import Check
from neuropipe.report.methods_data import demography
from neuropipe.report.read import Results, Training
from neuropipe.report.tables import Board, Entry


@dataclass(frozen=True)
class Subject:
    """A recipe in a study.

    Attributes
    ----------
    recipe : str
        Its name.
    results : Results
        The study, narrowed to the datasets and tasks of the recipe.
    judged : list of (Board, Entry)
        The tasks on which it was judged, once per readout and seed.
    checks : list of Check
        Checks of the leakage audit that are about its models.
    """

    recipe: str
    results: Results
    judged: list[tuple[Board, Entry]]
    checks: list[Check]

    @classmethod
    def of(cls, results: Results, boards: list[Board], checks: list[Check], recipe: str) -> Subject:
        """Return what a study says of a recipe."""
        judged = [(board, entry) for board in boards for entry in board.entries if entry.system.name == recipe]
        own = [check for check in checks if check.title.startswith(f"Model {recipe},")]
        return cls(recipe, _narrowed(results, recipe, {board.name for board, _ in judged}), judged, own)

    @property
    def trainings(self) -> list[Training]:
        """Its trained models."""
        return [one for one in self.results.trainings if one.recipe == self.recipe]

    @property
    def about(self) -> dict[str, Any]:
        """``config.json`` of its first model."""
        return self.trainings[0].config

    @property
    def item(self) -> Pretrain | None:
        """Its section of the study's configuration."""
        return self.results.config.pretrain.get(self.recipe)

    @property
    def boards(self) -> list[Board]:
        """The tasks on which it was judged, each once."""
        return list({board.name: board for board, _ in self.judged}.values())

    @property
    def datasets(self) -> list[str]:
        """Datasets that it learned from or was judged on, in the order of the configuration."""
        return list(self.results.config.datasets)

    def learners(self) -> list[str]:
        """Return for each dataset how many people its models learned from, of which sex, age and sites."""
        known = [one.people for one in self.trainings if one.people is not None and len(one.people)]
        if not known:
            return []
        people = pd.concat(known, ignore_index=True).drop_duplicates()
        said = []
        for dataset, part in people.groupby("dataset", sort=False):
            path = self.results.study.participants(str(dataset))
            section = self.results.config.datasets.get(str(dataset))
            facts = demography(section, path, set(part["participant_id"])) if section and path.is_file() else []
            said.append("; ".join([f"{dataset}: {len(part)} people", *facts]))
        return said

    def groups(self) -> pd.DataFrame:
        """Return performance by site and sex from ``breakdown.parquet``; empty where the study has none."""
        path = self.results.study.root / "breakdown.parquet"
        if not path.is_file():
            return pd.DataFrame()
        table = pd.read_parquet(path)
        metrics = {entry.system.run_id: board.metric for board, entry in self.judged}
        wanted = table["run_id"].map(metrics)
        return table[wanted.notna() & (table["metric"] == wanted)].reset_index(drop=True)


def _narrowed(results: Results, recipe: str, judged: set[str]) -> Results:
    """Return a study as if it had the datasets and tasks of one recipe alone."""
    config = results.config
    tasks = {name: task for name, task in config.tasks.items() if name in judged}
    used = set(config.pretrain[recipe].datasets if recipe in config.pretrain else ())
    for task in tasks.values():
        used |= {*task.datasets, *task.test_datasets}
    datasets = {name: item for name, item in config.datasets.items() if name in used}
    own = config.model_copy(update={"datasets": datasets or config.datasets, "tasks": tasks})
    return replace(results, config=own, metrics=results.metrics[results.metrics["task"].isin(judged)])
