"""CAT12's folders: BIDS and plain layout, reports, sessions, and maps that cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from doors_study import indexed, people, scans

from neuropipe import config
from neuropipe.bids import cat12_xml
from neuropipe.cli import main
from neuropipe.errors import ConfigError, InputError, RunExcluded

SHAPE, AFFINE = (5, 6, 4), np.array([[9.0, 0, 0, -18], [0, 9, 0, -27], [0, 0, 9, -9], [0, 0, 0, 1]])
REPORT = """<?xml version="1.0" encoding="utf-8"?>
<S><software><version_cat>12.9</version_cat></software>
<qualitymeasures><IQR>9</IQR></qualitymeasures>
<qualityratings><IQR>2.1437</IQR></qualityratings>
<subjectmeasures><vol_TIV>{tiv}</vol_TIV><vol_abs_CGW>{volumes}</vol_abs_CGW></subjectmeasures></S>
"""
REGIONS = """<?xml version="1.0" encoding="utf-8"?>
<S><neuromorphometrics><version>1.0</version>
<names><item>3rd Ventricle</item><item>Right Accumbens</item></names><ids>[4;23]</ids>
<data><Vgm>[0.07;0.39]</Vgm><Vcsf>[1.2;0.01]</Vcsf></data></neuromorphometrics>
<lpba40><names><item>lSFG</item></names><data><Vgm>[17.5]</Vgm></data></lpba40></S>
"""


def values(seed: int = 0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def scan(folder: Path, name: str, seed: int = 0, tiv: str = "1450.5", volumes: str = "[300 650.5 500 0 0]") -> None:
    """Write what CAT12 does of one scan, in its folders."""
    write(folder / "mri" / f"mwp1{name}.nii", values(seed))
    for place, text in ((f"report/cat_{name}.xml", REPORT), (f"label/catROI_{name}.xml", REGIONS)):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(text.replace("{tiv}", tiv).replace("{volumes}", volumes))


def found(root: Path, **changes: Any) -> tuple[dict, dict, dict]:
    return scans(root, {"kind": "cat12", "path": str(root)} | changes)


def test_bids_layout_with_sessions(tmp_path: Path) -> None:
    """Two sessions are two scans; what lies in mri/, report/ and label/ belongs together; the version is in the way."""
    top = tmp_path / "derivatives" / "CAT12.9_2577"
    for seed, session in enumerate("12"):
        scan(top / "sub-01" / f"ses-{session}" / "anat", f"sub-01_ses-{session}_T1w", seed)
    people(tmp_path, "01")
    for root in (tmp_path, top):
        runs, excluded, read = found(root)
        assert set(runs) == {"sub-01_ses-1", "sub-01_ses-2"} and not excluded
        row = runs["sub-01_ses-2"]
        assert (row["participant_id"], row["session"], row["space"]) == ("sub-01", "2", "MNI152NLin2009cAsym")
        assert [Path(p).name for p in row["beside"].split(";")] == [
            "cat_sub-01_ses-2_T1w.xml",
            "catROI_sub-01_ses-2_T1w.xml",
        ]
        one = read["sub-01_ses-2"]
        np.testing.assert_array_equal(one.array, values(1))
        np.testing.assert_array_equal(one.affine, AFFINE)
        assert one.modulated and one.array.dtype == np.float32
        assert one.known == {"tiv_ml": 1450.5, "iqr_grade": 2.1437, "csf_ml": 300, "gm_ml": 650.5, "wm_ml": 500}


def test_one_folder_of_everything(tmp_path: Path) -> None:
    """CAT12 without subfolders (and its newer BIDS output): reports lie beside the maps; runs with zeros are runs."""
    for run in ("1", "02"):
        name = f"sub-01_run-{run}_T1w"
        write(tmp_path / "sub-01/anat" / f"mwp1{name}.nii.gz", values())
        (tmp_path / f"sub-01/anat/cat_{name}.xml").write_text(REPORT.format(tiv="[1500]", volumes="[1 2 3]"))
    people(tmp_path, "01")
    runs, excluded, read = found(tmp_path)
    assert set(runs) == {"sub-01_run-1", "sub-01_run-02"} and not excluded
    assert read["sub-01_run-02"].known["tiv_ml"] == 1500


def test_plain_layout_finds_whole_ids_only(tmp_path: Path) -> None:
    scan(tmp_path, "IXI002-Guys-0828-T1")
    scan(tmp_path, "IXI0021_T1")  # begins as another's does
    scan(tmp_path, "sub-7_anything")  # named as BIDS would
    scan(tmp_path, "OAS1_0001_MR1")  # two words, of which the second is somebody else's id
    scan(tmp_path, "xx-8_ses-2_T1")
    scan(tmp_path, "8_and_7")
    people(tmp_path, "IXI002", "sub-7", "OAS1_0001", "0001", "8", "2")
    runs, excluded, read = found(tmp_path)
    assert {run_id: row["participant_id"] for run_id, row in runs.items()} == {
        "sub-IXI002": "sub-IXI002",
        "sub-7": "sub-7",
        "sub-OAS1_0001": "sub-OAS1_0001",
        "sub-8_ses-2": "sub-8",
    }
    assert excluded == {
        "mri/mwp1IXI0021_T1.nii": "no participants row",
        "mri/mwp18_and_7.nii": "ambiguous",
        "n/a": "no data",  # sub-0001 and sub-2
    }
    assert read["sub-7"].known["gm_ml"] == 650.5


def test_file_id_names_a_scan(tmp_path: Path) -> None:
    scan(tmp_path, "scan_17")
    people(tmp_path, "A", "17", file_id=["scan_17", "n/a"])
    assert found(tmp_path)[0]["sub-A"]["image"] == "mri/mwp1scan_17.nii"


def test_longitudinal_maps_are_of_their_scan(tmp_path: Path) -> None:
    scan(tmp_path / "sub-01/ses-1/anat", "rsub-01_ses-1_T1w")
    people(tmp_path, "01")
    runs, _, read = found(tmp_path)
    assert read["sub-01_ses-1"].known["tiv_ml"] == 1450.5 and set(runs) == {"sub-01_ses-1"}


@pytest.mark.parametrize(("chosen", "seed"), [("gm", 1), ("wm", 2), ("t1w", 3)])
def test_maps_are_told_by_their_prefix(tmp_path: Path, chosen: str, seed: int) -> None:
    """Also where a person is called i7: ``wmi7`` is its image, ``wmii7`` the locally adapted one."""
    for number, prefix in enumerate(("mwp1", "mwp2", "wm", "wmi", "wp1", "smwp1", "m0wp1", "p1"), start=1):
        for name in ("sub-01_T1w", "i7_T1", "8_T1"):
            write(tmp_path / "mri" / f"{prefix}{name}.nii", values(number))
    people(tmp_path, "01", "i7", "8")
    runs, excluded, read = found(tmp_path, map=chosen)
    assert set(runs) == {"sub-01", "sub-i7", "sub-8"} and not excluded
    for one in read.values():
        np.testing.assert_array_equal(one.array, values(seed))
        assert one.modulated == (chosen != "t1w")


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    nan, infinite = values(), np.diag([np.inf, 1, 1, 1])
    nan[2, 2, 2] = np.nan
    folder = tmp_path / "mri"
    write(folder / "mwp1good.nii", values())
    write(folder / "mwp1void.nii", nan)
    write(folder / "mwp1zero.nii", np.zeros(SHAPE, np.float32))
    write(folder / "mwp1series.nii", values(shape=(*SHAPE, 3)))
    write(folder / "mwp1single.nii", values(shape=(*SHAPE, 1)))
    write(folder / "mwp1affine.nii", values())
    header = bytearray((folder / "mwp1affine.nii").read_bytes())
    header[280:284] = np.float32(infinite[0, 0]).tobytes()  # srow_x[0]
    (folder / "mwp1affine.nii").write_bytes(header)
    cut = write(folder / "mwp1cut.nii", values())
    cut.write_bytes(cut.read_bytes()[:-8])
    cut = write(folder / "mwp1cutgz.nii.gz", values())
    cut.write_bytes(cut.read_bytes()[:-40])
    (folder / "mwp1text.nii").write_text("no image")
    swapped = nib.Nifti1Image(values(), AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(swapped, folder / "mwp1swapped.nii")
    for name in ("mwp1both.nii", "mwp1both.nii.gz", "mwp1stranger.nii"):
        write(folder / name, values())
    labels = ["good", "void", "zero", "series", "single", "affine", "cut", "cutgz", "text", "swapped", "both"]
    people(tmp_path, *labels, "absent")
    _, excluded, read = found(tmp_path)
    assert set(read) == {"sub-good", "sub-single", "sub-swapped"}
    for one in read.values():
        assert one.array.shape == SHAPE
    np.testing.assert_array_equal(read["sub-swapped"].array, values())
    assert {place.removeprefix("mri/mwp1"): reason for place, reason in excluded.items()} == {
        "void.nii": "not finite",
        "zero.nii": "constant",
        "series.nii": "not a map",
        "affine.nii": "damaged image",
        "cut.nii": "truncated image",
        "cutgz.nii.gz": "truncated image",
        "text.nii": "truncated image",
        "both.nii": "ambiguous",
        "both.nii.gz": "ambiguous",
        "stranger.nii": "no participants row",
        "n/a": "no data",
    }


def test_select_takes_sessions(tmp_path: Path) -> None:
    for session in "ab":
        scan(tmp_path / f"sub-01/ses-{session}/anat", f"sub-01_ses-{session}_T1w")
    people(tmp_path, "01")
    assert set(found(tmp_path, select={"ses": "b"})[0]) == {"sub-01_ses-b"}
    assert set(found(tmp_path, select={"t1w": {"session": "a"}, "bold": {"session": "x"}})[0]) == {"sub-01_ses-a"}


def test_the_old_template_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "mri/mwp1sub-01.nii.gz", np.zeros((121, 145, 121), np.uint8))
    people(tmp_path, "01")
    with caplog.at_level(logging.WARNING, "neuropipe"):
        indexed(tmp_path, {"kind": "cat12", "path": str(tmp_path), "space": "MNI152NLin6Asym"})
        assert not caplog.messages
        indexed(tmp_path, {"kind": "cat12", "path": str(tmp_path)})
    assert "before 12.8" in caplog.text


def test_nothing_there_is_an_error_that_says_what_was_expected(tmp_path: Path) -> None:
    people(tmp_path, "01")
    write(tmp_path / "mri/wp1sub-01.nii", values())
    with pytest.raises(InputError, match=r"holds no mwp1\*\.nii"):
        found(tmp_path)
    with pytest.raises(InputError, match="No folder"):
        indexed(
            tmp_path, {"kind": "cat12", "path": str(tmp_path / "x"), "participants": f"{tmp_path}/participants.tsv"}
        )


def test_doctor_counts_scans(tmp_path: Path, monkeypatch, capsys) -> None:
    scan(tmp_path, "sub-01_T1w")
    people(tmp_path, "01", "02")
    indexed(tmp_path, {"kind": "cat12", "path": str(tmp_path)})
    monkeypatch.chdir(tmp_path)
    main(["doctor", "--config", "config.yaml"])
    assert "1 runs of 1 people" in " ".join(capsys.readouterr().out.replace("│", " ").split())


# --- XML ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[300.0 900.0 250.0 5.0 0.0]", [300, 900, 250, 5, 0]),
        ("  [3.0e+02;9e2] ", [300, 900]),
        ("[1.5,2.5]", [1.5, 2.5]),
        ("[1,5 2,25]", [1.5, 2.25]),
        ("1450,5", [1450.5]),
        ("[1,2,3]", [1, 2, 3]),
        ("", []),
    ],
)
def test_numbers_of_matlab(text: str, expected: list[float]) -> None:
    assert cat12_xml.numbers(text) == expected


def test_total_volume_is_the_sum_where_it_is_not_stated(tmp_path: Path) -> None:
    (tmp_path / "cat_x.xml").write_text(
        REPORT.format(tiv="", volumes="[300 650 500 4 NaN]").replace("<vol_TIV></vol_TIV>", "")
    )
    assert cat12_xml.report(tmp_path / "cat_x.xml")["tiv_ml"] == 1454


def test_regional_volumes(tmp_path: Path) -> None:
    (tmp_path / "catROI_x.xml").write_text(REGIONS)
    table = cat12_xml.regional_volumes(tmp_path / "catROI_x.xml")
    assert table["atlas"].tolist() == ["neuromorphometrics"] * 2 + ["lpba40"]
    assert table["name"].tolist() == ["3rd Ventricle", "Right Accumbens", "lSFG"]
    assert table["label"].tolist() == ["4", "23", "n/a"]
    np.testing.assert_array_equal(table["gm_ml"], [0.07, 0.39, 17.5])
    np.testing.assert_array_equal(table["csf_ml"], [1.2, 0.01, np.nan])
    assert table["wm_ml"].isna().all()
    (tmp_path / "catROI_x.xml").write_text(REGIONS.replace("[0.07;0.39]", "[0.07]"))
    with pytest.raises(RunExcluded, match="2 names but 1 values"):
        cat12_xml.regional_volumes(tmp_path / "catROI_x.xml")


ENTITIES = '<!DOCTYPE S [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE S [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("text", [f"{ENTITIES}<S>&b;</S>", f"{OUTSIDE}<S>&a;</S>", "<S><open></S>", "", "<S>"])
def test_damaged_and_hostile_reports_leave_the_scan_out(tmp_path: Path, text: str) -> None:
    scan(tmp_path, "sub-01_T1w")
    (tmp_path / "report/cat_sub-01_T1w.xml").write_text(text)
    people(tmp_path, "01")
    _, excluded, read = found(tmp_path)
    assert excluded == {"mri/mwp1sub-01_T1w.nii": "damaged report"} and not read


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "openbhb", "map": "wm"}, "OpenBHB's maps are of grey matter"),
        ({"kind": "fmriprep", "map": "gm", "space": "x"}, "space is for maps whose names"),
        ({"kind": "cat12", "table": "x"}, "table is for kind images"),
        ({"kind": "images", "map": "gm"}, "map is for anatomy"),
        ({"kind": "cat12", "t_r": 2}, "t_r is for ready-made series"),
    ],
)
def test_impossible_keys(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.parse({"study": "s", "datasets": {"d": {"path": "x", **changes}}})
