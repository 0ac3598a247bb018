"""Sentences on preparation: regions, cleaning, maps and slices, and the limits beyond which a recording is left out."""

from __future__ import annotations

import pandas as pd

from neuropipe.config import Clean
from neuropipe.report.methods_data import counted, joined
from neuropipe.report.read import Results
from neuropipe.report.references import by_doi, cite
from neuropipe.signals.catalogue import CATALOGUE
from neuropipe.signals.strategies import STRATEGIES, censors

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
    "36P": (
        "36 parameters of head motion, white matter, cerebrospinal fluid and global signal",
        ("satterthwaite2013",),
    ),
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


def preparation(results: Results) -> list[str]:
    """Return how images became regional series, maps or slices."""
    return [*_regions(results), *_cleaning(results), *_volumes(results), *limits(results)]


def _with_content(results: Results, *contents: str) -> list[str]:
    """Return the datasets of some contents that the study prepared itself."""
    datasets = results.config.datasets.items()
    return [name for name, item in datasets if item.content in contents and not item.fetched]


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
    before = (
        f"smoothed ({clean.smoothing_fwhm_mm:g} mm full width at half maximum) and " if clean.smoothing_fwhm_mm else ""
    )
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
            joint = (
                "the confounds and the filter in one joint least squares fit"
                if with_confounds
                else "one least squares fit"
            )
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
    fitted = [
        f"Slices of {joined(images)} were fitted into {settings.image_size[0]} × {settings.image_size[1]} pixels."
    ]
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
