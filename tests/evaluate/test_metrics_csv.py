"""metrics.csv: the same rows and numbers as metrics.parquet, what identifies a row first."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from neuropipe.evaluate import tables


def test_the_csv_has_every_row_column_and_digit_of_the_table() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "task": "age",
            "system": "a, b",
            "metric": "mae",
            "fold": "mean",
            "seed": seed,
            "value": value,
            "p_holm": value / 3,
        }
        for seed, value in zip([0, None, 2], rng.standard_normal(3) * 1e-7, strict=True)
    ]
    table = tables.frame(rows, tables.METRICS)
    read = pd.read_csv(io.StringIO(tables.to_csv(table)))
    assert set(read) == set(tables.METRICS) and list(read)[: len(tables.READABLE)] == tables.READABLE
    assert list(read["value"]) == list(table["value"]) and list(read["p_holm"]) == list(table["p_holm"])
    assert list(read["system"]) == ["a, b"] * 3
    assert read["seed"].isna().tolist() == [False, True, False]
    assert read["ci_low"].isna().all()


def test_what_identifies_a_row_stands_before_its_numbers() -> None:
    first = tables.READABLE.index("value")
    assert {"task", "system", "readout", "seed", "fold", "metric"} <= set(tables.READABLE[:first])
