"""Where networks for slices look: attention rollout, averaged over the test people of every fold, group by group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuropipe.evaluate.consensus import rollout
from neuropipe.evaluate.finetune import Tuner
from neuropipe.evaluate.targets import Target
from neuropipe.hub import finetuned
from neuropipe.paths import atomic

N_SLICES = 5  # evenly spaced, of every scan


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Mean maps of groups of people.

    Attributes
    ----------
    names : list of str
        Of the groups, with the number of people.
    slices : float32 array (slice, row, column)
        Mean over everyone.
    maps : float32 array (group, slice, patch row, patch column)
        In [0, 1] for every person and slice before they are averaged.
    """

    names: list[str]
    slices: np.ndarray
    maps: np.ndarray

    def write(self, path: Path) -> None:
        """Write an npz without pickles."""
        with atomic(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, names=np.array(self.names), slices=self.slices, maps=self.maps)


def gather(tuner: Tuner, root: Path) -> Rollouts | None:
    """Return the mean rollout of the test people of all folds; None where networks have none, or scans few slices.

    Parameters
    ----------
    tuner : Tuner
    root : path
        The folders of the folds' networks lie below.
    """
    slices, maps, groups = [], [], []
    group_of = _groups(tuner)
    for fold in tuner.question.folds:
        saved = finetuned.load(root / tuner.question.split / fold.name, tuner.device)
        if not hasattr(saved.network, "rollout"):
            return None
        source = tuner.open_source(tuner.people(fold.test))
        for i, person in enumerate(source.table[["dataset", "participant_id"]].itertuples(index=False, name=None)):
            batch = source.evaluation_batch(i, saved.spec, N_SLICES)
            if len(batch) == N_SLICES:
                slices.append(batch.image[:, 0].float().cpu().numpy())
                maps.append(rollout([saved], batch))
                groups.append(group_of[person])
    if not maps:
        return None
    groups, names = np.array(groups), _names(tuner.question.target)
    there = [g for g in range(len(names)) if (groups == g).any()]
    means = [np.mean([m for m, g in zip(maps, groups, strict=True) if g == wanted], axis=0) for wanted in there]
    labels = [f"{names[g]} ({(groups == g).sum()} scans)" for g in there]
    return Rollouts(labels, np.mean(slices, axis=0, dtype=np.float32), np.stack(means).astype(np.float32))


def _groups(tuner: Tuner) -> dict[tuple[str, str], int]:
    """Return everyone's group: positive or not, or above the median or not."""
    targets = tuner.targets()
    known = [value for value in targets.values() if np.isfinite(value)]
    border = 0.5 if tuner.question.target.kind == "binary" else float(np.median(known))
    return {person: int(value <= border) for person, value in targets.items()}


def _names(target: Target) -> list[str]:
    if target.kind == "binary":
        return [str(target.positive), f"not {target.positive}"]
    return [f"{target.column} above the median", f"{target.column} up to the median"]
