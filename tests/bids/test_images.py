"""Folders of pictures: scans of slices in their order, always with a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doors_study import indexed, people, scans
from PIL import Image

from neuropipe import config
from neuropipe.bids import doors, images
from neuropipe.errors import InputError, RunExcluded
from neuropipe.volumes import pictures


def picture(path: Path, values: np.ndarray, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **settings)


def ramp(top: int, dtype: type = np.uint8, shape: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.linspace(0, top, np.prod(shape)).reshape(shape).astype(dtype)


def table(root: Path, *rows: str, header: str = "path,participant_id,session", name: str = "slices.csv") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join([header, *rows]) + "\n")


def found(root: Path, **changes: Any) -> tuple[dict, dict, dict]:
    return scans(root / "study", {"kind": "images", "path": str(root)} | changes)


def read(root: Path, row: dict, size: tuple[int, int] = (8, 8)):
    return images.read(root, row, size)


def test_one_scan_per_person_and_session_with_slices_in_natural_order(tmp_path: Path) -> None:
    for session, n in (("1", 11), ("2", 2)):
        for i in range(n):
            picture(tmp_path / f"a/ses{session}_slice{i}.png", ramp(20 * i + 10))
    rows = [f"a/ses{s}_slice{i}.png,OAS1_0001,{s}" for s, n in (("1", 11), ("2", 2)) for i in range(n)]
    table(tmp_path, *reversed(rows))
    runs, excluded, stacks = found(tmp_path)
    assert set(runs) == {"sub-OAS1_0001_ses-1", "sub-OAS1_0001_ses-2"} and not excluded
    one = read(tmp_path, runs["sub-OAS1_0001_ses-1"])
    assert one.names == [f"a/ses1_slice{i}.png" for i in range(11)]
    np.testing.assert_array_equal(one.array.max((1, 2)), [20 * i + 10 for i in range(11)])
    assert one.affine is None and one.space is None and not one.modulated
    assert stacks["sub-OAS1_0001_ses-2"].array.shape == (2, 224, 224)


def test_the_column_slice_goes_before_names(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png", ramp(200))
    table(tmp_path, "a.png,1,10", "b.png,1,9", "c.png,1,-2.5", header="path,participant_id,slice")
    assert read(tmp_path, found(tmp_path)[0]["sub-1"]).names == ["c.png", "b.png", "a.png"]


def test_depth_and_colour(tmp_path: Path) -> None:
    """16-bit greys keep their values, colours become luma, and the aspect is kept in the middle of the size."""
    rng = np.random.default_rng(0)
    colours, deep = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), ramp(60000, np.uint16, (6, 6))
    picture(tmp_path / "colour.jpg", colours, quality=100, subsampling=0)
    picture(tmp_path / "deep.png", deep)
    picture(tmp_path / "wide.tif", ramp(200, np.uint8, (4, 8)) + 7)
    table(tmp_path, *(f"{name},{i}," for i, name in enumerate(("colour.jpg", "deep.png", "wide.tif"))))
    runs = found(tmp_path)[0]
    luma = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read(tmp_path, runs["sub-0"], (6, 6)).array[0], luma, atol=6)
    np.testing.assert_array_equal(read(tmp_path, runs["sub-1"], (6, 6)).array[0], deep)
    wide = read(tmp_path, runs["sub-2"], (8, 8)).array[0]
    np.testing.assert_array_equal(wide[2:6], ramp(200, np.uint8, (4, 8)) + 7)
    assert (wide[[0, 1, 6, 7]] == 7).all()


def test_fitting_is_that_of_the_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from neuropipe.data import image

    values = np.random.default_rng(0).uniform(0, 1000, (60, 90)).astype(np.float32)
    for shape in ((20, 30), (20, 50), (80, 70), (7, 9)):
        expected = image.fit(torch.from_numpy(values), shape)
        np.testing.assert_allclose(pictures.fit(values, shape), expected, rtol=1e-4, atol=0.05)


def test_pictures_need_their_person(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", ramp(9))
    with pytest.raises(InputError, match=r"no slices\.tsv or slices\.csv"):
        found(tmp_path)
    table(tmp_path, "a.png,x", header="path,diagnosis")
    with pytest.raises(InputError, match="kept on one side of a split"):
        found(tmp_path)
    table(tmp_path, "a.png,", header="path,participant_id")
    with pytest.raises(InputError, match="names no people"):
        found(tmp_path)
    for outside in ("../a.png", "/a.png", "a;b.png", ""):
        table(tmp_path, f"{outside},1", header="path,participant_id")
        with pytest.raises(InputError, match="expected paths from"):
            found(tmp_path)
    table(tmp_path, "a.png,../1", header="path,participant_id")
    with pytest.raises(InputError, match="is no participant_id"):
        found(tmp_path)


def test_what_is_left_out(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b", "c1", "c2", "e", "f1", "f2", "nobody", "unlisted", "stranger"):
        picture(tmp_path / f"{name}.png", ramp(200))
    (tmp_path / "a2.png").write_bytes(b"no picture")
    picture(tmp_path / "constant.png", np.full((8, 8), 3, np.uint8))
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    rows = ["a1.png,a,1", "a2.png,a,2", "constant.png,k,1", "cut.png,d,1", "c1.png,c,1", "c2.png,c,1", "e.png,e,1"]
    rows += [
        "e.png,f,1",
        "f1.png,f,2",
        "gone.png,g,1",
        "nobody.png,,1",
        "stranger.png,s,1",
        "f2.png,h,first",
        "b.png,b,1",
    ]
    table(tmp_path, *rows, header="path,participant_id,slice")
    people(tmp_path, *"abcdefghk")
    _, excluded, stacks = found(tmp_path)
    assert set(stacks) == {"sub-a", "sub-b"} and stacks["sub-a"].names == ["a1.png"]
    assert excluded == {
        "a2.png": "damaged image",
        "constant.png": "constant",
        "cut.png": "damaged image",
        "c1.png": "ambiguous",
        "e.png": "ambiguous",
        "gone.png": "missing file",
        "f2.png": "ambiguous",
        "nobody.png": "no person",
        "stranger.png": "no participants row",
        ".": "not in the table",
    } | {"gone.png": "no slices"}


def test_people_of_the_table_stand_in_for_participants(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png", ramp(9))
    rows = ("a.png\t1\t70\tx", "b.png\t1\t70\ty", "c.png\tsub-2\t\tx")
    table(tmp_path, *rows, header="path\tparticipant_id\tage\tdiagnosis", name="mine.tsv")
    section = config.Dataset(kind="images", path=str(tmp_path), table="mine.tsv")
    found_people, where = doors.people(section)
    assert where is None and found_people["participant_id"].tolist() == ["sub-1", "sub-2"]
    assert found_people["age"].tolist() == ["70", "n/a"] and found_people["diagnosis"].tolist() == ["n/a", "x"]
    runs, _ = indexed(tmp_path / "study", {"kind": "images", "path": str(tmp_path), "table": "mine.tsv"})
    assert set(runs) == {"sub-1", "sub-2"}


def test_a_changed_slice_changes_the_fingerprint(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.png", ramp(100))
    table(tmp_path, *(f"{i}.png,1,1" for i in range(3)))
    before = found(tmp_path)[0]["sub-1_ses-1"]["fingerprint"]
    assert found(tmp_path)[0]["sub-1_ses-1"]["fingerprint"] == before
    picture(tmp_path / "2.png", ramp(101))
    assert found(tmp_path)[0]["sub-1_ses-1"]["fingerprint"] != before


def test_a_slice_that_went_away_leaves_the_scan_out(tmp_path: Path) -> None:
    for i in range(2):
        picture(tmp_path / f"{i}.png", ramp(100))
    table(tmp_path, "0.png,1,1", "1.png,1,1")
    row = found(tmp_path)[0]["sub-1_ses-1"]
    (tmp_path / "1.png").unlink()
    with pytest.raises(RunExcluded, match=r"1\.png is not there"):
        read(tmp_path, row)
