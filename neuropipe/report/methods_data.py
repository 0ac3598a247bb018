"""Sentences on data: who was studied and left out, how people were divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neuropipe.config import Dataset, Split
from neuropipe.report import excluded
from neuropipe.report.read import Results
from neuropipe.report.references import cite
from neuropipe.splits.people import individuals

SOURCES = {  # what data of a kind are, and who made the programs that prepared them
    "fmriprep": f"derivatives of fMRIPrep {cite('esteban2019')}, organised as BIDS {cite('gorgolewski2016')}",
    "series": "ready-made regional time series",
    "xcpd": f"regional time series of XCP-D {cite('mehta2024')}",
    "giga_connectome": f"regional time series of giga_connectome {cite('wang2025')}",
    "tars": "ready-made regional time series (WebDataset tars)",
    "hdf5": "ready-made regional time series (HDF5)",
    "cat12": f"maps of anatomy by CAT12 {cite('gaser2024')}",
    "yaware": "ready-made maps of anatomy",
    "openbhb": f"maps of anatomy of OpenBHB {cite('dufumier2022')}",
    "images": "two-dimensional slices",
    "shards": "recordings that were prepared elsewhere with neuropipe",
}
MAPS = {"gm": "grey matter", "wm": "white matter", "t1w": "the T1-weighted image"}


def joined(parts: Sequence[str]) -> str:
    """Return parts as an enumeration: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def counted(n: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: ``1 recording``, ``2 recordings``."""
    return f"{n} {one if n == 1 else many or one + 's'}"


# --- people -------------------------------------------------------------------------------------


def people(results: Results) -> list[str]:
    """Return a paragraph for each dataset: what it is, how many were found, left out and why, who the people are."""
    return [" ".join(dataset(name, results)) for name in results.config.datasets]


def dataset(name: str, results: Results) -> list[str]:
    """Return the sentences on one dataset."""
    section = results.config.datasets[name]
    steps = excluded.flow(results.study, name, results.excluded)
    source = SOURCES[section.kind]
    if section.kind == "fmriprep" and section.content == "volume":
        source += f" (maps of {MAPS[section.map or 'gm']})"
    same = f", of the people of {section.people_of}" if section.people_of else ""
    said = [f"The dataset {name} holds {source}{same}."]
    if not steps:
        return said
    first, last = steps[0], steps[-1]
    found = f"{counted(first.n_recordings, 'recording')} of {counted(first.n_people, 'person', 'people')}"
    reasons: Counter[str] = Counter()
    for step in steps[1:]:
        for reason, n in step.left_out:
            reasons[reason] += n
    if reasons:
        listed = joined([f"{reason} ({n})" for reason, n in reasons.most_common()])
        left = f"{counted(last.n_recordings, 'recording')} of {counted(last.n_people, 'person', 'people')}"
        said.append(f"Of {found}, {left} were analysed; what was left out, and why: {listed}.")
    else:
        said.append(f"All {found} were analysed.")
    if first.left_out:
        n = sum(n for _, n in first.left_out)
        said.append(f"Of {counted(n, 'further person', 'further people')} there were no images.")
    return said + _demography(name, section, results)


def _demography(name: str, section: Dataset, results: Results) -> list[str]:
    """Return sex, age and sites of the people whose recordings were analysed, as far as their table says."""
    path, packed = results.study.participants(name), results.study.shards(name) / "manifest.parquet"
    if not (path.is_file() and packed.is_file()):
        return []
    used = set(pd.read_parquet(packed, columns=["participant_id"])["participant_id"])
    facts = demography(section, path, used)
    return [f"These people: {'; '.join(facts)}."] if facts else []


def demography(section: Dataset, participants: Path, used: set[str]) -> list[str]:
    """Return sex, age and number of sites of some people of a dataset, as far as their table says."""
    table = pd.read_csv(participants, sep="\t", dtype=str, keep_default_na=False)
    table = table[table["participant_id"].isin(used)].replace({"n/a": ""})
    facts = []
    if (sex := section.roles.sex) in table and (table[sex] != "").any():
        counts = table.loc[table[sex] != "", sex].value_counts().sort_index()
        facts.append("sex " + joined([f"{value} {n}" for value, n in counts.items()]))
    ages = pd.to_numeric(table[section.roles.age], errors="coerce").dropna() if section.roles.age in table else []
    if len(ages):
        spread = f" (SD {ages.std():.1f})" if len(ages) > 1 else ""
        facts.append(f"age {ages.min():.1f} to {ages.max():.1f} years, mean {ages.mean():.1f}{spread}")
    if (site := section.roles.site) in table and (table[site] != "").any():
        facts.append(counted(table.loc[table[site] != "", site].nunique(), "site"))
    return facts


# --- partitions ---------------------------------------------------------------------------------

SCHEMES = {
    "holdout": "one held-out test set",
    "kfold": "{n_folds}-fold cross-validation",
    "repeated_kfold": "{n_folds}-fold cross-validation, repeated {n_repeats} times",
    "leave_one_site_out": "leave-one-site-out cross-validation",
    "predefined": "a partition that was given beforehand",
}


def partitions(results: Results) -> list[str]:
    """Return how people were divided."""
    used = dict.fromkeys(task.split for task in results.config.tasks.values())
    said = [_partition(name, results.config.splits[name], results) for name in used]
    if said:
        kin = any(item.roles.kin for item in results.config.datasets.values())
        unit = "a person and of their family" if kin else "a person"
        said.append(
            f"All recordings of {unit} were on one side. Partitions were made once and used by every model and every "
            "baseline; no choice was made on test people."
        )
    return said


def _partition(name: str, split: Split, results: Results) -> str:
    scheme = SCHEMES[split.scheme].format(n_folds=split.n_folds, n_repeats=split.n_repeats)
    strata = f", stratified by {joined(split.stratify)}" if split.stratify and split.scheme != "predefined" else ""
    tasks = joined([task for task, item in results.config.tasks.items() if item.split == name])
    text = f"For {tasks}, people were divided by {scheme}{strata}"
    table = results.splits[name].table
    if table is None:
        return f"{text}."
    table = table[table["dataset"].isin(results.config.datasets)]
    rows = table.assign(individual=individuals(table, results.config.same_people()))
    sizes = rows.groupby(["repeat", "fold", "role"])["individual"].nunique().unstack(fill_value=0)
    parts = [f"{_range(sizes[role])} for {role}" for role in ("train", "validation", "test") if role in sizes]
    parts = [part.replace("for train", "for training") for part in parts if not part.startswith("0 ")]
    folds = f" over {len(sizes)} folds" if len(sizes) > 1 else ""
    return f"{text} ({joined(parts)}{folds})."


def _range(sizes: pd.Series) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    return str(low) if low == high else f"{low} to {high}"
