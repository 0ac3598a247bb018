"""Snags 1-5, 22 and 31: confounds tables as they are found."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from tiny_study import MOTION, TinyStudy, confounds_table
from whole_line import LOOSE, Parcellated, companion, indexed

OLD_NAMES = {f"trans_{axis}": axis.upper() for axis in "xyz"} | {f"rot_{axis}": f"Rot{axis.upper()}" for axis in "xyz"}
OLD_NAMES |= {"csf": "CSF", "white_matter": "WhiteMatter", "global_signal": "GlobalSignal"}
OLD_NAMES |= {"framewise_displacement": "FramewiseDisplacement"}


def table_of(n_volumes: int = 150, **columns: np.ndarray) -> pd.DataFrame:
    """The usual columns, of which `columns` replace some and add others."""
    usual = confounds_table(np.random.default_rng(0), n_volumes).drop(columns=list(columns), errors="ignore")
    return pd.concat([usual, pd.DataFrame(columns)], axis=1)


def test_01_first_values_that_are_na_are_filled_and_counted(study: TinyStudy) -> None:
    image = study.add("01", n_volumes=150)
    first = companion(study, image, "confounds_timeseries.tsv").read_text().splitlines()[1]
    assert first.split("\t").count("n/a") >= 19  # nine derivatives, their squares, displacement
    found = Parcellated(study).product("01_task-rest")
    assert found.about["NumberOfVolumes"] == 150 and np.isfinite(found.series).all()
    assert found.about["NumberOfFilledRegressors"] == 12  # of 24P
    assert found.about["Quality"]["degrees_of_freedom"] == 55 - 24, "all of them were regressed"


def test_02_the_first_volume_is_censored_where_the_head_moves_after_it(study: TinyStudy) -> None:
    """Its own displacement is n/a, which is above no threshold; that of the next volume tells."""
    fd_mm = np.full(150, 0.1)
    fd_mm[0], fd_mm[1] = np.nan, 3.0
    study.add("01", confounds=table_of(framewise_displacement=fd_mm))
    found = Parcellated(study, clean={"strategy": "scrubbing"}).product("01_task-rest")
    assert found.about["CensoredVolumes"] == [0, 1]


@pytest.mark.parametrize("name", ["desc-confounds_timeseries", "desc-confounds_regressors", "bold_confounds"])
def test_03_confounds_under_all_their_names(study: TinyStudy, name: str) -> None:
    """The same run as fMRIPrep 1.0 named it, columns and all, gives the same series."""
    image = study.add("01")
    new = study.data / image
    expected = Parcellated(study).product("01_task-rest").series
    table = companion(study, image, "confounds_timeseries.tsv")
    table.rename(table.with_name(f"sub-01_task-rest_{name}.tsv"))
    if name == "bold_confounds":
        old = table.with_name("sub-01_task-rest_bold_confounds.tsv")
        columns = pd.read_csv(old, sep="\t", na_values="n/a")[list(OLD_NAMES)].rename(columns=OLD_NAMES)
        columns.to_csv(old, sep="\t", index=False, na_rep="n/a")
        for path, suffix in ((new, "preproc"), (companion(study, image, "mask.nii.gz"), "brainmask")):
            path.rename(path.with_name(f"sub-01_task-rest_bold_space-MNI152NLin6Asym_{suffix}.nii.gz"))
        companion(study, image, "bold.json").rename(study.data / "task-rest_bold.json")
    done = Parcellated(study)
    assert done.index.runs.loc[0, "confounds"].endswith(f"/sub-01_task-rest_{name}.tsv")
    found = done.product("01_task-rest")
    assert len(found.about["Regressors"]) == 24
    np.testing.assert_allclose(found.series, expected, atol=1e-5)


def test_03_a_denoised_image_of_the_first_fmriprep_is_not_the_preprocessed_one(study: TinyStudy) -> None:
    image = study.data / study.add("01")
    old = "sub-01_task-rest_bold_space-MNI152NLin6Asym_variant-smoothAROMAnonaggr_preproc.nii.gz"
    image.with_name(old).write_bytes(image.read_bytes())
    found = indexed(study)
    assert found.images()[0] == image.name and len(found.runs) == 2 and found.excluded.empty


def test_04_columns_differ_between_the_runs_of_one_person(study: TinyStudy) -> None:
    cosines = {f"cosine{n:02d}": np.cos(np.arange(150) * n / 50) for n in range(3)}
    study.add("01", run="1", confounds=table_of(motion_outlier00=np.eye(150)[7], **cosines))
    study.add("01", run="2", confounds=table_of())
    study.add("01", run="3", confounds=table_of().drop(columns=["csf"]))
    done = Parcellated(study, clean={"strategy": "simple"})
    with_cosines, without = (done.product(f"01_task-rest_run-{n}").about["Regressors"] for n in (1, 2))
    assert set(with_cosines) - set(without) == set(cosines) and len(without) == 26
    left_out = done.left_out("01_task-rest_run-3")
    assert left_out.startswith("missing confounds") and "expected the columns csf" in left_out


def test_05_acompcor_is_chosen_by_its_description_not_by_its_names(study: TinyStudy) -> None:
    """The first columns are of both tissues together, and one was not retained: none of them is CSF by number."""
    rng = np.random.default_rng(0)
    masks = ["combined"] * 3 + ["WM"] * 6 + ["CSF"] * 7
    names = [f"a_comp_cor_{n:02d}" for n in range(9)] + [f"c_comp_cor_{n:02d}" for n in range(7)]
    columns = {name: rng.normal(size=150) for name in names} | {"cosine00": np.cos(np.arange(150) / 50)}
    image = study.add("01", confounds=table_of(**columns))
    about = {
        name: {"Method": "aCompCor", "Mask": mask, "Retained": name != "c_comp_cor_01", "SingularValue": 99 - n}
        for n, (name, mask) in enumerate(zip(names, masks, strict=True))
    }
    companion(study, image, "confounds_timeseries.tsv").with_suffix(".json").write_text(json.dumps(about))
    used = Parcellated(study, clean={"strategy": "acompcor"}).product("01_task-rest").about["Regressors"]
    csf = [f"c_comp_cor_{n:02d}" for n in (0, 2, 3, 4, 5)]
    assert [name for name in used if "comp_cor" in name] == csf + [f"a_comp_cor_{n:02d}" for n in range(3, 8)]
    assert "cosine00" in used


@pytest.mark.parametrize("n_confounds", [40, 150])
def test_22_a_regression_that_explains_everything_is_refused(study: TinyStudy, n_confounds: int) -> None:
    """nilearn's clean returns z-scored noise for it, without a word; 150 volumes of 2 s hold 55 cosines in the band."""
    rng = np.random.default_rng(0)
    table = table_of(**{f"noise{n:03d}": rng.normal(size=150) for n in range(n_confounds)})
    study.add("01", confounds=table)
    left_out = Parcellated(study, clean={"strategy": {"columns": ["noise*"]}}).left_out("01_task-rest")
    assert left_out.startswith("degrees of freedom") and f"{min(n_confounds, 55)} confounds" in left_out
    assert f"95 stop-band = {max(55 - n_confounds, 0)};" in left_out


def test_31_confounds_of_another_length_or_none_at_all(study: TinyStudy) -> None:
    study.add("01", n_volumes=150, confounds=table_of(154))  # dummy scans were removed from the image alone
    image = study.add("02", n_volumes=150)
    companion(study, image, "confounds_timeseries.tsv").unlink()
    done = Parcellated(study, **LOOSE)
    assert "expected 150 rows" in done.left_out("01_task-rest") and "found 154" in done.left_out("01_task-rest")
    assert done.index.left_out("02").startswith("missing confounds")


def test_31_a_table_without_motion_is_named_by_what_it_has(study: TinyStudy) -> None:
    study.add("01", confounds=table_of().drop(columns=MOTION))
    assert "found trans_x_derivative1" in Parcellated(study).left_out("01_task-rest")
