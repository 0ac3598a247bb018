"""Confounds: strategies against nilearn on published tables, and everything a table can lack."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds

from neuropipe.errors import RunExcluded
from neuropipe.signals import confounds
from neuropipe.signals.clean import clean

TEST = "load_confounds_test_desc-confounds_regressors"
NON_STEADY = "load_confounds_nonss_desc-confounds_regressors"
AOMIC = "sub-0001_task-anticipation_acq-seq_desc-confounds_regressors"
HIGH_PASS = ("high_pass",)


def table_of(n_volumes: int = 20, **columns: Any) -> pd.DataFrame:
    """A table of the motion parameters and their expansions, with further columns."""
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=n_volumes) for name in confounds.expanded(confounds.MOTION)}
    return pd.DataFrame(table | columns)


def prepared(table: pd.DataFrame, strategy: Any = "24P", **options: Any) -> confounds.Confounds:
    options = {"description": {}, "global_signal": False, "fd_threshold_mm": 0.5} | options
    return confounds.prepare(table, strategy=strategy, **options)


def by_nilearn(data: Path, name: str, folder: Path, **arguments: Any) -> tuple[np.ndarray | None, pd.DataFrame]:
    """Let nilearn load a published table, which it wants to find beside an image of matching name."""
    image = folder / "sub-1_task-x_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
    image.touch()
    for suffix in (".tsv", ".json"):
        if (data / "confounds" / f"{name}{suffix}").is_file():
            shutil.copy(
                data / "confounds" / f"{name}{suffix}", folder / f"sub-1_task-x_desc-confounds_regressors{suffix}"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table, sample_mask = load_confounds(str(image), demean=False, **arguments)
    return sample_mask, table


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "strategy", "arguments"),
    [
        (TEST, "simple", {"strategy": ("high_pass", "motion", "wm_csf"), "motion": "full", "wm_csf": "basic"}),
        (AOMIC, "simple", {"strategy": ("high_pass", "motion", "wm_csf"), "motion": "full", "wm_csf": "basic"}),
        (AOMIC, "24P", {"strategy": ("motion",), "motion": "full"}),
        (
            AOMIC,
            "27P",
            {
                "strategy": ("motion", "wm_csf", "global_signal"),
                "motion": "full",
                "wm_csf": "basic",
                "global_signal": "basic",
            },
        ),
        (
            AOMIC,
            "36P",
            {
                "strategy": ("motion", "wm_csf", "global_signal"),
                "motion": "full",
                "wm_csf": "full",
                "global_signal": "full",
            },
        ),
        (
            TEST,
            "acompcor",
            {
                "strategy": ("high_pass", "motion", "compcor"),
                "motion": "derivatives",
                "compcor": "anat_separated",
                "n_compcor": 5,
            },
        ),
        (TEST, "icaaroma", {"strategy": ("high_pass", "wm_csf", "ica_aroma"), "wm_csf": "basic", "ica_aroma": "basic"}),
    ],
)
def test_strategies_are_nilearns(
    published_data: Path, tmp_path: Path, name: str, strategy: str, arguments: dict[str, Any]
) -> None:
    path = published_data / "confounds" / f"{name}.tsv"
    n_volumes = len(path.read_text().splitlines()) - 1
    table = confounds.read_table(path, n_volumes)
    found = prepared(table, strategy, description=confounds.read_description(path))
    _, expected = by_nilearn(published_data, name, tmp_path, **arguments)
    assert sorted(found.names) == sorted(expected)
    np.testing.assert_allclose(found.regressors, expected[found.names].to_numpy(), rtol=1e-10)


@pytest.mark.realdata
@pytest.mark.parametrize("threshold_mm", [0.15, 0.25, 0.5])
def test_scrubbing_censors_what_nilearns_does(published_data: Path, tmp_path: Path, threshold_mm: float) -> None:
    """With nilearn's DVARS rule out of reach; both drop stretches of fewer than five volumes."""
    path = published_data / "confounds" / f"{AOMIC}.tsv"
    found = prepared(confounds.read_table(path, 200), "scrubbing", fd_threshold_mm=threshold_mm)
    arguments = {"strategy": ("high_pass", "motion", "wm_csf", "scrub"), "motion": "full", "wm_csf": "full", "scrub": 5}
    arguments |= {"fd_threshold": threshold_mm, "std_dvars_threshold": 1e6}
    kept, expected = by_nilearn(published_data, AOMIC, tmp_path, **arguments)
    assert sorted(found.names) == sorted(expected)
    kept = np.arange(200) if kept is None else kept
    np.testing.assert_array_equal(np.flatnonzero(~found.censored), kept)


@pytest.mark.realdata
def test_non_steady_volumes_are_nilearns(published_data: Path, tmp_path: Path) -> None:
    path = published_data / "confounds" / f"{TEST}.tsv"
    found = prepared(confounds.read_table(path, 30))
    kept, _ = by_nilearn(published_data, TEST, tmp_path, strategy=("motion",))
    np.testing.assert_array_equal(np.flatnonzero(~found.censored), kept)
    assert found.n_leading == 30 - len(kept) == 1


@pytest.mark.realdata
def test_a_published_table_cleans_a_run(published_data: Path) -> None:
    """200 volumes of 2 s with the real motion of a real person: nothing of it is left, and 24P leaves half the band."""
    table = confounds.read_table(published_data / "confounds" / f"{AOMIC}.tsv", 200)
    found = prepared(table)
    assert found.n_filled == 12 and table.isna().any().sum() >= 12
    rng = np.random.default_rng(0)
    series = 1000 + rng.normal(size=(200, 10)) + 100 * found.regressors @ rng.normal(size=(24, 10))
    result = clean(
        series,
        2.0,
        found.regressors,
        found.censored,
        high_pass=0.01,
        low_pass=0.1,
        target_t_r=2.0,
        standardize=True,
        min_degrees_of_freedom=20,
    )
    centred = found.regressors - found.regressors.mean(axis=0)
    assert np.abs(centred.T @ result.residual).max() < 1e-6 * np.abs(centred.T @ series).max()
    assert result.degrees_of_freedom == 73 - 24  # cosines 8..80 of 200 volumes; 24 parameters


@pytest.mark.realdata
def test_a_table_without_its_columns(published_data: Path) -> None:
    table = confounds.read_table(
        published_data / "confounds" / "load_confounds_missing_desc-confounds_regressors.tsv", 1
    )
    with pytest.raises(RunExcluded) as error:
        prepared(table)
    assert error.value.reason == "missing confounds"
    assert "trans_x_derivative1, trans_y, rot_z_power2" in error.value.detail
    assert "t_comp_cor_00..05, a_comp_cor_00..125, trans_x, " in error.value.detail


def test_first_values_are_filled_with_the_next_and_counted() -> None:
    table = table_of()
    table.loc[0, "trans_x_derivative1"] = np.nan
    table.loc[:1, "rot_z_derivative1"] = np.nan
    found = prepared(table)
    assert found.n_filled == 2 and np.isfinite(found.regressors).all()
    column = found.regressors[:, found.names.index("rot_z_derivative1")]
    assert column[0] == column[1] == column[2]


@pytest.mark.parametrize("rows", [slice(5, 5), slice(19, 19), slice(0, 19)])
def test_values_missing_elsewhere(rows: slice) -> None:
    table = table_of()
    table.loc[rows, "trans_y"] = np.nan
    with pytest.raises(RunExcluded, match=r"damaged confounds: n/a in the middle, or everywhere, of trans_y"):
        prepared(table)


def test_displacement_is_unknown_for_the_first_volume() -> None:
    fd = np.full(20, 0.1)
    fd[0] = np.nan
    found = prepared(table_of(framewise_displacement=fd, csf=fd[::-1] * 0, white_matter=fd[::-1] * 0), "none")
    assert np.isnan(found.fd_mm[0]) and not found.censored.any() and found.regressors.shape == (20, 0)


def test_short_stretches_between_censored_volumes_go_too() -> None:
    fd = np.zeros(40)
    fd[[3, 10, 16, 30]] = 1.0  # 3 at the start, 6, 5, 13 between, 9 at the end
    tissue = confounds.expanded(["csf", "white_matter"])
    found = prepared(table_of(40, framewise_displacement=fd, **dict.fromkeys(tissue, 1.0)), "scrubbing")
    assert np.flatnonzero(found.censored).tolist() == [0, 1, 2, 3, 10, 16, 30]
    fd[15] = 1.0  # now 4 between 10 and 15
    found = prepared(table_of(40, framewise_displacement=fd, **dict.fromkeys(tissue, 1.0)), "scrubbing")
    assert np.flatnonzero(found.censored).tolist() == [0, 1, 2, 3, *range(10, 17), 30]


def test_non_steady_volumes_in_the_middle_are_censored_not_cut() -> None:
    columns = {f"non_steady_state_outlier{n:02d}": np.eye(20)[row] for n, row in enumerate([0, 1, 7])}
    found = prepared(table_of(**columns))
    assert found.n_leading == 2 and np.flatnonzero(found.censored).tolist() == [0, 1, 7]


def test_global_signal_is_added_once() -> None:
    table = table_of(global_signal=np.arange(20.0), csf=np.ones(20), white_matter=np.ones(20))
    assert prepared(table, "24P", global_signal=True).names[-1] == "global_signal"
    assert prepared(table, "27P", global_signal=True).names.count("global_signal") == 1


def test_own_columns_and_patterns() -> None:
    table = table_of(a_comp_cor_00=np.ones(20), a_comp_cor_01=np.ones(20))
    found = prepared(table, ["rot_x", "a_comp_cor_*", "rot_?"])
    assert found.names == ["rot_x", "a_comp_cor_00", "a_comp_cor_01", "rot_y", "rot_z"]


def test_components_are_those_retained_of_each_tissue() -> None:
    """CSF need not come first, and the first of a table need not be the largest."""
    about = {}
    for n in range(14):
        about[f"a_comp_cor_{n:02d}"] = {
            "Method": "aCompCor",
            "Mask": "WM" if n < 7 else "CSF",
            "Retained": n not in (0, 13),
        }
        about[f"a_comp_cor_{n:02d}"]["SingularValue"] = float(n)
    table = table_of(**{name: np.ones(20) for name in about})
    found = prepared(table, "acompcor", description=about)
    assert found.names[12:] == [f"a_comp_cor_{n:02d}" for n in (12, 11, 10, 9, 8, 6, 5, 4, 3, 2)]
    with pytest.raises(RunExcluded, match="acompcor needs the JSON"):
        prepared(table, "acompcor")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trans_x\n1\n2\n", r"confounds length: expected 3 rows in c\.tsv, .*found 2"),
        ("trans_x\n1\n2\nx\n", "expected numbers or n/a, found text in trans_x"),
        ("", "damaged confounds"),
        ("a\tb\n1\t2\t3\t4\n1\n", "damaged confounds"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.tsv").write_text(content)
    with pytest.raises(RunExcluded, match=message):
        confounds.read_table(tmp_path / "c.tsv", 3)
    with pytest.raises(RunExcluded, match="missing file"):
        confounds.read_table(tmp_path / "d.tsv", 3)


def test_windows_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_bytes("\ufefftrans_x\ttrans_y\r\nn/a\t1\r\n2\t3\r\n".encode())
    table = confounds.read_table(tmp_path / "c.tsv", 2)
    assert list(table) == ["trans_x", "trans_y"] and table["trans_y"].tolist() == [1, 3]


def test_a_damaged_description(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(RunExcluded, match=r"damaged sidecar: c\.json"):
        confounds.read_description(tmp_path / "c.tsv")
    (tmp_path / "c.json").write_text(json.dumps({"a": {}}))
    assert confounds.read_description(tmp_path / "c.tsv") == {"a": {}}
