"""Atlases of another template space than the images: refused with what to do, or warped when asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tiny_study import AFFINE, SPACE, TinyStudy, atlas_labels, save

from neuropipe.cli import main
from neuropipe.errors import AtlasError
from neuropipe.signals import atlases, cache, catalogue
from neuropipe.stages import index, parcellate

OTHER = "MNI152NLin2009cAsym"
STEP_MM = 20.0  # one voxel of the tiny study
LOOSE = {"clean": {"strategy": "none"}, "exclude": {"min_degrees_of_freedom": None, "min_duration_s": None}}


@pytest.fixture(autouse=True)
def nothing_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in (("HOME", "home"), ("NEUROPIPE_CACHE", "cache"), ("TEMPLATEFLOW_HOME", "templateflow")):
        monkeypatch.setenv(name, str(tmp_path / folder))


def parcellated(study: TinyStudy, **sections: Any) -> dict[str, Any]:
    config = str(study.write(n_chunks=1, **LOOSE, **sections))
    results = study.root / "results" / "tiny"
    index.run(config=config, dataset="tiny", output=str(results / "index" / "tiny"))
    receipt = results / "receipts" / "tiny" / "parcellate-00.json"
    manifest = str(results / "index" / "tiny" / "chunk-00.tsv")
    parcellate.run(config=config, dataset="tiny", manifest=manifest, output=str(receipt), derivatives=None, workers=1)
    return json.loads(receipt.read_text())


def series(study: TinyStudy, receipt: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the series of the only product, and its sidecar."""
    path = study.root / "results" / "tiny" / receipt["products"][0]["path"]
    return np.load(path), json.loads(path.with_suffix(".json").read_text())


def write_transform(step_mm: float) -> Path:
    """A shift along y: what the images' space has at y, the atlas's space has at y + step (LPS counts backwards)."""
    path = cache.templateflow_folder() / catalogue.transform(SPACE, OTHER).file
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("TransformGroup/0")
        group["TransformType"] = np.array([b"AffineTransform_double_3_3"], dtype=h5py.string_dtype("ascii"))
        group["TransformParameters"] = np.array([*np.eye(3).ravel(), 0, -step_mm, 0])
        group["TransformFixedParameters"] = np.zeros(3)
    return path


def moved_atlas(study: TinyStudy) -> None:
    """The tiny atlas as another template has it: a voxel further to the front."""
    affine = AFFINE.copy()
    affine[1, 3] += STEP_MM
    study.write()
    save(study.root / "atlas" / "toy.nii.gz", atlas_labels(), affine=affine)


def test_a_warped_atlas_gives_the_series_of_one_made_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    plain = TinyStudy(tmp_path / "there")
    plain.add("01")
    expected, _ = series(plain, parcellated(plain))
    (tmp_path / "warped").mkdir()
    study = TinyStudy(tmp_path / "warped")
    study.add("01", space=OTHER)
    moved_atlas(study)
    path = write_transform(STEP_MM)
    warped = {"warp": True, "dataset": {"select": {"space": OTHER}}}
    found, about = series(study, parcellated(study, **warped))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert list(about["WarpedAtlases"]) == ["toy"]
    # Another transform makes another product; the same one is not worked on again.
    stamp = about["RunFingerprint"]
    assert series(study, parcellated(study, **warped))[1]["RunFingerprint"] == stamp
    write_transform(0.0)
    other, about = series(study, parcellated(study, **warped))
    assert about["RunFingerprint"] != stamp
    np.testing.assert_allclose(other[:, :-1], expected[:, 1:], atol=1e-6)  # each region reads its neighbour
    assert np.isnan(other[:, -1]).all()
    path.unlink()
    with pytest.raises(AtlasError, match=f"neuropipe atlas fetch {SPACE}-to-{OTHER}"):
        parcellated(study, **warped)


def test_images_in_the_atlases_own_space_need_no_transform(tmp_path: Path) -> None:
    study = TinyStudy(tmp_path)
    study.add("01")
    assert series(study, parcellated(study, warp=True))[1]["WarpedAtlases"] == {}


def test_without_warp_the_way_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = TinyStudy(tmp_path)
    study.add("01", space=OTHER)
    selected = {"dataset": {"select": {"space": OTHER}}}
    receipt = parcellated(study, **selected)
    (row,) = receipt["excluded"]
    assert row["reason"] == "wrong space" and f"toy has no build in {OTHER}" in row["detail"]
    assert "set warp: true" in row["detail"]
    config = str(study.write(**LOOSE, **selected, warp=True))
    manifest = str(study.root / "results" / "tiny" / "index" / "tiny" / "chunk-00.tsv")
    arguments = ["--manifest", manifest, "--output", str(tmp_path / "a" / "b" / "receipt.json")]
    assert main(["parcellate", "--config", config, "--dataset", "tiny", *arguments]) == 2
    assert f"neuropipe atlas fetch {SPACE}-to-{OTHER}" in capsys.readouterr().err


def test_the_build_in_the_space_of_the_images_is_named() -> None:
    told = atlases.advice(["schaefer400-7n", "tian-s3", "buckner7", "mine"], OTHER)
    assert "schaefer400-7n-2009c instead of schaefer400-7n" in told and "tian-s3-2009c instead of tian-s3" in told
    assert f"buckner7, mine has no build in {OTHER}" in told and "warp: true" in told
    assert "has no build" not in atlases.advice(["tian-s3"], OTHER)


def test_with_warp_atlases_of_two_spaces_may_be_named() -> None:
    mixed = ["schaefer400-7n-2009c", "tian-s3-2009c", "buckner7"]
    assert atlases.common_space(mixed, warp=True) == OTHER
    with pytest.raises(AtlasError, match="or set warp: true"):
        atlases.common_space(mixed)
