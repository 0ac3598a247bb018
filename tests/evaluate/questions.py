"""Made-up people and questions for tests of the protocol, without files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuropipe.config import Roles, Split, Task
from neuropipe.evaluate.question import Question, ask
from neuropipe.evaluate.targets import read_target
from neuropipe.signals.regions import Regions
from neuropipe.splits.make import make_split
from neuropipe.splits.people import People, gather


@dataclass
class Recordings:
    """Series in memory behind the interface of shards."""

    dataset: str
    participants: pd.DataFrame
    manifest: pd.DataFrame
    values: list[np.ndarray]
    valid: np.ndarray
    regions: Regions

    def series(self, i: int) -> np.ndarray:
        return self.values[i]

    def valid_regions(self, i: int) -> np.ndarray:
        return self.valid[i]

    def censored(self, i: int) -> np.ndarray:
        return np.asarray(self.manifest["censored"].iloc[i], dtype=np.int64)


def recordings(owners: list[str], values: list[np.ndarray], participants: pd.DataFrame) -> Recordings:
    """Recordings of `owners` (participant ids), everything valid and uncensored."""
    n_regions = values[0].shape[1]
    manifest = pd.DataFrame({"participant_id": owners, "t_r": 2.0, "n_timepoints": [len(v) for v in values]})
    manifest["sha256"] = [f"hash {i}" for i in range(len(owners))]
    manifest["mean_fd"] = np.linspace(0.1, 0.4, len(owners))
    manifest["censored"] = [[] for _ in owners]
    valid = np.ones((len(owners), n_regions), dtype=bool)
    return Recordings("toy", participants, manifest, values, valid, Regions.plain("toy", n_regions))


def some_people(n: int, seed: int = 0) -> People:
    """People of two sites with diagnosis and age, one recording each."""
    rng = np.random.default_rng(seed)
    ids = [f"sub-{i:04d}" for i in range(n)]
    table = pd.DataFrame(
        {
            "site": np.where(np.arange(n) % 2 == 0, "A", "B"),
            "diagnosis": np.where((np.arange(n) // 2) % 2 == 0, "control", "patient"),
            "age": rng.uniform(20, 60, n),
            "sex": rng.choice(["F", "M"], n),
        },
        index=pd.Index(ids, name="participant_id"),
    )
    source = recordings(ids, [np.zeros((5, 2))] * n, table)
    return gather([source], {"toy": Roles()})


def diagnosis(people: People, *, draws: int = 0, seed: int = 0, **split: object) -> Question:
    """Ask for the diagnosis, by default on a holdout of two fifths."""
    settings = Split(**({"scheme": "holdout", "test": 0.4, "stratify": ["diagnosis"]} | split))
    table = make_split("main", settings, people)
    task = Task(target="diagnosis", kind="binary", positive="patient", datasets=["toy"], split="main")
    return ask(people, read_target("diagnosis", task, people), table, draws=draws, seed=seed)


def age(people: People, *, draws: int = 0, seed: int = 0) -> Question:
    """Ask for the age on a holdout of two fifths."""
    table = make_split("main", Split(scheme="holdout", test=0.4), people)
    task = Task(target="age", kind="regression", datasets=["toy"], split="main")
    return ask(people, read_target("age", task, people), table, draws=draws, seed=seed)
