"""A derivatives folder of a few voxels, written run by run, with every mistake that real ones make on request."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import yaml

SHAPE = (6, 5, 4)
AFFINE = np.diag([20.0, 20.0, 20.0, 1.0])
AFFINE[:3, 3] = [-50, -40, -30]
SPACE = "MNI152NLin6Asym"
N_REGIONS = 5
MOTION = [axis + n for axis in ("trans_", "rot_") for n in "xyz"]


def atlas_labels() -> np.ndarray:
    """Five slabs along the second axis, each 2 x 1 x 4 voxels, away from the border."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    for region in range(N_REGIONS):
        labels[2:4, region, :] = region + 1
    return labels


def save(
    path: Path, data: np.ndarray, t_r: float | None = None, unit: str = "sec", affine: np.ndarray = AFFINE
) -> None:
    """Write an image; a time axis gets its repetition time and unit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=4)
    if t_r is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
        image.header.set_xyzt_units("mm", unit)
    nib.save(image, path)


@dataclass
class TinyStudy:
    """A study below `root`: ``derivatives``, ``participants.tsv``, an atlas, and ``config.yaml``."""

    root: Path
    people: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The derivatives."""
        return self.root / "derivatives"

    def func(self, subject: str, session: str | None = None) -> Path:
        """The folder of a subject's runs."""
        return self.data / f"sub-{subject}" / (f"ses-{session}" if session else "") / "func"

    def add(
        self,
        subject: str,
        *,
        session: str | None = None,
        task: str = "rest",
        run: str | None = None,
        space: str = SPACE,
        res: str | None = None,
        n_volumes: int = 150,
        t_r: float = 2.0,
        header_t_r: float | None = None,
        unit: str = "sec",
        sidecar: dict[str, Any] | None = None,
        confounds: pd.DataFrame | None = None,
        row: bool = True,
    ) -> str:
        """Write one run with mask, confounds, sidecar and participants row; return the image's path below `data`."""
        keys = {"sub": subject, "ses": session, "task": task, "run": run}
        stem = "_".join(f"{k}-{v}" for k, v in keys.items() if v is not None)
        grid = f"_space-{space}" + (f"_res-{res}" if res else "")
        folder = self.func(subject, session)
        rng = np.random.default_rng(zlib.crc32(stem.encode()))
        data = 1000 + 20 * rng.normal(size=(*SHAPE, n_volumes)).cumsum(axis=3) / np.sqrt(n_volumes)
        image = folder / f"{stem}{grid}_desc-preproc_bold.nii.gz"
        save(image, data.astype(np.float32), header_t_r if header_t_r is not None else t_r, unit)
        save(folder / f"{stem}{grid}_desc-brain_mask.nii.gz", np.ones(SHAPE, dtype=np.uint8))
        about = {"RepetitionTime": t_r} if sidecar is None else sidecar
        image.with_name(image.name.replace(".nii.gz", ".json")).write_text(json.dumps(about))
        if confounds is None:
            confounds = confounds_table(rng, n_volumes)
        confounds.to_csv(folder / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
        if row:
            self.people.setdefault(f"sub-{subject}", {"age": 20 + len(self.people), "site": "A"})
        return str(image.relative_to(self.data))

    def write(self, n_chunks: int = 2, **sections: Any) -> Path:
        """Write participants.tsv, the atlas and config.yaml; return the latter's path."""
        table = pd.DataFrame([{"participant_id": key, **values} for key, values in self.people.items()])
        table.to_csv(self.root / "participants.tsv", sep="\t", index=False)
        atlas = self.root / "atlas" / "toy.nii.gz"
        if not atlas.exists():
            save(atlas, atlas_labels())
            names = pd.DataFrame({"index": range(1, N_REGIONS + 1), "name": [f"region-{n}" for n in range(N_REGIONS)]})
            names.to_csv(atlas.with_name("toy.tsv"), sep="\t", index=False)
        dataset = {"kind": "fmriprep", "path": str(self.data), "participants": str(self.root / "participants.tsv")}
        dataset |= {"n_chunks": n_chunks} | sections.pop("dataset", {})
        own = {"id": "toy", "image": str(atlas), "table": str(atlas.with_name("toy.tsv")), "space": SPACE}
        config = {"study": "tiny", "datasets": {"tiny": dataset}, "atlases": [own], **sections}
        path = self.root / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path


def confounds_table(rng: np.random.Generator, n_volumes: int, fd_mm: float = 0.1) -> pd.DataFrame:
    """Six motion parameters, slow and small, with their expansions, tissue signals and displacement."""
    table = {}
    for name in (*MOTION, "csf", "white_matter", "global_signal"):
        values = rng.normal(size=n_volumes).cumsum()
        derivative = np.concatenate([[np.nan], np.diff(values)])
        table |= {name: values, f"{name}_derivative1": derivative}
        table |= {f"{name}_power2": values**2, f"{name}_derivative1_power2": derivative**2}
    table["framewise_displacement"] = np.concatenate([[np.nan], np.full(n_volumes - 1, fd_mm)])
    table["std_dvars"] = np.concatenate([[np.nan], np.ones(n_volumes - 1)])
    return pd.DataFrame(table)
