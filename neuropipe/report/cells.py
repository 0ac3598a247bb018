"""Single cells of a table as plain Python values."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def number(row: dict[str, Any], column: str) -> float:
    """Return a cell as a float; NaN where it is missing."""
    value = row.get(column)
    return math.nan if value is None or value is pd.NA else float(value)


def word(row: dict[str, Any], column: str) -> str:
    """Return a cell as text; empty where it is missing."""
    value = row.get(column)
    return "" if value is None or pd.isna(value) else str(value)
