"""The optional tables beside the metrics: learning curves, decision curves, groups of people, places of embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Beside:
    """Tables that a study may lack; each has a column ``task``.

    Attributes
    ----------
    efficiency : DataFrame or None
        ``efficiency.parquet``: a metric by how many people were learned from.
    breakdown : DataFrame or None
        ``breakdown.parquet``: a metric of every site and sex.
    net_benefit : DataFrame or None
        ``net_benefit.parquet``: decision curves.
    places : DataFrame or None
        ``places.parquet``: people in the plane of the first two components of an embedding.
    """

    efficiency: pd.DataFrame | None = None
    breakdown: pd.DataFrame | None = None
    net_benefit: pd.DataFrame | None = None
    places: pd.DataFrame | None = None

    def of(self, table: str, task: str, metric: str | None = None) -> pd.DataFrame | None:
        """Return the rows of one task, and of one metric where it is named; None where there are none."""
        rows: pd.DataFrame | None = getattr(self, table)
        if rows is None:
            return None
        rows = rows[rows["task"] == task]
        if metric is not None:
            rows = rows[rows["metric"] == metric]
        return rows if len(rows) else None
