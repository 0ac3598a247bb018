"""The metrics as a CSV that people read: the same rows and numbers, what identifies a row first."""

from __future__ import annotations

import pandas as pd

from neuropipe.evaluate.tables import METRICS

FIRST = [
    *("task", "dataset", "target", "target_type", "system", "readout", "seed", "split_scheme", "repeat", "fold"),
    *("metric", "value", "ci_low", "ci_high", "ci_method", "null_mean", "p_perm"),
    *("reference", "delta", "delta_ci_low", "delta_ci_high", "t_nb", "p_nb", "p_holm"),
    *("n_train", "n_val", "n_test", "prevalence", "pretrain_datasets", "pretrain_overlap_n"),
]
COLUMNS = FIRST + [name for name in METRICS if name not in FIRST]


def to_csv(metrics: pd.DataFrame) -> str:
    """Return ``metrics.csv``: every column of the table, numbers in full, empty where nothing is known."""
    return metrics[COLUMNS].to_csv(index=False, lineterminator="\n")
