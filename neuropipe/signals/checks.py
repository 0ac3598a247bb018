"""Whether the image of an atlas and its table can belong together."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from neuropipe.errors import AtlasError
from neuropipe.signals import tables

log = logging.getLogger("neuropipe")

MIDLINE_MM = 2.0  # a centre nearer to the midline says nothing about its side


def labels_fit(labels: np.ndarray, table: pd.DataFrame, name: str, image: Path, path: Path | None) -> None:
    """Refuse a table that names labels which the image lacks, or that counts from 0 where the image counts from 1.

    Labels that only the image has are no regions: published images have stray voxels, and a table
    may choose. They are told in the log.

    Parameters
    ----------
    labels : int32 array (x, y, z)
        The label image.
    table : DataFrame
        The regions, with ``value`` and ``name``.
    name : str
        The atlas.
    image, path : Path
        Files of image and table, for the messages.
    """
    values, counts = np.unique(labels[labels != 0], return_counts=True)
    absent = table.loc[~table["value"].isin(values), "name"].tolist()
    if absent:
        raise AtlasError(
            f"The table of the atlas {name} names {len(absent)} regions that {image} does not have "
            f"({', '.join(absent[:5])}); table and image must belong together."
        )
    strays = ~np.isin(values, table["value"])
    if not strays.any():
        return
    first = None if path is None else tables.name_of_zero(path)
    if first is not None and values[strays].tolist() == [table["value"].max() + 1]:
        raise AtlasError(
            f"{path}: the table of the atlas {name} counts its regions from 0 ({first!r}), {image} counts from 1, so "
            "that every name would be one region off; add 1 to the column index."
        )
    some = ", ".join(f"{value} ({n} voxels)" for value, n in list(zip(values[strays], counts[strays], strict=True))[:5])
    log.info("Atlas %s: labels %s are not in its table and are no regions.", name, some)


def sides_fit(table: pd.DataFrame, centres: np.ndarray, name: str, image: Path) -> None:
    """Refuse an atlas whose left regions lie right of the midline: its image was stored with a wrong affine.

    Parameters
    ----------
    table : DataFrame
        The regions, with ``hemisphere`` and ``name``.
    centres : float64 array (region, 3)
        Their centres in the image, in mm; left is where x is negative.
    """
    side = table["hemisphere"].map({"L": -1.0, "R": 1.0}).to_numpy()
    lateral_mm = centres[:, 0] * side  # NaN for regions of no side
    wrong = lateral_mm < -MIDLINE_MM
    n_sided = int((np.abs(lateral_mm) > MIDLINE_MM).sum())
    if wrong.any() and wrong.sum() * 2 >= n_sided:
        worst = int(np.nanargmin(lateral_mm))
        raise AtlasError(
            f"{image} of the atlas {name}: {int(wrong.sum())} of {n_sided} regions lie on the other side of the "
            f"midline than their names say ({table['name'].iloc[worst]} at x = {centres[worst, 0]:.0f} mm; left is "
            "negative). Its affine is flipped or missing; save the image again with the right one."
        )
