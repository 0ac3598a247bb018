"""Surface and CIFTI runs from a derivatives folder to shards, with the people and confounds of a volume study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from surface_files import (
    LEFT,
    MEDIAL_WALL,
    N_VERTICES,
    RIGHT,
    cortex,
    grayordinates,
    save_dlabel,
    save_dtseries,
    save_func,
    save_label,
)
from tiny_study import confounds_table

from neuropipe.bids.index import read_tsv
from neuropipe.config import parse
from neuropipe.errors import ConfigError, InputError
from neuropipe.shards.read import Shards
from neuropipe.signals.regions import Regions
from neuropipe.stages import collect, index, parcellate, shard

N_VOLUMES, T_R, N_REGIONS = 200, 2.0, 4
LABELS = np.repeat([1, 2], N_VERTICES // 2)  # of the left hemisphere; the right has 3 and 4
NAMES = {n: f"7Networks_{'LR'[n > 2]}H_{net}_1" for n, net in enumerate(("Vis", "Default") * 2, start=1)}


def planted() -> np.ndarray:
    """One sine of the pass-band per region, (time, region)."""
    times = np.arange(N_VOLUMES) * T_R
    return np.stack([np.sin(2 * np.pi * (0.02 + 0.02 * n) * times) for n in range(N_REGIONS)], axis=1)


class SurfaceStudy:
    """A derivatives folder of one kind of surface data."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.kind = root, kind
        self.func = root / "derivatives" / "sub-01" / "func"
        self.space = {"cifti": "fsLR", "gifti": "fsaverage5"}[kind]
        self.table = confounds_table(np.random.default_rng(0), N_VOLUMES)

    @property
    def images(self) -> list[Path]:
        if self.kind == "cifti":
            return [self.func / "sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii"]
        return [self.func / f"sub-01_task-rest_hemi-{side}_space-fsaverage5_bold.func.gii" for side in "LR"]

    def add(self, t_r: float | None = T_R) -> None:
        """Write a run whose vertices are the region's sine under drift, noise and motion."""
        rng, n = np.random.default_rng(1), 2 * N_VERTICES
        region = np.concatenate([LABELS, LABELS + 2]) - 1
        motion = 5 * self.table["trans_x"].to_numpy()[:, None] + 0.2 * np.arange(N_VOLUMES)[:, None]
        data = 1000 + 10 * planted()[:, region] + motion + 2 * rng.normal(size=(N_VOLUMES, n))
        data = data.astype(np.float32)
        if self.kind == "cifti":
            columns = grayordinates()
            vertices = [columns.vertex[columns.name == side] + i * N_VERTICES for i, side in enumerate((LEFT, RIGHT))]
            voxels = 500 + rng.normal(size=(N_VOLUMES, 4)).astype(np.float32)
            data = np.concatenate([data[:, np.concatenate(vertices)], voxels], axis=1)
            save_dtseries(self.images[0], data, columns, t_r or 0.0)
        else:
            for path, half, side in zip(self.images, np.split(data, 2, axis=1), ("Left", "Right"), strict=True):
                save_func(path, half, t_r, f"Cortex{side}")
        sidecar = self.images[0].name.replace(".dtseries.nii", ".json").replace(".func.gii", ".json")
        (self.func / sidecar).write_text(json.dumps({"RepetitionTime": T_R}))
        confounds = self.func / "sub-01_task-rest_desc-confounds_timeseries.tsv"
        self.table.to_csv(confounds, sep="\t", index=False, na_rep="n/a")

    def write(self, **select: Any) -> str:
        """Write participants, atlas and configuration."""
        (self.root / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\n")
        if self.kind == "cifti":
            values = np.concatenate([LABELS, LABELS + 2])
            image: Any = str(save_dlabel(self.root / "own.dlabel.nii", values, cortex(LEFT) + cortex(RIGHT), NAMES))
        else:
            image = [
                str(save_label(self.root / f"{side}.label.gii", LABELS + 2 * i, NAMES, f"Cortex{side}"))
                for i, side in enumerate(("Left", "Right"))
            ]
        dataset = {"kind": "fmriprep", "path": str(self.root / "derivatives"), "n_chunks": 1, "select": select}
        dataset["participants"] = str(self.root / "participants.tsv")
        atlas = {"id": "own", "image": image, "space": self.space}
        config = self.root / "config.yaml"
        clean = {"strategy": {"columns": ["trans_x"]}}
        config.write_text(
            yaml.safe_dump({"study": "s", "datasets": {"d": dataset}, "atlases": [atlas], "clean": clean})
        )
        return str(config)

    def index(self, **select: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Index; return what is usable and what was left out."""
        output = self.root / "s" / "index" / "d"
        index.run(config=self.write(**select), dataset="d", output=str(output))
        return read_tsv(output / "runs.tsv"), read_tsv(output / "excluded.tsv")

    def parcellate(self) -> dict[str, Any]:
        """Parcellate what is indexed; return the receipt."""
        receipt, manifest = self.root / "s/receipts/d/parcellate-00.json", self.root / "s/index/d/chunk-00.tsv"
        about = {"dataset": "d", "derivatives": None, "workers": 1}
        config = str(self.root / "config.yaml")
        parcellate.run(config=config, manifest=str(manifest), output=str(receipt), **about)
        return json.loads(receipt.read_text())


@pytest.fixture(params=["cifti", "gifti"])
def study(tmp_path: Path, request: pytest.FixtureRequest) -> SurfaceStudy:
    made = SurfaceStudy(tmp_path, request.param)
    made.add()
    return made


def test_from_files_to_shards(study: SurfaceStudy) -> None:
    """Each region's planted sine comes back, whatever motion and drift it came in with."""
    runs, excluded = study.index()
    assert excluded.empty and len(runs) == 1
    row = runs.iloc[0]
    assert (row["run_id"], row["space"], row["mask"]) == ("sub-01_task-rest", study.space, "n/a")
    assert (row["t_r"], row["n_volumes"]) == ("2.0", "200")
    assert row["image"] == f"sub-01/func/{study.images[0].name}"
    receipt = study.parcellate()
    assert not receipt["excluded"]
    path = study.root / "s" / receipt["products"][0]["path"]
    series, about = np.load(path), json.loads(path.with_suffix(".json").read_text())
    for n in range(N_REGIONS):
        assert np.corrcoef(series[:, n], planted()[:, n])[0, 1] > 0.97
    names = {image.name for image in study.images} | {"sub-01_task-rest_desc-confounds_timeseries.tsv"}
    assert {Path(name).name for name in about["Inputs"]} == names
    coverage = pd.read_csv(path.with_name(path.name.replace("timeseries.npy", "coverage.tsv")), sep="\t")
    share = 1 - len(MEDIAL_WALL) / 20 if study.kind == "cifti" else 1  # the wall lies in the first region of a side
    assert coverage["coverage"].tolist() == [share, 1, share, 1]
    regions = Regions.read(study.root / "s/derivatives/d/regions.tsv").table
    assert regions["network"].tolist() == ["Vis", "Default"] * 2 and regions["hemisphere"].tolist() == list("LLRR")

    packed = study.root / "s/receipts/d/shard-00.json"
    config, source = study.root / "config.yaml", study.root / "s/receipts/d/parcellate-00.json"
    shard.run(config=config, dataset="d", receipt=source, output=packed)
    folder = study.root / "s/shards/d"
    collect.run(dataset="d", receipts=[packed], output=folder / "manifest.parquet")
    sample = Shards(folder)
    assert len(sample.manifest) == 1 and sample.manifest.iloc[0]["n_timepoints"] == N_VOLUMES


def test_a_changed_second_file_is_noticed(study: SurfaceStudy) -> None:
    study.index()
    image = study.images[-1]
    image.write_bytes(image.read_bytes() + b" ")
    assert study.parcellate()["excluded"][0]["reason"] == "changed since index"


def test_truncated_files_are_left_out(tmp_path: Path) -> None:
    """CIFTI's length is known at once; GIFTI's XML ends too early, which is known when it is read."""
    gifti, cifti = (SurfaceStudy(tmp_path / kind, kind) for kind in ("gifti", "cifti"))
    for study in (gifti, cifti):
        study.add()
        content = study.images[-1].read_bytes()
        study.images[-1].write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=r"truncated image: .*dtseries.nii: expected \d+ bytes, found \d+"):
        cifti.index()
    gifti.index()
    row = gifti.parcellate()["excluded"][0]
    assert row["reason"] == "truncated image" and row["detail"].startswith(gifti.images[-1].name)


def spoiled(study: SurfaceStudy, spoil: Callable[[SurfaceStudy], None], match: str) -> None:
    spoil(study)
    with pytest.raises(InputError, match=match):
        study.index()


def test_a_missing_hemisphere_is_named(tmp_path: Path) -> None:
    study = SurfaceStudy(tmp_path, "gifti")
    study.add()
    spoiled(study, lambda s: s.images[1].unlink(), "missing hemisphere: expected hemi-L and hemi-R of one run, found")


def test_a_hemisphere_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    study = SurfaceStudy(tmp_path, "gifti")
    study.add()
    study.images[1].unlink()
    study.images[1].symlink_to("../../.git/annex/objects/nowhere")
    spoiled(study, lambda s: None, "not fetched: .*hemi-R")


@pytest.mark.parametrize("t_r", [1.0, 3.0])
def test_the_repetition_time_is_checked(tmp_path: Path, t_r: float) -> None:
    for kind in ("cifti", "gifti"):
        study = SurfaceStudy(tmp_path / kind, kind)
        study.add(t_r)
        spoiled(study, lambda s: None, f"repetition time mismatch: .*the sidecar says 2.0 s, the header .*{t_r:g}")


def test_files_that_say_no_repetition_time_are_used(tmp_path: Path) -> None:
    for kind in ("cifti", "gifti"):
        study = SurfaceStudy(tmp_path / kind, kind)
        study.add(None)
        runs, _ = study.index()
        assert runs["t_r"].tolist() == ["2.0"]


def test_the_wrong_space_or_density_is_refused(study: SurfaceStudy) -> None:
    with pytest.raises(InputError, match="wrong space: expected space fsaverage6, found sub-01_task-rest"):
        study.index(space="fsaverage6")
    if study.kind == "cifti":
        with pytest.raises(InputError, match="wrong space: expected space fsLR, den 170k, found"):
            study.index(den="170k")
        runs, _ = study.index(den="91k")
        assert len(runs) == 1


def test_a_selection_that_nothing_fits_names_what_is_there(study: SurfaceStudy) -> None:
    with pytest.raises(
        InputError, match=r"no surface series of .*task other.* in sub-01; found sub-01_task-rest"
    ) as said:
        study.index(task="other")
    assert "raw images" not in str(said.value)


def test_two_densities_are_ambiguous(tmp_path: Path) -> None:
    study = SurfaceStudy(tmp_path, "cifti")
    study.add()
    (study.func / study.images[0].name.replace("91k", "170k")).write_bytes(study.images[0].read_bytes())
    spoiled(study, lambda s: None, "ambiguous: 2 files for one run: .*narrow select .*den: 91k")
    runs, _ = study.index(den="91k")
    assert runs["image"].tolist() == [f"sub-01/func/{study.images[0].name}"]


@pytest.mark.parametrize(
    ("atlas", "words"),
    [
        ({"image": "a.label.gii", "space": "fsaverage5"}, r"write image: \[left, right\]"),
        ({"image": ["a.label.gii", "b.nii.gz"], "space": "fsaverage5"}, "two images are the .label.gii or .annot"),
        ({"image": "a.dlabel.nii", "space": "MNI152NLin6Asym"}, "labels of vertices lie in fsLR"),
        (
            {"image": "a.nii.gz", "table": "a.tsv", "space": "fsLR"},
            "fsLR needs a .dlabel.nii, or two .label.gii or .annot",
        ),
        ({"image": "a.nii.gz", "space": "MNI152NLin6Asym"}, "needs table"),
        ({"image": "a.dlabel.nii", "space": "fsLR", "kind": "maps"}, "maps are images of voxels"),
    ],
)
def test_atlases_that_make_no_sense(atlas: dict[str, Any], words: str) -> None:
    content = {"study": "s", "datasets": {"d": {"kind": "fmriprep", "path": "x"}}, "atlases": [{"id": "a"} | atlas]}
    with pytest.raises(ConfigError, match=words):
        parse(content)


def test_vertices_are_neither_smoothed_nor_warped() -> None:
    content = {"study": "s", "datasets": {"d": {"kind": "fmriprep", "path": "x"}}, "clean": {"smoothing_fwhm_mm": 6}}
    content |= {"atlases": [{"id": "a", "image": "a.dlabel.nii", "space": "fsLR"}], "warp": True}
    with pytest.raises(ConfigError) as raised:
        parse(content)
    assert "clean.smoothing_fwhm_mm: vertices are not smoothed" in str(raised.value)
    assert "warp: atlases of vertices are not warped" in str(raised.value)
