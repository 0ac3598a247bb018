"""What the features of a system show besides the target: sites, recognised people, places, strangers.

One `Looks` goes with a task's probe or baselines: it is shown every system with its features, makes the harmonised
twin where the study asks for one, and holds the tables that `neuropipe evaluate` makes metrics of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuropipe.config import Evaluate
from neuropipe.errors import InputError
from neuropipe.evaluate import audited, familiar, identification, sites, tables
from neuropipe.evaluate.features import Blocks, Features, Kernel
from neuropipe.evaluate.harmony import Harmony, harmonised_system, site_names
from neuropipe.evaluate.places import plane
from neuropipe.evaluate.protocol import System, resolve_readouts, run_facts
from neuropipe.evaluate.question import Fold, Question, inner_folds
from neuropipe.provenance import write_json

log = logging.getLogger("neuropipe")

Provider = Callable[[Fold], Features | Kernel | Blocks]
Recordings = Callable[[Fold, np.ndarray], np.ndarray | None]  # features of rows of `People.recordings`
FILES = {
    "sites": tables.SITES,
    "identified": tables.IDENTIFIED,
    "familiarity": tables.FAMILIARITY,
    "places": tables.PLACES,
}


@dataclass(eq=False)
class Looks:
    """The tables of one part of a task (probe or baselines), filled system by system.

    Attributes
    ----------
    question : Question
    readouts : list of str
        Of the study; rows belong to the run of a system's first linear one.
    harmony : Harmony or None
        Where every system is to answer once more with ComBat.
    rows : dict of str to list
        By name of a table in `FILES`.
    audit : list of dict
        Checks of transforms, see `audited`.
    """

    question: Question
    readouts: list[str]
    harmony: Harmony | None = None
    rows: dict[str, list[pd.DataFrame]] = field(default_factory=lambda: {name: [] for name in FILES})
    audit: list[dict[str, Any]] = field(default_factory=list)

    def versions(self, system: System, features: Provider) -> Iterator[tuple[System, Provider]]:
        """Yield a system with its features and, where asked for, both after ComBat."""
        found = [(system, features)]
        if self.harmony is not None:
            found.append((harmonised_system(system), self.harmony.provider(features)))
        for own, provider in found:
            harmony = None if own is system else self.harmony
            self.audit += audited.transforms(self.question, own.name, self._run(own)["run_id"], features, harmony)
            yield own, provider

    def show(
        self, system: System, features: Provider, recordings: Recordings | None = None, strangers: bool = False
    ) -> None:
        """Fill the tables with what a system's features show, before and after ComBat.

        Parameters
        ----------
        recordings : callable, optional
            Features of single recordings in a fold, for those who have two; None where there are none.
        strangers : bool
            Whether to tell who lies far from the training people.
        """
        raw, harmony = features(self.question.folds[0]), self.harmony
        self._portray(system, lambda _: raw)
        if harmony is not None:
            self._portray(harmonised_system(system), lambda train: harmony.on(raw, train))
        if recordings is not None:
            self._identify(system, recordings)
        if strangers:
            self._measure(system, features)

    def write(self, folder: Path) -> None:
        """Write the tables that have rows, and ``transforms.json``; tables of an earlier run are removed."""
        for name, columns in FILES.items():
            path = folder / f"{name}.parquet"
            path.unlink(missing_ok=True)
            if self.rows[name]:
                tables.write(path, pd.concat(self.rows[name], ignore_index=True), columns)
        question, ids = self.question, self.question.people.ids
        fitted_on = [{"repeat": f.repeat, "fold": f.name, "people": ids[f.train].tolist()} for f in question.folds]
        about = {"task": question.target.task, "part": folder.name, "split": question.split}
        write_json(folder / "transforms.json", about | {"fitted_on": fitted_on, "checks": self.audit})

    @property
    def _external(self) -> np.ndarray:
        """bool (n_people,): who is of a test dataset, which changes no number of the split."""
        return self.question.people.table["dataset"].isin(self.question.target.test_datasets).to_numpy()

    def _run(self, system: System) -> dict[str, Any]:
        kind = self.question.target.kind
        readout = resolve_readouts(self.readouts, kind)[0]
        return run_facts(self.question, system, readout, self.question.folds[0])

    def _add(self, name: str, system: System, rows: np.ndarray, columns: dict[str, Any]) -> None:
        """Append rows of `people.table` with what is said of them to a table."""
        table = self.question.people.table.iloc[rows].reset_index(drop=True).assign(**self._run(system))
        self.rows[name].append(tables.frame(table.assign(**columns).reindex(columns=list(FILES[name])), FILES[name]))

    def _portray(self, system: System, on: Callable[[np.ndarray], Features | Kernel | Blocks]) -> None:
        """Show sites and places by features that are fitted on given rows."""
        self._tell_sites(system, on)
        self._place(system, on(self.question.folds[0].train))

    def _tell_sites(self, system: System, on: Callable[[np.ndarray], Features | Kernel | Blocks]) -> None:
        asked = np.flatnonzero(self.question.target.known & ~self._external)
        names = site_names(self.question.people)
        rows, predicted = sites.told_sites(self.question.people, asked, names, on)
        if len(rows):
            self._add("sites", system, rows, {"site": names[rows], "predicted": predicted})

    def _place(self, system: System, features: Features | Kernel | Blocks) -> None:
        fold, target = self.question.folds[0], self.question.target
        rows = np.concatenate([fold.train, fold.judged])
        x, y = plane(features.coordinates(fold.train), fold.train)[rows].T
        role = ["train"] * len(fold.train) + fold.roles
        label = self.question.people.column(target.column).to_numpy()[rows]
        self._add("places", system, rows, {"fold": fold.name, "role": role, "label": label, "x": x, "y": y})

    def _identify(self, system: System, recordings: Recordings) -> None:
        """Look for the recordings of each fold's test people among those of everyone who has two."""
        two = identification.pairs(self.question.people)
        two = two[~self._external[two["row"]]]
        if len(two) < 2:
            return
        for fold in self.question.folds:
            values = [recordings(fold, two[name].to_numpy()) for name in ("first", "second")]
            if any(part is None for part in values):
                return
            second_found, first_found = identification.found(*values)
            tested = two["row"].isin(fold.test).to_numpy()
            facts = {"second_found": second_found[tested], "first_found": first_found[tested]}
            rows = two["row"].to_numpy()[tested]
            if len(rows):
                self._add("identified", system, rows, {"fold": fold.name, "n_candidates": len(two), **facts})

    def _measure(self, system: System, features: Provider) -> None:
        for fold in self.question.folds:
            folds = inner_folds(self.question.people, fold.train, self.question.seed)
            distance, threshold = familiar.distances(features(fold).values, fold.train, folds)
            known = np.isfinite(distance[fold.judged])
            rows, role = fold.judged[known], np.array(fold.roles)[known]
            if not np.isfinite(threshold) or not len(rows):
                continue
            near = {"distance": distance[rows], "is_far": distance[rows] > threshold}
            self._add("familiarity", system, rows, {"fold": fold.name, "role": role, **near})


def looks_of(question: Question, settings: Evaluate) -> Looks:
    """Return what looks at the systems of a task, as a study's section ``evaluate`` wants it.

    Raises
    ------
    InputError
        The study asks for ComBat, but nobody's site is known.
    """
    if settings.harmonise is None:
        return Looks(question, settings.readouts)
    harmony = Harmony.of(question, settings.harmonise_keep)
    inside = ~question.people.table["dataset"].isin(question.target.test_datasets).to_numpy()
    known = set(harmony.sites[question.target.known & inside]) - {""}  # nothing learns from the others
    task, people = question.target.task, question.people
    if not known:
        columns = ", ".join(f"{name}: {people.resolve(name, 'site')!r}" for name in people.participants)
        raise InputError(
            f"evaluate.harmonise needs sites, but nobody of task {task!r} has one; looked in the participants columns "
            f"{columns}. Name the column in datasets.<name>.roles.site, or leave harmonise out."
        )
    if len(known) == 1:
        log.warning("no ComBat for %s: everybody is of the site %s", task, *known)
        return Looks(question, settings.readouts)
    for fold in question.folds:
        if unseen := harmony.n_unseen(fold):
            log.info("ComBat of %s, fold %s: %d people of unseen sites keep their features", task, fold.name, unseen)
    return Looks(question, settings.readouts, harmony)
