"""Sentences on data: who was studied and left out, how images became numbers, how people were divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from neuropipe.config import Clean, Dataset, Split
from neuropipe.report import excluded
from neuropipe.report.read import Results
from neuropipe.report.references import by_doi, cite
from neuropipe.signals.catalogue import CATALOGUE
from neuropipe.signals.strategies import STRATEGIES, censors
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
}
MAPS = {"gm": "grey matter", "wm": "white matter", "t1w": "the T1-weighted image"}
REGRESSED = {  # words and sources of each strategy that regresses confounds
    "cosine": ("discrete cosines (high-pass of 128 s)", ()),
    "gsr_only": ("the global signal", ("murphy2017",)),
    "simple": (
        "24 parameters of head motion, the mean signals of white matter and cerebrospinal fluid, and discrete cosines",
        ("friston1996", "wang2024"),
    ),
    "scrubbing": (
        "24 parameters of head motion, eight of white matter and cerebrospinal fluid, and discrete cosines, with "
        "volumes of high motion censored",
        ("friston1996", "power2014", "wang2024"),
    ),
    "24P": (
        "24 parameters of head motion (six, their derivatives, and the squares of both)",
        ("friston1996", "satterthwaite2013"),
    ),
    "27P": (
        "24 parameters of head motion and the mean signals of white matter, cerebrospinal fluid and the whole brain",
        ("friston1996", "satterthwaite2013"),
    ),
    "36P": ("36 parameters of head motion, white matter, cerebrospinal fluid and global signal", ("satterthwaite2013",)),
    "36P+spikes": (
        "36 parameters of head motion, white matter, cerebrospinal fluid and global signal, with volumes of high "
        "motion censored",
        ("satterthwaite2013", "power2014"),
    ),
    "acompcor": (
        "12 parameters of head motion, anatomical principal components of white matter and cerebrospinal fluid "
        "(aCompCor), and discrete cosines",
        ("behzadi2007",),
    ),
    "acompcor_gsr": (
        "12 parameters of head motion, anatomical principal components of white matter and cerebrospinal fluid "
        "(aCompCor), the global signal, and discrete cosines",
        ("behzadi2007", "murphy2017"),
    ),
    "acompcor50": (
        "12 parameters of head motion, the anatomical principal components that explain half of the variance of white "
        "matter and of cerebrospinal fluid (aCompCor50), and discrete cosines",
        ("behzadi2007", "muschelli2014"),
    ),
    "compcor": (
        "24 parameters of head motion, anatomical principal components of white matter and cerebrospinal fluid "
        "together (aCompCor), and discrete cosines",
        ("behzadi2007", "friston1996"),
    ),
    "icaaroma": (
        "the components that ICA-AROMA calls motion, the mean signals of white matter and cerebrospinal fluid, and "
        "discrete cosines",
        ("pruim2015",),
    ),
    "icaaroma_gsr": (
        "the components that ICA-AROMA calls motion, the mean signals of white matter and cerebrospinal fluid, the "
        "global signal, and discrete cosines",
        ("pruim2015", "murphy2017"),
    ),
}
STANDARDIZED = {
    "zscore": "z-scored per region and recording",
    "zscore_sample": "z-scored per region and recording (sample deviation)",
    "psc": "expressed as percent signal change",
}


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
    for step in steps:
        for reason, n in step.left_out:
            reasons[reason] += n
    if reasons:
        listed = joined([f"{reason} ({n})" for reason, n in reasons.most_common()])
        left = f"{counted(last.n_recordings, 'recording')} of {counted(last.n_people, 'person', 'people')}"
        said.append(f"Of {found}, {left} were analysed; what was left out, and why: {listed}.")
    else:
        said.append(f"All {found} were analysed.")
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


# --- preparation --------------------------------------------------------------------------------


def preparation(results: Results) -> list[str]:
    """Return how images became regional series, maps or slices."""
    return [*_regions(results), *_cleaning(results), *_volumes(results), *limits(results)]


def _with_content(results: Results, *contents: str) -> list[str]:
    return [name for name, item in results.config.datasets.items() if item.content in contents]


def atlases(results: Results) -> dict[str, int]:
    """Return the atlases of the study's regions with the number of regions of each, as the packed data have them."""
    tables = [results.study.shards(name) / "regions.tsv" for name in results.config.datasets]
    found: dict[str, int] = {}
    for path in tables:
        if path.is_file():
            ids = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)["atlas"]
            found |= {str(atlas): int(n) for atlas, n in ids.value_counts(sort=False).items()}
    return found


def _regions(results: Results) -> list[str]:
    """Return which regions were used, each atlas with its source."""
    found = atlases(results)
    if not found:
        return []
    named = []
    for atlas, n in found.items():
        entry = CATALOGUE.get(atlas)
        keys = by_doi(entry.citation) if entry else []
        named.append(f"{counted(n, 'region')} of {atlas}" + (f" {cite(*keys)}" if keys else ""))
    asked = [CATALOGUE[a] for a in results.config.atlases if isinstance(a, str) and a in CATALOGUE]
    flow = f", from TemplateFlow {cite('ciric2022')}," if any(e.image.source == "templateflow" for e in asked) else ""
    warped = " Atlases of another template space were brought to that of the images." if results.config.warp else ""
    return [f"The brain was divided into {joined(named)}{flow or ''}".rstrip(",") + f".{warped}"]


def _cleaning(results: Results) -> list[str]:
    """Return how series were cleaned; confounds are regressed from images only, never from ready-made series."""
    series = _with_content(results, "series")
    clean = results.config.clean
    said = []
    imaged = [name for name in series if not results.config.datasets[name].ready_made]
    if imaged:
        said += [*_extraction(clean), *_confounds(clean, results, imaged)]
    handled = [name for name in series if not results.config.datasets[name].keeps_values]
    if handled:
        said += _band(clean, bool(imaged))
    if kept := [name for name in series if results.config.datasets[name].keeps_values]:
        said.append(f"The series of {joined(kept)} were taken as they are.")
    return said


def _extraction(clean: Clean) -> list[str]:
    how = "averaged over each region" if clean.maps == "weighted_mean" else "fitted by the maps in least squares"
    before = f"smoothed ({clean.smoothing_fwhm_mm:g} mm full width at half maximum) and " if clean.smoothing_fwhm_mm else ""
    dummy = {"auto": "Volumes that are not in steady state were dropped.", 0: ""}.get(
        clean.n_dummy, f"The first {clean.n_dummy} volumes of each run were dropped."
    )
    return [f"Images were {before}{how}.", *filter(None, [dummy])]


def _confounds(clean: Clean, results: Results, datasets: list[str]) -> list[str]:
    """Return what was regressed and censored."""
    said = []
    if not isinstance(clean.strategy, str):
        said.append(f"The confounds {joined(clean.strategy.columns)} were regressed from the series.")
    elif clean.strategy in REGRESSED:
        words, keys = REGRESSED[clean.strategy]
        said.append(f"{words[0].upper()}{words[1:]} were regressed from the series{f' {cite(*keys)}' if keys else ''}.")
    else:
        said.append("No confounds were regressed.")
    if (n := _median(results, datasets, "n_confounds")) is not None and clean.strategy != "none":
        said[-1] = f"{said[-1][:-1]} (median of {n:.0f} regressors per run)."
    has_global = isinstance(clean.strategy, str) and STRATEGIES[clean.strategy].global_signal
    if clean.global_signal and not has_global:
        said.append(f"The global signal was regressed too {cite('murphy2017')}.")
    if clean.mean_signal:
        said.append("The mean over all regions was regressed too.")
    if censors(clean):
        dvars = f" or a standardised DVARS above {clean.std_dvars_threshold:g}" if clean.std_dvars_threshold else ""
        said.append(
            f"Volumes with a framewise displacement above {clean.fd_threshold_mm:g} mm{dvars} were censored "
            f"{cite('power2012')}."
        )
    return said


def _median(results: Results, datasets: list[str], column: str) -> float | None:
    runs = results.runs
    if runs is None or column not in runs:
        return None
    values = runs.loc[runs["dataset"].isin(datasets), column].dropna()
    return float(values.median()) if len(values) else None


def _band(clean: Clean, with_confounds: bool) -> list[str]:
    edges = [f"{edge:g}" for edge in (clean.high_pass, clean.low_pass) if edge]
    kind = {(True, True): "band-pass", (True, False): "high-pass", (False, True): "low-pass"}
    said = []
    if edges:
        name = kind[bool(clean.high_pass), bool(clean.low_pass)]
        band = f"{name} filtered ({' to '.join(edges)} Hz)"
        if clean.filter == "projection":
            joint = "the confounds and the filter in one joint least squares fit" if with_confounds else "one least squares fit"
            said.append(f"Series were {band} by {joint}, so that neither undoes the other {cite('lindquist2019')}.")
        else:
            said.append(f"Series were {band} by a zero-phase Butterworth filter of order {clean.filter_order}.")
    after = []
    if clean.t_r:
        after.append(f"resampled to a repetition time of {clean.t_r:g} s")
    if clean.standardize in STANDARDIZED:
        after.append(STANDARDIZED[clean.standardize])
    return said + ([f"They were {joined(after)}."] if after else [])


def _volumes(results: Results) -> list[str]:
    """Return how maps and slices were prepared."""
    names, settings = _with_content(results, "volume", "image"), results.config.volumes
    if not names:
        return []
    steps = []
    if settings.voxel_mm:
        steps.append(f"resampled to voxels of {settings.voxel_mm:g} mm with their volume kept")
    if settings.crop or settings.size:
        shape = " × ".join(map(str, settings.size or settings.crop or ()))
        steps.append(f"cropped or padded to {shape} voxels")
    if settings.scale == "zscore":
        steps.append("scaled to mean 0 and deviation 1 over their voxels")
    if settings.scale == "tiv":
        steps.append("scaled to a total intracranial volume of 1500 mL")
    images = _with_content(results, "image")
    fitted = [f"Slices of {joined(images)} were fitted into {settings.image_size[0]} × {settings.image_size[1]} pixels."]
    maps = _with_content(results, "volume")
    how = joined(steps) if steps else "used on their own grid, without scaling"
    return ([f"Maps of {joined(maps)} were {how}."] if maps else []) + (fitted if images else [])


def limits(results: Results) -> list[str]:
    """Return the limits beyond which recordings were left out, those that apply to the data of the study."""
    rules, series = results.config.exclude, bool(_with_content(results, "series"))
    said = []
    if series and any(not results.config.datasets[name].ready_made for name in _with_content(results, "series")):
        if rules.max_mean_fd_mm is not None:
            said.append(f"a mean framewise displacement above {rules.max_mean_fd_mm:g} mm {cite('power2012')}")
        if rules.max_fd_mm is not None:
            said.append(f"a framewise displacement above {rules.max_fd_mm:g} mm in any volume {cite('power2012')}")
        if rules.max_censored_share is not None and censors(results.config.clean):
            said.append(f"more than {100 * rules.max_censored_share:g} % of volumes censored")
        if rules.min_degrees_of_freedom is not None:
            said.append(f"fewer than {rules.min_degrees_of_freedom:g} degrees of freedom left")
        if rules.max_missing_regions is not None and rules.min_region_coverage is not None:
            said.append(
                f"more than {rules.max_missing_regions} regions of which less than "
                f"{100 * rules.min_region_coverage:g} % lay in the brain mask"
            )
    if series and rules.min_duration_s is not None:
        said.append(f"a duration below {rules.min_duration_s:g} s")
    if any(item.kind == "cat12" for item in results.config.datasets.values()) and rules.max_iqr_grade is not None:
        said.append(f"a CAT12 image quality worse than grade {rules.max_iqr_grade:g}")
    return [f"Recordings were left out with {joined(said)}."] if said else []


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
            "baseline; all choices were made within the training side."
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
