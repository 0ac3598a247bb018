"""Motion has the framewise displacement it was asked for; the table holds what fMRIPrep's does."""

import numpy as np
import pytest
from nilearn.glm.first_level.design_matrix import create_cosine_drift

from neuropipe.demo.confounds import confounds_table, cosines, draw_motion, framewise_displacement

N_VOLUMES, T_R = 150, 2.0


@pytest.fixture(scope="module")
def table_and_metadata():
    rng = np.random.default_rng(0)
    scan = (1000 + rng.normal(size=(N_VOLUMES, 600)) * 10).astype(np.float32)
    scan[:, :200] += 20 * rng.normal(size=(N_VOLUMES, 1)).astype(np.float32)  # one signal in 200 tissue voxels
    white_matter, csf = np.arange(600) < 150, (np.arange(600) >= 150) & (np.arange(600) < 200)
    motion = draw_motion(N_VOLUMES, 0.3, rng)
    return scan, motion, *confounds_table(scan, white_matter, csf, motion, T_R, n_unsteady=1)


@pytest.mark.parametrize("mean_fd_mm", [0.05, 0.2, 0.85])
def test_motion_has_the_mean_fd_it_was_asked_for(mean_fd_mm):
    motion = draw_motion(200, mean_fd_mm, np.random.default_rng(1))
    by_hand = np.abs(np.diff(motion[:, :3], axis=0)).sum(1) + 50 * np.abs(np.diff(motion[:, 3:], axis=0)).sum(1)
    assert by_hand.mean() == pytest.approx(mean_fd_mm)
    assert framewise_displacement(motion)[1:] == pytest.approx(by_hand)


def test_cosines_are_those_of_the_discrete_cosine_drift_model():
    reference = create_cosine_drift(1 / 128, np.arange(N_VOLUMES) * T_R)[:, :-1]  # its last column is the constant
    assert cosines(N_VOLUMES, T_R).shape == reference.shape
    assert cosines(N_VOLUMES, T_R) == pytest.approx(reference)


def test_derivatives_and_squares_are_of_the_columns_they_are_named_after(table_and_metadata):
    _, motion, table, _ = table_and_metadata
    for name in ("trans_x", "rot_z", "csf", "white_matter", "global_signal"):
        change = table[name].diff()
        assert np.allclose(table[f"{name}_derivative1"], change, equal_nan=True)
        assert np.allclose(table[f"{name}_derivative1_power2"], change**2, equal_nan=True)
        assert np.allclose(table[f"{name}_power2"], table[name] ** 2)
    assert np.allclose(table["rot_z"], motion[:, 5])


def test_only_derivatives_fd_and_dvars_lack_a_first_value(table_and_metadata):
    table = table_and_metadata[2]
    empty = set(table.columns[table.isna().any()])
    expected = {name for name in table if "derivative1" in name} | {"framewise_displacement", "dvars", "std_dvars"}
    assert empty == expected
    assert not table.iloc[1:].isna().any().any()


def test_dvars_is_the_root_mean_square_of_changes_and_near_one_where_standardised(table_and_metadata):
    scan, _, table, _ = table_and_metadata
    by_hand = np.sqrt((np.diff(scan.astype(np.float64), axis=0) ** 2).mean(1))
    assert table["dvars"].to_numpy()[1:] == pytest.approx(by_hand, rel=1e-5)
    assert table["std_dvars"].median() == pytest.approx(1, abs=0.1)


def test_spike_columns_mark_the_volumes_that_move(table_and_metadata):
    table = table_and_metadata[2]
    spikes = table[[name for name in table if name.startswith("motion_outlier")]]
    assert (spikes.sum() == 1).all()
    moved = (table["framewise_displacement"] > 0.5) | (table["std_dvars"] > 1.5)
    assert (spikes.sum(axis=1).astype(bool) == moved).all()
    assert moved.any()
    assert table["non_steady_state_outlier00"].tolist() == [1.0] + [0.0] * (N_VOLUMES - 1)


def test_compcor_finds_the_signal_of_the_tissue_and_leaves_drift_to_the_cosines(table_and_metadata):
    scan, _, table, metadata = table_and_metadata
    shared = scan[:, :200].mean(1)
    assert abs(np.corrcoef(table["a_comp_cor_00"], shared)[0, 1]) > 0.95
    names = [name for name in table if "_comp_cor_" in name]
    assert {metadata[name]["Mask"] for name in names} == {"CSF", "WM", "combined"}
    components = table[names].to_numpy()
    assert np.abs(cosines(N_VOLUMES, T_R).T @ components).max() < 1e-4
    combined = [metadata[name]["VarianceExplained"] for name in names if name.startswith("a_")]
    assert combined == sorted(combined, reverse=True)
    assert metadata["a_comp_cor_04"]["CumulativeVarianceExplained"] == pytest.approx(sum(combined))
