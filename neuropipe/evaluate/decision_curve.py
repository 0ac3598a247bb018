"""Decision curves: what treating by a prediction is worth, at every exchange rate of benefit and harm."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neuropipe.evaluate import tables
from neuropipe.evaluate.testsets import read_answer

THRESHOLDS = np.arange(1, 100) / 100


def net_benefit(y: np.ndarray, probability: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the net benefit (n_thresholds,) per person of treating from each threshold on.

    ``TP / N - FP / N * pt / (1 - pt)`` (Vickers & Elkin 2006): the threshold probability says how many people treated
    for nothing weigh as much as one who was missed.

    Parameters
    ----------
    y, probability : ndarray (n,)
        0 or 1, and the probability of 1.
    thresholds : ndarray (n_thresholds,)
        Between 0 and 1, both excluded.
    """
    treated = probability >= thresholds[:, None]
    return (treated * y).mean(axis=1) - (treated * (1 - y)).mean(axis=1) * thresholds / (1 - thresholds)


def decision_curves(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the decision curve of every run with probabilities, over the test people of all folds together.

    Probabilities are calibrated where validation people allow it. Columns of `tables.NET_BENEFIT`.
    """
    binary = predictions[predictions["target_type"] == "binary"]
    held = dict(iter(binary[binary["role"] == "validation"].groupby("run_id", sort=False)))
    parts = []
    for _, run in binary[binary["role"] == "test"].groupby(["task", "split", "run_id"], sort=True):
        scored = read_answer(run, held.get(run["run_id"].iloc[0])).scored
        if scored.probability is None:
            continue
        y, curve = scored.y[0], {"threshold": THRESHOLDS}
        curve |= {"net_benefit": net_benefit(y, scored.probability[0], THRESHOLDS)}
        curve |= {"treat_all": net_benefit(y, np.ones(len(y)), THRESHOLDS)}
        parts.append(pd.DataFrame(curve).assign(**run[tables.WHOSE].iloc[0].to_dict()))
    return tables.frame(pd.concat(parts, ignore_index=True) if parts else [], tables.NET_BENEFIT)
