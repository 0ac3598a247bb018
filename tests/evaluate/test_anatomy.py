"""Voxels and regional volumes as baselines, against scikit-learn on whole matrices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from maps import AFFINE, brains, people_of, stored
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from neuropipe.config import Split, Task
from neuropipe.errors import InputError
from neuropipe.evaluate import anatomy, systems
from neuropipe.evaluate.anatomy import Maps, MaskedVoxels, regional_volumes
from neuropipe.evaluate.features import confound_design, confound_names
from neuropipe.evaluate.linear import STRENGTHS
from neuropipe.evaluate.question import ask
from neuropipe.evaluate.targets import read_target
from neuropipe.shards.read import Grid
from neuropipe.splits.make import make_split

RNG = np.random.default_rng(0)
SIDES = [np.arange(0, 20), np.arange(5, 30), np.arange(10, 24)]


def sklearn_mask(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    mean = values[train].mean(axis=0)
    return mean > anatomy.MASK_SHARE * mean.max()


@pytest.fixture(params=[1 << 10, 1 << 14, 1 << 30], ids=["small blocks", "blocks", "one block"])
def measured(request, monkeypatch):
    """Thirty maps, and their inner products for three training sides."""
    monkeypatch.setattr(anatomy, "BLOCK_BYTES", request.param)
    arrays = brains(30)
    source = stored(arrays)
    return np.stack([a.ravel() for a in arrays]), MaskedVoxels.of(Maps(people_of(source), [source]), SIDES)


@pytest.mark.parametrize("side", range(3))
def test_predictions_are_those_of_principal_components_and_ridge(measured, side):
    values, found = measured
    train, test = SIDES[side], np.setdiff1d(np.arange(30), SIDES[side])
    mask = sklearn_mask(values, train)
    kernel = found.kernel(side)
    assert kernel.n_features == mask.sum() < values.shape[1]
    coordinates = kernel.coordinates(train)
    masked = values[:, mask]
    size = np.sqrt(((masked[train] - masked[train].mean(axis=0)) ** 2).sum(axis=1).mean())
    y = RNG.standard_normal(30)
    label = y > 0
    for alpha in (0.01, 1.0, 100.0):
        reference = make_pipeline(PCA(len(train) - 1), Ridge(alpha=alpha * size**2)).fit(masked[train], y[train])
        ours = Ridge(alpha=alpha).fit(coordinates[train], y[train])
        np.testing.assert_allclose(ours.predict(coordinates[test]), reference.predict(masked[test]), atol=1e-4)
    strict = {"tol": 1e-10, "max_iter": 10_000}
    reference = make_pipeline(PCA(len(train) - 1), LogisticRegression(C=1 / size**2, **strict))
    logits = reference.fit(masked[train], label[train]).decision_function(masked[test])
    ours = LogisticRegression(C=1.0, **strict).fit(coordinates[train], label[train])
    np.testing.assert_allclose(ours.decision_function(coordinates[test]), logits, atol=1e-4)


def test_no_test_map_decides_about_the_mask_or_the_components():
    arrays = brains(30)
    changed = [*arrays[:20], *(5 * RNG.random(a.shape) for a in arrays[20:])]
    both = []
    for maps in (arrays, changed):
        source = stored(maps)
        both.append(MaskedVoxels.of(Maps(people_of(source), [source]), SIDES[:1]).kernel(0))
    assert both[0].n_features == both[1].n_features
    first, second = (kernel.coordinates(SIDES[0])[:20] for kernel in both)
    np.testing.assert_allclose(first @ first.T, second @ second.T, atol=1e-4)


def test_stored_integers_are_read_with_their_scale_and_sessions_are_averaged(monkeypatch):
    monkeypatch.setattr(anatomy, "BLOCK_BYTES", 4096)
    arrays = [RNG.integers(0, 255, (4, 5, 6)).astype(np.uint8) for _ in range(4)]
    source = stored(arrays, ["sub-b", "sub-a", "sub-b", "sub-c"], scale=0.5, shift=-3.0)
    values = np.concatenate(list(Maps(people_of(source), [source]).blocks()), axis=1)
    whole = [0.5 * a.ravel() - 3.0 for a in arrays]
    np.testing.assert_allclose(values, [whole[1], (whole[0] + whole[2]) / 2, whole[3]], rtol=1e-6)


def test_a_stack_of_slices_is_its_mean_slice():
    arrays = [RNG.random((n, 6, 7)).astype(np.float16) for n in (3, 5, 4)]
    source = stored(arrays, content="image")
    maps = Maps(people_of(source), [source])
    assert maps.shape == (6, 7)
    (values,) = maps.blocks()
    np.testing.assert_allclose(values, [a.astype(float).mean(axis=0).ravel() for a in arrays], rtol=1e-5)


def test_maps_on_different_grids_are_refused():
    first, second = stored(brains(4)), stored(brains(4, (9, 10, 9)), dataset="other")
    with pytest.raises(InputError, match=r"one grid, found 9 x 10 x 8, 9 x 10 x 9"):
        _ = Maps(people_of(first, second), [first, second]).shape
    moved = AFFINE.copy()
    moved[0, 3] = 2.0
    second = dataclasses.replace(stored(brains(4), dataset="other"), grid=Grid(first.grid.space, (9, 10, 8), moved))
    with pytest.raises(InputError, match=r"Voxels of other .* do not lie in the same places"):
        _ = Maps(people_of(first, second), [first, second]).shape


def test_memory_holds_a_block_and_never_all_maps(monkeypatch):
    monkeypatch.setattr(anatomy, "BLOCK_BYTES", 4 * 12 * 100)
    source = stored(brains(12))
    sizes = [block.shape for block in Maps(people_of(source), [source]).blocks()]
    assert max(sizes) == (12, 100)
    assert sum(size[1] for size in sizes) == 9 * 10 * 8


def test_regional_volumes_are_averaged_over_sessions_with_their_sum_last():
    source = stored(brains(3), ["sub-b", "sub-a", "sub-b"])
    source.regional = pd.DataFrame({"left": [1.0, 2.0, 3.0], "right": [4.0, 5.0, np.nan]}, index=source.manifest["key"])
    found = regional_volumes(people_of(source), [source])
    np.testing.assert_allclose(found.values, [[2, 5, 7], [2, 4, 6]])
    assert found.scaled


def test_regional_volumes_of_other_regions_are_refused():
    first, second = stored(brains(2)), stored(brains(2), dataset="other")
    for source, column in ((first, "left"), (second, "right")):
        source.regional = pd.DataFrame({column: [1.0, 2.0]}, index=source.manifest["key"])
    with pytest.raises(InputError, match="of other and toy are of different regions"):
        regional_volumes(people_of(first, second), [first, second])


def test_confounds_of_maps_are_theirs_and_not_those_of_series():
    source = stored(brains(4))
    people = people_of(source)
    assert confound_names(["sex", "tiv_ml"], "age", people) == ["sex", "tiv_ml"]
    np.testing.assert_allclose(confound_design(people, ["tiv_ml"]).values[:, 0], source.manifest["tiv_ml"])
    for name in ("mean_fd", "n_timepoints"):
        with pytest.raises(InputError, match=f"The confound '{name}' is not known: expected it of series"):
            confound_design(people, [name])
    people.participants["toy"]["mean_fd"] = [0.4, 0.3, 0.2, 0.1]
    np.testing.assert_allclose(confound_design(people, ["mean_fd"]).values[:, 0], [0.4, 0.3, 0.2, 0.1])


def question(source, target="age", kind="regression", positive=None):
    people = people_of(source)
    task = Task(target=target, kind=kind, positive=positive, datasets=["toy"], split="main")
    table = make_split("main", Split(scheme="kfold", n_folds=3), people)
    return ask(people, read_target("t", task, people), table, draws=20, seed=0)


def test_a_planted_atrophy_is_found_by_the_voxels():
    arrays, ages = brains(45), None
    source = stored(arrays)
    ages = source.participants["age"].to_numpy()
    source.arrays = [(a * (1.4 - age / 100)).astype(np.float16) for a, age in zip(arrays, ages, strict=True)]
    (found,) = systems.linear_model("voxels", question(source), [source], ["linear"])
    predictions = found.predictions
    assert predictions["run_id"].unique().tolist() == ["t_voxels_ridge"]
    error = (predictions["yhat"] - predictions["y"]).abs().mean()
    assert error < 0.5 * (predictions["train_mean"] - predictions["y"]).abs().mean()
    assert len(predictions) == predictions["participant_id"].nunique() == 45
    assert set(found.choices["strength"]) <= set(STRENGTHS)
    assert found.choices["n_features"].between(200, 700).all()


def test_one_row_per_person_however_many_scans():
    arrays = brains(36)
    source = stored(arrays, [f"sub-{i % 24:03d}" for i in range(36)])
    answers = systems.linear_model("voxels", question(source, "diagnosis", "binary", "patient"), [source], ["linear"])
    assert [one.predictions["readout"].iloc[0] for one in answers] == ["logistic", "ridge"]
    assert all(len(one.predictions) == one.predictions["participant_id"].nunique() == 24 for one in answers)


def test_slices_of_several_shapes_have_no_pixels_to_compare():
    source = stored([RNG.random((3, 6, 7 + i % 2)) for i in range(24)], content="image")
    assert systems.linear_model("voxels", question(source), [source], ["linear"]) == []
