"""A CAT12 folder of a few voxels, written person by person, with every mistake that real ones make on request."""

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

from neuropipe.stages import collect, index, shard, volumes

SHAPE = (9, 11, 8)
AFFINE = np.diag([1.5, 1.5, 1.5, 1.0])
AFFINE[:3, 3] = [-6, -7.5, -4.5]
SPACE = "MNI152NLin2009cAsym"
N_REGIONS = 3
VOXEL_ML = 1.5**3 / 1000


def atlas_labels() -> np.ndarray:
    """Three slabs along the second axis, within the tissue."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    for region in range(N_REGIONS):
        labels[2:7, 2 + 2 * region : 4 + 2 * region, 2:6] = region + 1
    return labels


def tissue(name: str) -> np.ndarray:
    """A block of grey matter: what all people share, and a person's own, the same for the same name."""
    shared, own = np.random.default_rng(0), np.random.default_rng(zlib.crc32(name.encode()))
    array = np.zeros(SHAPE, dtype=np.float32)
    array[1:8, 1:9, 1:7] = shared.uniform(0.3, 0.9, size=(7, 8, 6)) + own.uniform(0, 0.2, size=(7, 8, 6))
    return array


@dataclass
class TinyMaps:
    """A study below `root`: ``cat12``, ``participants.tsv``, an atlas, and ``config.yaml``."""

    root: Path
    people: list[str] = field(default_factory=list)

    @property
    def results(self) -> Path:
        """Products."""
        return self.root / "results" / "tiny"

    def add(
        self,
        subject: str,
        array: np.ndarray | None = None,
        *,
        affine: np.ndarray = AFFINE,
        prefix: str = "mwp1",
        tiv_ml: float | None = 1400.0,
        iqr: float = 2.0,
    ) -> Path:
        """Write one map with its report and participants row; return the image's path."""
        folder = self.root / "cat12" / f"sub-{subject}" / "anat"
        path = folder / "mri" / f"{prefix}sub-{subject}_T1w.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(tissue(subject) if array is None else array, affine), path)
        if tiv_ml is not None:
            report = folder / "report" / f"cat_sub-{subject}_T1w.xml"
            report.parent.mkdir(exist_ok=True)
            report.write_text(
                f"<S><subjectmeasures><vol_TIV>{tiv_ml}</vol_TIV></subjectmeasures>"
                f"<qualityratings><IQR>{iqr}</IQR></qualityratings></S>"
            )
        if f"sub-{subject}" not in self.people:
            self.people.append(f"sub-{subject}")
        return path

    def write(self, n_chunks: int = 1, atlases: bool = True, **sections: Any) -> Path:
        """Write participants.tsv, the atlas and config.yaml; return the latter's path."""
        table = pd.DataFrame({"participant_id": self.people, "age": np.arange(20, 20 + len(self.people))})
        table.to_csv(self.root / "participants.tsv", sep="\t", index=False)
        image = self.root / "atlas" / "toy.nii.gz"
        image.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(atlas_labels(), AFFINE), image)
        names = pd.DataFrame({"index": range(1, N_REGIONS + 1), "name": [f"slab-{n}" for n in range(N_REGIONS)]})
        names.to_csv(image.with_name("toy.tsv"), sep="\t", index=False)
        dataset = {"kind": "cat12", "path": str(self.root / "cat12"), "n_chunks": n_chunks}
        dataset |= {"participants": str(self.root / "participants.tsv")} | sections.pop("dataset", {})
        own = {"id": "toy", "image": str(image), "table": str(image.with_name("toy.tsv")), "space": SPACE}
        content = {"study": "tiny", "datasets": {"tiny": dataset}, "atlases": [own] if atlases else []} | sections
        path = self.root / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def index(self) -> pd.DataFrame:
        """Index the dataset; return what was left out."""
        folder = self.results / "index" / "tiny"
        index.run(config=str(self.root / "config.yaml"), dataset="tiny", output=str(folder))
        return pd.read_csv(folder / "excluded.tsv", sep="\t")

    def prepare(self, chunk: int = 0, workers: int = 1) -> dict[str, Any]:
        """Run the stage on one chunk; return its receipt."""
        receipt = self.receipt("volumes", chunk)
        volumes.run(
            config=str(self.root / "config.yaml"),
            dataset="tiny",
            manifest=str(self.results / "index" / "tiny" / f"chunk-{chunk:02d}.tsv"),
            output=str(receipt),
            derivatives=None,
            workers=workers,
        )
        return json.loads(receipt.read_text())

    def line(self, n_chunks: int = 1, **sections: Any) -> Path:
        """Take the study from index to collect; return the folder of shards."""
        config = self.write(n_chunks, **sections)
        self.index()
        for chunk in range(n_chunks):
            self.prepare(chunk)
            shard.run(
                config=config,
                dataset="tiny",
                receipt=self.receipt("volumes", chunk),
                output=self.receipt("shard", chunk),
            )
        folder = self.results / "shards" / "tiny"
        receipts = [self.receipt("shard", chunk) for chunk in range(n_chunks)]
        collect.run(dataset="tiny", receipts=receipts, output=folder / "manifest.parquet")
        return folder

    def receipt(self, stage: str, chunk: int = 0) -> Path:
        """Path of a stage's receipt."""
        return self.results / "receipts" / "tiny" / f"{stage}-{chunk:02d}.json"

    def product(self, subject: str, suffix: str = "gm") -> tuple[np.ndarray, dict[str, Any]]:
        """Return a person's array in its unit, and its sidecar."""
        path = self.results / f"derivatives/tiny/sub-{subject}/anat/sub-{subject}_desc-ready_{suffix}.npy"
        about = json.loads(path.with_suffix(".json").read_text())
        return np.load(path).astype(float) * about["Scale"] + about["Shift"], about
