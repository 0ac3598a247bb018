"""Probing a model while it is pretrained: what its frozen embedding tells of the people it learns from.

At chosen shares of the training, a copy of the model embeds the training side's people, and linear readouts are
cross-validated among them. Test people play no part, and neither weights nor random state of the training are touched.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from neuropipe.config import StudyConfig
from neuropipe.data.source import Source
from neuropipe.evaluate import metrics, tables
from neuropipe.evaluate.embed import embed_people
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.linear import Logistic, Path, Ridge, nested
from neuropipe.evaluate.question import inner_folds
from neuropipe.evaluate.targets import read_target
from neuropipe.models.base import Spec
from neuropipe.shards.read import Shards
from neuropipe.splits.people import People, of_study

log = logging.getLogger("neuropipe")

READOUT: dict[str, type[Path]] = {"binary": Logistic, "regression": Ridge}


@dataclass(frozen=True, eq=False)
class Asked:
    """A task that is put to the training side of one fold.

    Attributes
    ----------
    split, fold, task, kind, column : str
    people : People
        Of all datasets that the model learns from.
    y : float ndarray (n_people,)
        Targets.
    train : int ndarray
        Rows of the training side with a target.
    seed : int
        Of the folds inside it.
    """

    split: str
    fold: str
    task: str
    kind: str
    column: str
    people: People
    y: np.ndarray
    train: np.ndarray
    seed: int

    def judge(self, features: Features) -> dict[str, Any]:
        """Return the primary metric over folds of the training side, as columns of `tables.PROBES`.

        Parameters
        ----------
        features : Features
            One row per person of `people`.
        """
        number = inner_folds(self.people, self.train, self.seed, [self.column])
        values, chance = [], []
        for fold in np.unique(number):
            kept, held = self.train[number != fold], self.train[number == fold]
            coordinates = features.coordinates(kept)
            inner = inner_folds(self.people, kept, self.seed)
            found = nested(READOUT[self.kind], coordinates[kept], self.y[kept, None], coordinates[held], inner)
            constant = np.full(len(held), self.y[kept].mean())
            values.append(self._primary(held, found.prediction[:, 0]))
            chance.append(self._primary(held, constant))
        return {
            "split": self.split,
            "fold": self.fold,
            "task": self.task,
            "metric": metrics.PRIMARY[self.kind],
            "value": float(np.nanmean(values)),
            "sd": float(np.nanstd(values)),
            "chance": float(np.nanmean(chance)),
            "n_people": len(self.train),
        }

    def _primary(self, rows: np.ndarray, prediction: np.ndarray) -> float:
        scored = metrics.Scored(self.y[None, rows], prediction[None], None, np.zeros((1, len(rows))))
        chosen = metrics.METRICS[self.kind][metrics.PRIMARY[self.kind]]
        return float(chosen.compute(scored, np.ones((1, len(rows))))[0])


def ask(
    study: StudyConfig, sources: Sequence[Shards], splits: dict[str, pd.DataFrame], serves: Sequence[tuple[str, str]]
) -> list[Asked]:
    """Return every task that judges a model, put to the training side of the folds that it serves.

    Parameters
    ----------
    sources : sequence of Shards
        What the model learns from; tasks about other datasets are not asked.
    splits : dict of str to DataFrame
        Tables of the splits by name.
    serves : sequence of (split, fold)
        Folds that are judged with this model.
    """
    people, asked = of_study(study, sources), []
    for name, task in study.tasks.items():
        folds = [fold for split, fold in serves if split == task.split]
        if not folds or not set(task.datasets) <= {source.dataset for source in sources} or task.kind not in READOUT:
            continue
        target = read_target(name, task, people)
        for fold in folds:
            table = splits[task.split]
            side = table[(table["fold"] == fold) & (table["role"] == "train")]
            learns = people.ids.isin(side["dataset"] + "/" + side["participant_id"]).to_numpy()
            rows = np.flatnonzero(learns & target.known)
            if len(np.unique(target.y[rows])) > 1:
                facts = (task.split, str(fold), name, task.kind, task.target)
                asked.append(Asked(*facts, people, target.y, rows, study.seed))
    if not asked:
        log.warning("probe_at: no task asks about people on the training side; nothing is probed")
    return asked


class Prober:
    """A `neuropipe.train.loop.Watch` that never stops a training.

    Parameters
    ----------
    model : Module
        The one that is trained; a copy of it is probed.
    source : Source
        Samples of everyone who is asked about.
    spec, n_clips
        How they are cut, as for the embeddings of the finished model.
    asked : list of Asked
    moments : sequence of float
        Shares of the training.
    n_steps : int
        All steps of it.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        spec: Spec,
        n_clips: int | None,
        asked: list[Asked],
        moments: Sequence[float],
        n_steps: int,
    ) -> None:
        self.model, self.source, self.spec, self.n_clips, self.asked = model, source, spec, n_clips, asked
        self.share_at = {max(1, round(share * n_steps)): share for share in moments}
        self.rows: list[dict[str, Any]] = []

    @property
    def stopped(self) -> bool:
        """Training goes on."""
        return False

    @property
    def table(self) -> pd.DataFrame:
        """What was found, with the columns of `tables.PROBES`."""
        return tables.frame(self.rows, tables.PROBES)

    def look(self, step: int) -> None:
        """Probe a copy of the model, where it is time."""
        if step not in self.share_at:
            return
        embedded = embed_people(copy.deepcopy(self.model), self.source, self.spec, self.n_clips)
        columns = [name for name in embedded if name[0] == "e" and name[1:].isdigit()]
        values = embedded.set_index(embedded["dataset"] + "/" + embedded["participant_id"])[columns]
        for one in self.asked:
            features = Features(values.reindex(one.people.ids).to_numpy(np.float64))
            self.rows.append({"step": step, "share": self.share_at[step], **one.judge(features)})

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": self.rows}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.rows = state["rows"]
