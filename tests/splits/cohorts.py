"""Made-up datasets behind the interface of shards, for tests of splits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from neuropipe.config import Roles
from neuropipe.splits.people import People, gather


@dataclass
class Source:
    """A dataset as `gather` sees it."""

    dataset: str
    participants: pd.DataFrame
    manifest: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        if self.manifest.empty:
            ids = self.participants.index.to_numpy()
            hashes = [f"{self.dataset}-{name}" for name in ids]
            self.manifest = pd.DataFrame({"participant_id": ids, "sha256": hashes, "n_timepoints": 100, "t_r": 2.0})


def participants(n: int, *, sites: int = 3, seed: int = 0) -> pd.DataFrame:
    """People with site, diagnosis (in every site), age and sex, in a shuffled order."""
    rng = np.random.default_rng(seed)
    number = np.arange(n)
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03d}" for i in number],
            "site": [f"site {chr(65 + i % sites)}" for i in number],
            "diagnosis": np.where((number // sites) % 2 == 0, "control", "patient"),
            "age": rng.uniform(18, 80, n).round(1),
            "sex": rng.choice(["F", "M"], n),
            "family": [f"f{i // 2}" for i in number],
        }
    )
    return table.sample(frac=1, random_state=seed).set_index("participant_id")


def people(*tables: pd.DataFrame, **roles: str | None) -> People:
    """Gather participants tables as datasets ``d0``, ``d1`` ..."""
    sources = [Source(f"d{i}", table) for i, table in enumerate(tables)]
    return gather(sources, {source.dataset: Roles(**roles) for source in sources})
