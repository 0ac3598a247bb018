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
from nilearn.interfaces.fmriprep import load_confounds, load_confounds_strategy

from neuropipe.config import Clean
from neuropipe.errors import RunExcluded
from neuropipe.signals import confounds, strategies
from neuropipe.signals.clean import clean

TEST = "load_confounds_test_desc-confounds_regressors"
NON_STEADY = "load_confounds_nonss_desc-confounds_regressors"
AOMIC = "sub-0001_task-anticipation_acq-seq_desc-confounds_regressors"


def table_of(n_volumes: int = 20, **columns: Any) -> pd.DataFrame:
    """A table of the motion parameters and their expansions, with further columns."""
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=n_volumes) for name in strategies.expanded(strategies.MOTION)}
    return pd.DataFrame(table | columns)


def prepared(
    table: pd.DataFrame, strategy: Any = "24P", description: dict[str, Any] | None = None, **settings: Any
) -> confounds.Confounds:
    if isinstance(strategy, list):
        strategy = {"columns": strategy}
    return confounds.prepare(table, description or {}, Clean(strategy=strategy, **settings))


def by_nilearn(
    path: Path, folder: Path, preset: str | None = None, **arguments: Any
) -> tuple[np.ndarray | None, pd.DataFrame]:
    """Let nilearn load a table, which it wants to find beside an image of matching name."""
    image = folder / "sub-1_task-x_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
    image.touch()
    for source in (path, path.with_suffix(".json")):
        if source.is_file():
            shutil.copy(source, folder / f"sub-1_task-x_desc-confounds_regressors{source.suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if preset:
            table, sample_mask = load_confounds_strategy(str(image), denoise_strategy=preset)
        else:
            table, sample_mask = load_confounds(str(image), demean=False, **arguments)
    return sample_mask, table


def same_as_nilearn(
    found: confounds.Confounds, sample_mask: np.ndarray | None, expected: pd.DataFrame, demeaned: bool = False
) -> None:
    assert sorted(found.names) == sorted(expected) and len(found.names) == len(set(found.names)) > 0
    kept = np.arange(len(found.regressors)) if sample_mask is None else sample_mask
    np.testing.assert_array_equal(np.flatnonzero(~found.censored), kept)
    centre = found.regressors[kept].mean(axis=0) if demeaned else 0
    values = expected[found.names].to_numpy()
    np.testing.assert_allclose(found.regressors - centre, values, rtol=1e-10, atol=1e-12 * np.abs(values).max())


FULL = {"motion": "full", "wm_csf": "full", "global_signal": "full"}
SIMPLE = {"strategy": ("high_pass", "motion", "wm_csf"), "motion": "full", "wm_csf": "basic"}
SCRUB = {"strategy": ("high_pass", "motion", "wm_csf", "scrub"), **FULL, "scrub": 5}
COMPONENTS = {"strategy": ("high_pass", "motion", "compcor"), "motion": "derivatives", "compcor": "anat_separated"}
AROMA = {"strategy": ("high_pass", "wm_csf", "ica_aroma"), "wm_csf": "basic", "ica_aroma": "basic"}
BOTH = COMPONENTS | {"compcor": "anat_combined"}
LIMITS = {"fd_threshold": 0.5, "std_dvars_threshold": 1.5}


def with_gsr(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments | {"strategy": (*arguments["strategy"], "global_signal"), "global_signal": "basic"}


# Table, settings of ours, arguments of nilearn's load_confounds.
PAIRS = [
    (TEST, {"strategy": "cosine"}, {"strategy": ("high_pass",)}),
    (TEST, {"strategy": "gsr_only"}, {"strategy": ("global_signal",), "global_signal": "basic"}),
    (TEST, {"strategy": "simple"}, SIMPLE),
    (AOMIC, {"strategy": "simple"}, SIMPLE),
    (AOMIC, {"strategy": "simple", "global_signal": True}, with_gsr(SIMPLE)),
    (AOMIC, {"strategy": "24P"}, {"strategy": ("motion",), "motion": "full"}),
    (NON_STEADY, {"strategy": "27P"}, with_gsr({"strategy": ("motion", "wm_csf"), "motion": "full"})),
    (AOMIC, {"strategy": "36P"}, FULL | {"strategy": ("motion", "wm_csf", "global_signal")}),
    (AOMIC, {"strategy": "36P+spikes"}, FULL | LIMITS | {"strategy": ("motion", "wm_csf", "global_signal", "scrub")}),
    (TEST, {"strategy": "acompcor"}, COMPONENTS | {"n_compcor": 5}),
    (TEST, {"strategy": "acompcor", "n_compcor": 2}, COMPONENTS | {"n_compcor": 2}),
    (TEST, {"strategy": "acompcor", "n_compcor": "all"}, COMPONENTS | {"n_compcor": "all"}),
    (TEST, {"strategy": "acompcor", "compcor": "anat_combined"}, BOTH | {"n_compcor": 5}),
    (TEST, {"strategy": "acompcor_gsr"}, with_gsr(COMPONENTS) | {"n_compcor": 5}),
    (TEST, {"strategy": "icaaroma"}, AROMA),
    (TEST, {"strategy": "icaaroma_gsr"}, with_gsr(AROMA)),
]
for fd_mm in (0.15, 0.25, 0.5):
    for dvars, scrub in ((1.5, 5), (1.2, 0), (None, 5), (1.3, 8)):
        ours = {"strategy": "scrubbing", "fd_threshold_mm": fd_mm, "std_dvars_threshold": dvars, "scrub": scrub}
        theirs = {"fd_threshold": fd_mm, "std_dvars_threshold": dvars or 1e6, "scrub": scrub}
        PAIRS.append((AOMIC, ours, SCRUB | theirs))


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "settings", "arguments"), PAIRS)
def test_strategies_are_nilearns(
    published_data: Path, tmp_path: Path, name: str, settings: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """The same columns, the same values once each side filled its first row, and the same volumes kept."""
    path = published_data / "confounds" / f"{name}.tsv"
    table = confounds.read_table(path, len(path.read_text().splitlines()) - 1)
    found = prepared(table, description=confounds.read_description(path), **settings)
    same_as_nilearn(found, *by_nilearn(path, tmp_path, **arguments))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "settings", "preset"),
    [
        (AOMIC, {"strategy": "simple"}, "simple"),
        (AOMIC, {"strategy": "scrubbing"}, "scrubbing"),
        (TEST, {"strategy": "scrubbing"}, "scrubbing"),
        (TEST, {"strategy": "compcor"}, "compcor"),
    ],
)
def test_names_mean_what_nilearns_presets_mean(
    published_data: Path, tmp_path: Path, name: str, settings: dict[str, Any], preset: str
) -> None:
    """`load_confounds_strategy` with nothing but the name, demeaned over the kept volumes as it does."""
    path = published_data / "confounds" / f"{name}.tsv"
    table = confounds.read_table(path, len(path.read_text().splitlines()) - 1)
    found = prepared(table, description=confounds.read_description(path), **settings)
    kept, expected = by_nilearn(path, tmp_path, preset=preset)
    same_as_nilearn(found, kept, expected, demeaned=True)


def test_strategies_are_nilearns_on_a_table_of_the_newer_names(tmp_path: Path) -> None:
    """Components called after their tissue, n/a in the first row, and a table without any cosine."""
    rng = np.random.default_rng(0)
    about = {f"{t}_comp_cor_{n:02d}": {"Method": "aCompCor", "Mask": mask, "Retained": True, "SingularValue": 9.0 - n}
             for t, mask in (("c", "CSF"), ("w", "WM"), ("a", "combined")) for n in range(7)}  # fmt: skip
    others = [*about, *strategies.expanded(["csf", "white_matter", "global_signal"])]
    table = table_of(60, **{name: rng.normal(size=60) for name in others})
    table["framewise_displacement"], table["std_dvars"] = rng.uniform(0, 0.6, 60), rng.uniform(0.8, 1.6, 60)
    changes = [name for name in table if "derivative1" in name or name in ("framewise_displacement", "std_dvars")]
    table.loc[0, changes] = np.nan
    path = tmp_path / "made_desc-confounds_timeseries.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    path.with_suffix(".json").write_text(json.dumps(about))
    for settings, arguments in (
        ({"strategy": "acompcor"}, COMPONENTS | {"n_compcor": 5}),
        ({"strategy": "acompcor", "compcor": "anat_combined", "n_compcor": 3}, BOTH | {"n_compcor": 3}),
        ({"strategy": "simple"}, SIMPLE),
        ({"strategy": "36P"}, {"strategy": ("motion", "wm_csf", "global_signal"), **FULL}),
        ({"strategy": "scrubbing"}, SCRUB | LIMITS),
        ({"strategy": "scrubbing", "scrub": 2}, SCRUB | LIMITS | {"scrub": 2}),
    ):  # fmt: skip
        found = prepared(confounds.read_table(path, 60), description=about, **settings)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        same_as_nilearn(found, *by_nilearn(path, folder, **arguments))
    only = prepared(confounds.read_table(path, 60), "acompcor", about, compcor="csf", n_compcor=2)
    assert only.names[12:] == ["c_comp_cor_00", "c_comp_cor_01"]


@pytest.mark.realdata
def test_non_steady_volumes_are_nilearns(published_data: Path, tmp_path: Path) -> None:
    path = published_data / "confounds" / f"{TEST}.tsv"
    found = prepared(confounds.read_table(path, 30))
    kept, _ = by_nilearn(path, tmp_path, strategy=("motion",))
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
    result = clean(series, 2.0, found.regressors, found.censored, Clean(), 20)
    centred = found.regressors - found.regressors.mean(axis=0)
    assert np.abs(centred.T @ result.residual).max() < 1e-6 * np.abs(centred.T @ series).max()
    assert result.freedom.left == 73 - 24  # cosines 8..80 of 200 volumes; 24 parameters


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
    found = prepared(table_of(40, framewise_displacement=fd), "24P", censor=True, std_dvars_threshold=None)
    assert np.flatnonzero(found.censored).tolist() == [0, 1, 2, 3, 10, 16, 30]
    fd[15] = 1.0  # now 4 between 10 and 15
    found = prepared(table_of(40, framewise_displacement=fd), "24P", censor=True, std_dvars_threshold=None)
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
    with pytest.raises(RunExcluded, match="name retained aCompCor components of CSF, found no JSON"):
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


def components_of(shares: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """The JSON of a table whose components explain given shares of each mask's variance."""
    about = {}
    for mask, explained in shares.items():
        for n, share in enumerate(explained):
            name = f"{mask[0].lower()}_comp_cor_{n:02d}"
            about[name] = {"Method": "aCompCor", "Mask": mask, "Retained": True, "VarianceExplained": share}
            about[name]["SingularValue"] = 10 * share
    return about


def test_components_up_to_a_share_of_variance() -> None:
    about = components_of({"CSF": [0.3, 0.2, 0.1], "WM": [0.2, 0.2, 0.2, 0.05]})
    table = table_of(**{name: np.ones(20) for name in about})
    found = prepared(table, "acompcor50", about)
    assert found.names[12:] == ["c_comp_cor_00", "c_comp_cor_01", "w_comp_cor_00", "w_comp_cor_01", "w_comp_cor_02"]
    found = prepared(table, "acompcor", about, n_compcor=0.25, compcor="wm")
    assert found.names[12:] == ["w_comp_cor_00", "w_comp_cor_01"]
    with pytest.raises(RunExcluded, match=r"of CSF that explain 0\.62 .* found 3 that explain 0\.6; .*return-all"):
        prepared(table, "acompcor", about, n_compcor=0.62)


def test_the_first_volume_has_no_displacement_of_its_own() -> None:
    """It is never censored for its n/a; it goes with the second, as a stretch of one volume."""
    fd = np.concatenate([[np.nan], np.full(19, 0.1)])
    assert not prepared(table_of(framewise_displacement=fd, std_dvars=fd * 10), censor=True).censored.any()
    fd[1] = 0.9
    found = prepared(table_of(framewise_displacement=fd, std_dvars=fd), censor=True)
    assert found.censored.nonzero()[0].tolist() == [0, 1]
    found = prepared(table_of(framewise_displacement=fd, std_dvars=fd), censor=True, scrub=0)
    assert found.censored.nonzero()[0].tolist() == [1]


def test_censoring_needs_its_columns() -> None:
    table = table_of(framewise_displacement=np.zeros(20))
    with pytest.raises(RunExcluded, match=r"expected the columns std_dvars; found trans_x, .*framewise_displacement"):
        prepared(table, censor=True)
    assert not prepared(table, censor=True, std_dvars_threshold=None).censored.any()
    assert not prepared(table, "24P").censored.any()


def test_a_given_number_of_first_volumes_is_cut_whatever_the_table_says() -> None:
    table = table_of(non_steady_state_outlier00=np.eye(20)[0], non_steady_state_outlier01=np.eye(20)[5])
    assert prepared(table).n_leading == 1
    found = prepared(table, n_dummy=4)
    assert found.n_leading == 4 and found.censored.nonzero()[0].tolist() == [0, 1, 2, 3]
    assert prepared(table, n_dummy=0).n_leading == 0 and not prepared(table, n_dummy=0).censored.any()
    assert prepared(table, n_dummy=30).n_leading == 20
