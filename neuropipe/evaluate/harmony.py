"""Features without what sites do to them: ComBat fitted on the training side of each fold, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from neuropipe.evaluate import tables
from neuropipe.evaluate.combat import Combat
from neuropipe.evaluate.features import Blocks, Features, Kernel, confound_design, principal_coordinates, without_target
from neuropipe.evaluate.protocol import System
from neuropipe.evaluate.question import Fold, Question
from neuropipe.splits.people import People

COMBAT = "combat"  # value of the column harmonisation


@dataclass(frozen=True, eq=False)
class Harmony:
    """Who is of which site, and whose effects are kept.

    Attributes
    ----------
    sites : text ndarray (n_people,)
        ``<dataset>/<site>``, see `site_names`.
    kept : Features or None
        Columns whose effects stay in the features; never the target, which of test people is not known.
    """

    sites: np.ndarray
    kept: Features | None = None

    @classmethod
    def of(cls, question: Question, keep: list[str]) -> Harmony:
        """Return the sites of a question's people, and of the columns `keep` those that are not its target."""
        names = without_target(keep, question.target.column, question.people)
        return cls(site_names(question.people), confound_design(question.people, names) if names else None)

    def on(self, features: Features | Kernel | Blocks, train: np.ndarray) -> Features | Blocks:
        """Return the features of everyone, with ComBat fitted on the rows `train`.

        Features that are known by their inner products alone (voxels, the tangent space) go through it as the
        principal coordinates that the training side spans, parts that stand side by side one by one.
        """
        if isinstance(features, Blocks):
            return Blocks(tuple(self.on(part, train) for part in features.parts))
        if isinstance(features, Kernel):
            features = coordinates_of(features, train)
        design = None if self.kept is None else self.kept.coordinates(train)
        known = None if design is None else design[train]
        fitted = Combat.fit(features.values[train], self.sites[train], known)
        return replace(features, values=fitted.apply(features.values, self.sites, design))

    def provider(self, features: Callable[[Fold], Features | Kernel]) -> Callable[[Fold], Features | Kernel]:
        """Return what gives a fold's features after ComBat."""
        return lambda fold: self.on(features(fold), fold.train)

    def n_unseen(self, fold: Fold) -> int:
        """Return how many judged people of a fold are of sites that its training side cannot tell of."""
        names, counts = np.unique(self.sites[fold.train], return_counts=True)
        return int((~np.isin(self.sites[fold.judged], names[counts > 1])).sum())


def site_names(people: People) -> np.ndarray:
    """Return ``<dataset>/<site>`` of everyone, empty where the site is unknown; linked datasets share their sites."""
    dataset = people.individuals.str.partition("/")[0]
    site = people.table["site"].astype(object)
    return np.where(site == "", "", dataset.astype(object) + "/" + site)


def coordinates_of(kernel: Kernel, train: np.ndarray) -> Features:
    """Return the principal coordinates of inner products, centred on the training side and not scaled."""
    return Features(principal_coordinates(kernel.centred(train), train), scaled=False)


def harmonised_system(system: System) -> System:
    """Return who a system is once its features go through ComBat."""
    return replace(system, name=tables.harmonised(system.name), facts=system.facts | {"harmonisation": COMBAT})
