"""Atlases of one's own, written on the fly, and the published ones where they are on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from neuropipe.config import AtlasFile

SPACE = "MNI152NLin6Asym"
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def own(folder: Path, labels: np.ndarray, table: dict[str, Any] | None = None, **fields: Any) -> AtlasFile:
    """Write an atlas of one's own."""
    name = fields.pop("id", "mine")
    image, tsv = folder / f"{name}.nii.gz", folder / f"{name}.tsv"
    nib.save(nib.Nifti1Image(labels, fields.pop("affine", AFFINE)), image)
    present = [int(n) for n in np.unique(np.rint(labels)) if n > 0]
    pd.DataFrame(table or {"index": present, "name": [f"{name}-{n}" for n in present]}).to_csv(
        tsv, sep="\t", index=False
    )
    return AtlasFile(**{"id": name, "image": str(image), "table": str(tsv), "space": SPACE} | fields)


def published_parts(data: Path, folder: Path) -> list[AtlasFile]:
    """The three sources of the 457 regions; in the first, cortex is 51..450 behind 50 subcortical regions."""
    source = data / "atlases"
    cortex = pd.read_csv(source / "Schaefer2018_400Parcels_7Networks_order_v0143_names.tsv", sep="\t")
    cortex = cortex.assign(label=cortex["index"], index=cortex["index"] + 50)
    cortex.to_csv(folder / "cortex.tsv", sep="\t", index=False)
    names = (source / "Tian_Subcortex_S3_3T_label.txt").read_text().split()
    pd.DataFrame({"index": range(1, 51), "name": names}).to_csv(folder / "subcortex.tsv", sep="\t", index=False)
    combined = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3_MNI152NLin6Asym_2mm.nii.gz"
    parts = [
        ("schaefer400-7n", combined, folder / "cortex.tsv"),
        ("tian-s3", "Tian_Subcortex_S3_3T_1mm.nii.gz", folder / "subcortex.tsv"),
        ("buckner7", "atl-Buckner7_space-MNI_dseg.nii.gz", source / "atl-Buckner7.tsv"),
    ]
    return [AtlasFile(id=i, image=str(source / image), table=str(table), space=SPACE) for i, image, table in parts]
