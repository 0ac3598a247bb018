"""Who is on which side: holdout, k-fold, leave-one-site-out and predefined splits, made once and frozen.

The unit is the person (kin stay together). Every draw walks one list of units, ordered by dataset, site
and the stratification columns and shuffled within these strata, in even steps; so each dataset, each
site and each stratum gives its share to within one person, and the totals are exact.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from neuropipe.config import Split
from neuropipe.errors import SplitError
from neuropipe.splits.people import People, individuals

COLUMNS = ["split", "scheme", "repeat", "fold", "role", "dataset", "participant_id", "person", "site"]
SIDES = ("train", "validation", "test")
N_BINS = 4  # a continuous stratification column is cut at its quartiles
RESERVED = ("mean", "pooled", "external")  # what tables of metrics call the rows that are of no single fold
MANY_VALUES = 10  # a numeric column with more distinct values than this counts as continuous

Amount = float | int | dict[str, int] | None


class Fold(NamedTuple):
    """One way of dividing everyone: a name and each row's role (object array over `People.table`)."""

    repeat: int
    name: str
    roles: np.ndarray


def make_split(name: str, settings: Split, people: People) -> pd.DataFrame:
    """Return the frozen table of a split.

    Parameters
    ----------
    name : str
        Name of the split.
    settings : Split
        Its section of the configuration.
    people : People
        Everyone with at least one recording.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`; every participant once per fold, sorted by repeat, fold and id. ``role`` is
        train, validation, test or unused.

    Raises
    ------
    SplitError
        The split cannot be made as asked.
    """
    folds = {
        "holdout": _holdout,
        "kfold": _kfold,
        "repeated_kfold": _kfold,
        "leave_one_site_out": _leave_one_site_out,
        "predefined": _predefined,
    }[settings.scheme](name, settings, people)
    site = people.column(settings.site).fillna("") if settings.site else people.table["site"]
    parts = [
        people.table[["dataset", "participant_id", "person"]].assign(
            split=name, scheme=settings.scheme, repeat=fold.repeat, fold=fold.name, role=fold.roles, site=site
        )
        for fold in folds
    ]
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def ordered_units(people: People, stratify: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """Return one row per person in the order that draws walk along.

    Columns ``person, dataset, datasets`` (all in which the unit has recordings), ``n`` (individuals that belong to
    the unit) and ``stratum`` (int). The order depends on the ids, the strata and `rng`, never on the order of rows.
    """
    keys = people.table[["person", "dataset", "site"]].assign(individual=people.individuals)
    keys["linked"] = keys["dataset"].isin(people.same_people)  # a person belongs to the dataset that names people
    for number, column in enumerate(stratify):
        keys[f"stratum {number}"] = _stratum(people, column)
    ordered = keys.sort_values("linked", kind="stable").drop(columns=["linked", "individual"])
    units = ordered.groupby("person", sort=True).first()  # a family counts as its first member
    strata = list(units)  # dataset, site, and what the split asks for
    units["stratum"] = units.groupby(strata, dropna=False).ngroup()
    units["n"] = keys.groupby("person")["individual"].nunique()
    datasets = defaultdict(set)
    for person, dataset in zip(keys["person"], keys["dataset"], strict=True):
        datasets[person].add(dataset)
    units["datasets"] = [frozenset(datasets[person]) for person in units.index]
    units["draw"] = rng.permutation(len(units))
    return units.sort_values([*strata, "draw"]).reset_index()[["person", "dataset", "datasets", "n", "stratum"]]


def fold_numbers(n: int, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold (int64) of each of `n` units in drawing order; sizes differ by one at most."""
    return rng.permutation(n_folds)[np.arange(n) % n_folds]


def _stratum(people: People, column: str) -> pd.Series:
    """Return a stratification column as text; a continuous one as its quartile."""
    text = people.column(column)
    numbers = pd.to_numeric(text, errors="coerce")
    if numbers.notna().sum() == text.notna().sum() and numbers.nunique() > MANY_VALUES:
        return pd.qcut(numbers, N_BINS, labels=False, duplicates="drop").astype("string").fillna("")
    return text.fillna("").astype("string")


def _evenly(n: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Return a bool array (n,) with `wanted` places, in even steps from a random start."""
    chosen = np.zeros(n, dtype=bool)
    chosen[np.floor((np.arange(wanted) + rng.random()) * n / max(wanted, 1)).astype(int)] = True
    return chosen


def _quotas(sizes: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Return how many of each stratum are drawn: its share, rounded by largest remainder, ties in even steps."""
    exact = wanted * sizes / sizes.sum()
    quotas = np.floor(exact + 1e-9).astype(int)
    remainder = np.round(exact - quotas, 9)
    left = wanted - quotas.sum()
    if left > 0:
        last = np.sort(remainder)[-left]
        quotas[remainder > last] += 1
        tied = np.flatnonzero(remainder == last)
        quotas[tied[_evenly(len(tied), wanted - quotas.sum(), rng)]] += 1
    return quotas


def _stratified(strata: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Return which of the units (bool) are drawn, the first of each stratum in drawing order."""
    if wanted == 0:
        return np.zeros(len(strata), dtype=bool)
    _, of_unit, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    rank = np.arange(len(strata)) - np.searchsorted(of_unit, of_unit)  # units are sorted by stratum
    return rank < _quotas(sizes, wanted, rng)[of_unit]


def _draw(units: pd.DataFrame, free: np.ndarray, amount: Amount, what: str, rng: np.random.Generator) -> np.ndarray:
    """Return which of the `free` units (bool) are drawn for one side.

    A share is one of all units; a count is of individuals, and met exactly where nobody has kin. Of counts per
    dataset, a person with recordings in two datasets counts for both, so that each is met at least.
    """
    drawn = np.zeros(len(units), dtype=bool)
    if amount is None:
        return drawn
    parts = amount if isinstance(amount, dict) else {None: amount}
    for dataset, size in parts.items():
        member = np.array([dataset is None or dataset in held for held in units["datasets"]])
        if not member.any():
            found = ", ".join(sorted(frozenset().union(*units["datasets"])))
            raise SplitError(f"{what}: no people of dataset {dataset!r}; found {found}.")
        wanted = round(size * member.sum()) if isinstance(size, float) else round(size / units["n"].mean())
        wanted = max(wanted - int((drawn & member).sum()), 0)
        inside = free & member & ~drawn
        if wanted > inside.sum():
            raise SplitError(f"{what}: {size} asked for, but only {inside.sum()} people are free; ask for fewer.")
        drawn[np.flatnonzero(inside)[_stratified(units["stratum"].to_numpy()[inside], wanted, rng)]] = True
    return drawn


def _roles(people: People, units: pd.DataFrame, sides: np.ndarray) -> np.ndarray:
    """Return each participant's role from the units' roles."""
    return people.table["person"].map(dict(zip(units["person"], sides, strict=True))).to_numpy(dtype=object)


def _holdout(name: str, settings: Split, people: People) -> Iterator[Fold]:
    rng = np.random.default_rng(settings.seed)
    units = ordered_units(people, settings.stratify or [], rng)
    test = _draw(units, np.ones(len(units), dtype=bool), settings.test, f"splits.{name}.test", rng)
    validation = _draw(units, ~test, settings.validation, f"splits.{name}.validation", rng)
    sides = np.select([test, validation], ["test", "validation"], default="train")
    yield Fold(0, "0", _roles(people, units, sides))


def _kfold(name: str, settings: Split, people: People) -> Iterator[Fold]:
    n_repeats = settings.n_repeats if settings.scheme == "repeated_kfold" else 1
    for repeat in range(n_repeats):
        rng = np.random.default_rng([settings.seed, repeat])
        units = ordered_units(people, settings.stratify or [], rng)
        if len(units) < settings.n_folds:
            raise SplitError(f"splits.{name}: {settings.n_folds} folds asked for, but there are {len(units)} people.")
        by_size = np.lexsort((-units["n"], units["stratum"]))  # so that large families are spread over folds
        numbers = np.empty(len(units), dtype=np.int64)
        numbers[by_size] = fold_numbers(len(units), settings.n_folds, rng)
        for fold in range(settings.n_folds):
            test = numbers == fold
            validation = _draw(units, ~test, settings.validation, f"splits.{name}.validation", rng)
            sides = np.select([test, validation], ["test", "validation"], default="train")
            label = f"r{repeat}-f{fold}" if settings.scheme == "repeated_kfold" else str(fold)
            yield Fold(repeat, label, _roles(people, units, sides))


def _leave_one_site_out(name: str, settings: Split, people: People) -> Iterator[Fold]:
    site = _shared(people, settings.site or "site")
    if unknown := people.ids[site.isna()].tolist():
        raise SplitError(
            f"splits.{name}: {len(unknown)} people have no {settings.site or 'site'}: {', '.join(unknown[:5])}. "
            "Fill the column in, or name another with splits.<name>.site."
        )
    values = sorted(site.unique())
    if len(values) < 2:
        raise SplitError(f"splits.{name}: leaving one site out needs two sites at least, found {values}.")
    labels = {value: re.sub(r"[^A-Za-z0-9.]+", "-", value).strip("-.") or "site" for value in values}
    if len(set(labels.values())) < len(values) or set(labels.values()) & set(RESERVED):
        raise SplitError(
            f"splits.{name}: sites name the folds, so they must differ in letters or digits and not be one of "
            f"{', '.join(RESERVED)}; found {values}."
        )
    for number, value in enumerate(values):
        rng = np.random.default_rng([settings.seed, number])
        units = ordered_units(people, settings.stratify or [], rng)
        left_out = (site == value).to_numpy()
        kin = people.table["person"].isin(people.table["person"][left_out]).to_numpy()
        away = units["person"].isin(people.table["person"][kin]).to_numpy()
        validation = _draw(units, ~away, settings.validation, f"splits.{name}.validation", rng)
        roles = _roles(people, units, np.where(validation, "validation", "train"))
        roles[kin] = "unused"  # a relative at another site may not be learned from
        roles[left_out] = "test"
        yield Fold(0, labels[value], roles)


def _predefined(name: str, settings: Split, people: People) -> Iterator[Fold]:
    if settings.by is not None:
        yield Fold(0, "0", _by_column(name, settings, people))
        return
    listed = _read_list(name, Path(settings.path), people)
    for number, (fold, rows) in enumerate(listed.groupby("fold", sort=True)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", fold) or fold in RESERVED:
            raise SplitError(
                f"{settings.path}: fold names are letters, digits, points and hyphens, and none of "
                f"{', '.join(RESERVED)}; found {fold!r}."
            )
        roles = _listed_roles(rows, people)
        if settings.validation is not None and "validation" not in roles:
            _add_validation(name, settings, people, roles, np.random.default_rng([settings.seed, number]))
        yield Fold(0, fold, roles)


def _shared(people: People, column: str) -> pd.Series:
    """Return a column as text; where a dataset does not know it of someone, what a linked dataset knows."""
    values = people.column(column)
    return values.fillna(values.groupby(people.individuals).transform("first"))


def _listed_roles(rows: pd.DataFrame, people: People) -> np.ndarray:
    """Return everyone's role in one fold of a list; who is listed in one dataset has the role in linked ones too."""
    listed = rows.set_index("id")["role"]
    dataset = rows["id"].str.partition("/")
    named = individuals(pd.DataFrame({"dataset": dataset[0], "participant_id": dataset[2]}), people.same_people)
    by_individual = dict(zip(named, rows["role"], strict=True))
    return people.ids.map(listed).fillna(people.individuals.map(by_individual)).fillna("unused").to_numpy(dtype=object)


def _add_validation(name: str, settings: Split, people: People, roles: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a validation side out of the training side, in place."""
    units = ordered_units(people, settings.stratify or [], rng)
    training = units["person"].isin(people.table["person"][roles == "train"]).to_numpy()
    drawn = units["person"][_draw(units, training, settings.validation, f"splits.{name}.validation", rng)]
    roles[(roles == "train") & people.table["person"].isin(drawn).to_numpy()] = "validation"


def _by_column(name: str, settings: Split, people: People) -> np.ndarray:
    """Return roles by the values of one column; a value that nobody has is a mistake, not an empty side."""
    values = _shared(people, settings.by)
    roles = np.full(len(people), "unused", dtype=object)
    taken: dict[str, str] = {}
    for side in SIDES:
        for value in getattr(settings, f"{side}_values"):
            chosen = (values == value).to_numpy()
            if not chosen.any():
                found = ", ".join(sorted(values.dropna().unique()))
                raise SplitError(f"splits.{name}.{side}_values: nobody has {settings.by} = {value!r}; found {found}.")
            if value in taken:
                raise SplitError(f"splits.{name}: {settings.by} = {value!r} is listed for {taken[value]} and {side}.")
            taken[value] = side
            roles[chosen] = side
    if settings.validation is not None and not settings.validation_values:
        _add_validation(name, settings, people, roles, np.random.default_rng(settings.seed))
    return roles


def _read_list(name: str, path: Path, people: People) -> pd.DataFrame:
    """Return the columns ``id, role, fold`` of a predefined split's file, every id checked exactly."""
    if not path.is_file():
        raise SplitError(f"splits.{name}.path: no file {path}.")
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if missing := [column for column in ("participant_id", "role") if column not in table]:
        raise SplitError(f"{path} lacks the columns {missing}; found {list(table)}.")
    if table.empty:
        raise SplitError(f"{path} lists nobody; write one line per person.")
    if wrong := sorted(set(table["role"]) - {*SIDES, "unused"}):
        raise SplitError(f"{path}: roles are train, validation, test or unused, found {wrong}.")
    if "dataset" not in table:
        if len({people.same_people.get(name, name) for name in people.participants}) > 1:
            raise SplitError(f"{path} needs a column dataset, because there are {', '.join(people.participants)}.")
        table["dataset"] = next(iter(people.participants))
    if "fold" not in table:
        table["fold"] = "0"
    bare = ~table["participant_id"].str.startswith("sub-")
    table.loc[bare, "participant_id"] = "sub-" + table.loc[bare, "participant_id"]
    table["id"] = table["dataset"] + "/" + table["participant_id"]
    known = {f"{d}/{p}" for d, participants in people.participants.items() for p in participants.index}
    if unknown := sorted(set(table["id"]) - known):
        raise SplitError(
            f"{path} names {len(unknown)} people whom no participants table knows: {', '.join(unknown[:5])}. "
            "Ids are compared whole; mend the list."
        )
    if (twice := table[table.duplicated(["fold", "id"])]).size:
        raise SplitError(f"{path} names {', '.join(twice['id'].unique()[:5])} more than once in a fold; keep one line.")
    return table[["id", "role", "fold"]]
