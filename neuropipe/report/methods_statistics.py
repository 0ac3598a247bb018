"""Sentences on statistics, from what the table of metrics says was computed."""

from __future__ import annotations

import pandas as pd

from neuropipe.report.asides import DEPENDENCE
from neuropipe.report.methods_data import joined
from neuropipe.report.read import Results
from neuropipe.report.references import cite
from neuropipe.report.tables import NAMES, PRIMARY

PERFECT = (0.0, 1.0)  # AUROCs without a variance to count with


def statistics(results: Results) -> list[str]:
    """Return how performance was measured, how sure it is, and what was compared."""
    metrics = results.metrics
    if metrics.empty:
        return []
    return [
        *_measures(results, metrics),
        *_intervals(results, metrics),
        *_comparisons(metrics),
        *_null(results, metrics),
        *_more(results, metrics),
    ]


def _folded(metrics: pd.DataFrame) -> pd.Series:
    """Return which rows are of tasks that are judged over several folds, which alone are pooled too."""
    return metrics["task"].isin(metrics.loc[metrics["fold"] == "pooled", "task"].unique())


def _measures(results: Results, metrics: pd.DataFrame) -> list[str]:
    judged, measures = set(metrics["task"]), {}
    for name, task in results.config.tasks.items():
        if name in judged:
            measures.setdefault(_spoken(NAMES[PRIMARY[task.kind]]), []).append(name)
    said = []
    if measures:
        named = joined([f"the {measure} for {joined(tasks)}" for measure, tasks in measures.items()])
        said.append(f"The primary measure was {named}.")
    if metrics["metric"].isin(["brier", "brier_skill"]).any():
        said.append(f"Probabilities were judged by the Brier score {cite('brier1950')}")
        said[-1] += (
            f" and by the calibration error in bins of equal size {cite('guo2017')}."
            if (metrics["metric"] == "ece").any()
            else "."
        )
    if _folded(metrics).any():
        said.append("Over folds the value is the mean, since scores of different folds have no common scale.")
    return said


def _spoken(name: str) -> str:
    return name if name[:2].isupper() else name[0].lower() + name[1:]


def _intervals(results: Results, metrics: pd.DataFrame) -> list[str]:
    methods = set(metrics["ci_method"].dropna()) if "ci_method" in metrics else set()
    said = []
    if any(name in methods for name in ("bootstrap", "bootstrap_stratified")):
        strata = ", within classes for the AUROC" if "bootstrap_stratified" in methods else ""
        said.append(
            f"95 % intervals on one test set are percentiles of {results.config.evaluate.bootstrap} bootstrap draws of "
            f"people{strata} {cite('efron1993')}."
        )
    if "exact_pairs" in methods:
        said.append(f"Of perfect rankings the interval is the exact binomial one {cite('clopper1934')}.")
    if "corrected_resampled" in methods:
        said.append(
            "95 % intervals over folds use the variance that is corrected for overlapping training sides "
            f"{cite('nadeau2003')}."
        )
    return said


def _comparisons(metrics: pd.DataFrame) -> list[str]:
    """Return how systems were compared: on one test set by DeLong or paired draws, over folds by corrected tests."""
    compared = metrics[metrics["delta_ci_low"].notna()] if "delta_ci_low" in metrics else metrics.iloc[:0]
    if compared.empty:
        return []
    said = ["Models were compared with the baselines on the same people."]
    single = compared[~_folded(metrics)[compared.index]]
    areas = single[single["metric"] == "auroc"]
    perfect = areas["value"].isin(PERFECT) | (areas["value"] - areas["delta"]).isin(PERFECT)
    if (~perfect).any():
        said.append(f"Differences of AUROCs on one test set have DeLong's interval {cite('delong1988')}.")
    if perfect.any():
        said.append(f"Where one of two rankings is perfect, it was recovered from both intervals {cite('zou2008')}.")
    if (single["metric"] != "auroc").any():
        said.append("Other differences on one test set have paired bootstrap intervals.")
    if "p_nb" in metrics and metrics["p_nb"].notna().any():
        said.append(f"Over folds the corrected resampled t test was used {cite('nadeau2003')}.")
    if "p_holm" in metrics and metrics["p_holm"].notna().any():
        said.append(f"Its p-values were corrected over the tasks and readouts of a system {cite('holm1979')}.")
    return said


def _null(results: Results, metrics: pd.DataFrame) -> list[str]:
    """Return how labels were shuffled: of people with the readout fitted anew, of clips with the decoder as it is."""
    if "p_perm" not in metrics:
        return []
    tested = metrics[metrics["p_perm"].notna() & ~metrics["metric"].str.startswith(DEPENDENCE)]
    clips = tested["target_type"] == "decoding"
    n = results.config.evaluate.permutations
    said = []
    if (~clips).any():
        said.append(
            f"Chance was measured by {n} permutations of the labels within site, with the whole readout fitted anew "
            f"{cite('phipson2010')}."
        )
    if clips.any():
        said.append(
            f"Chance of clips was measured by {n} permutations of the labels among the clips of each test person, with "
            f"the decoder as it was {cite('phipson2010')}."
        )
    return said


def _more(results: Results, metrics: pd.DataFrame) -> list[str]:
    """Return what further rows and tables of the study show."""
    names, said = set(metrics["metric"]), []
    if "temperature" in metrics and metrics["temperature"].notna().any():
        said.append(
            f"Probabilities of readouts were calibrated on validation people by a temperature {cite('guo2017')} and a "
            f"bias {cite('platt1999')}."
        )
    if "threshold_source" in metrics and metrics["threshold_source"].fillna("").str.contains("validation").any():
        said.append("Thresholds of classification were chosen on validation people.")
    if _filled(results, "net_benefit.parquet"):
        said.append(f"What acting on a probability would be worth is shown by decision curves {cite('vickers2006')}.")
    if _filled(results, "drivers.parquet"):
        said.append(f"What drives a readout is shown as its pattern, not as its weights {cite('haufe2014')}.")
    if dependence := sorted(name.removeprefix(DEPENDENCE) for name in names if name.startswith(DEPENDENCE)):
        said.append(
            "How far predictions still depend on confounds among people with the same target was measured for "
            f"{joined([name.replace('_', ' ') for name in dependence])}."
        )
    if "seed_icc" in names:
        said.append(f"Agreement of seeds is the intraclass correlation ICC(2,1) {cite('shrout1979')}.")
    if "seed_kappa" in names:
        said.append(f"Agreement of seeds on classes is Cohen's kappa {cite('cohen1960')}.")
    if "identification_top1" in names:
        said.append(f"How well a person's second session is told was measured by identification {cite('finn2015')}.")
    if "site_balanced_accuracy" in names:
        said.append("How well the site can be told from features was measured by balanced accuracy.")
    return said


def _filled(results: Results, table: str) -> bool:
    """Return whether a table of the study is there and has rows."""
    path = results.study.root / table
    return path.is_file() and len(pd.read_parquet(path, columns=["task"])) > 0
