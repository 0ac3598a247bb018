"""How much better a run is than another one on the same people, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from neuropipe.evaluate import uncertainty
from neuropipe.evaluate.estimates import PERFECT, Estimate, Run
from neuropipe.evaluate.metrics import Metric
from neuropipe.evaluate.testsets import TestSet


def resampled(run: Run, name: str, metric: Metric, references: list[Run]) -> Iterator[dict[str, Any]]:
    """Yield the mean difference over folds from each reference: corrected resampled interval and test."""
    people, ratio = [part.people for part in run.folds], run.test_train_ratio
    for reference in references:
        if name not in reference.metrics or people != [part.people for part in reference.folds]:
            continue
        differences = run.fold_values(name) - reference.fold_values(name)
        low, high = uncertainty.corrected_interval(differences, ratio)
        t, p = uncertainty.nadeau_bengio(differences, ratio) if metric.better else (np.nan, np.nan)
        yield {
            "reference": reference.facts["system"],
            "delta": differences.mean(),
            "delta_ci_low": low,
            "delta_ci_high": high,
            "t_nb": t,
            "p_nb": p,
        }


def paired(run: Run, part: TestSet, name: str, references: list[Run]) -> Iterator[dict[str, Any]]:
    """Yield the difference on one test set from each reference that answered for the same people."""
    mine = run.estimates[part.name, name]
    for reference in references:
        sets = [*reference.folds, *([reference.pooled] if reference.pooled else [])]
        twin = next((other for other in sets if other.name == part.name and other.people == part.people), None)
        if twin is None or name not in reference.metrics:
            continue
        other = reference.estimates[part.name, name]
        ranks = name == "auroc" and not run.averaged
        low, high, _ = difference_interval(part, twin, name, mine, other, ranks)
        compared = {"reference": reference.facts["system"], "delta": mine.value - other.value}
        yield compared | {"delta_ci_low": low, "delta_ci_high": high}


def difference_interval(
    part: TestSet, twin: TestSet, name: str, mine: Estimate, other: Estimate, ranks: bool
) -> tuple[float, float, str]:
    """Return the interval of a paired difference, and how it was made.

    DeLong's for AUROCs of unrelated people (`ranks`: of one run each, no mean over seeds), from the two exact intervals
    where one of them is perfect (it has no variance to count with), else by the bootstrap draws that both share.
    """
    if name == "auroc" and (mine.value in PERFECT or other.value in PERFECT):
        intervals = ((one.value, one.low, one.high) for one in (mine, other))
        return *uncertainty.recovered_difference(*intervals), "recovered"
    if ranks and part.units.max() + 1 == len(part.units):
        scores = np.concatenate([part.scored.prediction, twin.scored.prediction])
        return *uncertainty.delong_difference(part.scored.y[0], scores)[1:], "delong"
    return *uncertainty.percentile_interval(mine.bootstrap - other.bootstrap), "paired_bootstrap"
