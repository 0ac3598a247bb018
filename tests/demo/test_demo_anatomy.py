"""The grey-matter maps: what is planted is in the files, by regression, and no more than that can be found."""

from itertools import pairwise
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from neuropipe.demo.anatomy import (
    AGE_BLOBS,
    DIAGNOSIS_BLOBS,
    GREY_SHARE,
    MEAN_TIV_ML,
    AnatomyEffects,
    blobs,
    draw_scans,
    simulate_map,
    template,
)
from neuropipe.demo.atlas import SHAPE, affine
from neuropipe.demo.cat12 import scan_files, write_scans
from neuropipe.demo.coupling import AGE_MEAN, AGE_RANGE, AGE_SD
from neuropipe.demo.people import SITES
from neuropipe.demo.study import make_plan
from neuropipe.demo.truth import describe_anatomy

EFFECTS = AnatomyEffects()
USABLE_GRADE = 4.0


def _rng(scan):
    return np.random.default_rng([7, scan.person])


@pytest.fixture(scope="module")
def plan():
    return make_plan(0)


@pytest.fixture(scope="module")
def folder(plan, tmp_path_factory):
    """The maps and reports of the whole study."""
    root = tmp_path_factory.mktemp("cat12")
    write_scans(root, plan.scans, _rng)
    return root


@pytest.fixture(scope="module")
def usable(plan, folder):
    """People with a usable map: (table, maps in RAS order)."""
    scans = [scan for scan in plan.scans if scan.has_map and not scan.is_poor]
    images = [nib.as_closest_canonical(nib.load(folder / scan_files(scan)["map"])) for scan in scans]
    people = plan.people.iloc[[scan.person for scan in scans]].assign(tiv_ml=[scan.tiv_ml for scan in scans])
    return people.reset_index(drop=True), np.stack([image.get_fdata() for image in images])


def _report(folder, scan):
    root = ElementTree.parse(folder / scan_files(scan)["report"]).getroot()
    tissues = [float(volume) for volume in root.findtext("subjectmeasures/vol_abs_CGW").strip("[]").split()]
    return float(root.findtext("subjectmeasures/vol_TIV")), tissues, float(root.findtext("qualityratings/IQR"))


def _regress(people, values):
    """Return estimates and standard errors of ordinary least squares on all that is planted, by name."""
    site = pd.get_dummies(people["site"], dtype=float).drop(columns=SITES[0].name)
    design = pd.DataFrame(
        {
            "one": 1.0,
            "age": (people["age"] - AGE_MEAN) / AGE_SD,
            "patient": (people["diagnosis"] == "patient").astype(float),
            "tiv": np.log(people["tiv_ml"] / MEAN_TIV_ML),
            **site,
        }
    )
    x = design.to_numpy()
    beta, *_ = np.linalg.lstsq(x, values, rcond=None)
    variance = np.square(values - x @ beta).sum() / (len(x) - x.shape[1])
    error = np.sqrt(variance * np.linalg.inv(x.T @ x).diagonal())
    return {name: pair for name, *pair in zip(design, beta, error, strict=True)}


def _log_volume(maps, weight):
    """Return the log of each map's grey matter under `weight` over the template's."""
    return np.log((maps * weight).sum((1, 2, 3)) / (template() * weight).sum())


@pytest.mark.parametrize(
    ("where", "effect", "size"),
    [(AGE_BLOBS, "age", EFFECTS.age_slope), (DIAGNOSIS_BLOBS, "patient", EFFECTS.diagnosis_step)],
    ids=["age", "diagnosis"],
)
def test_planted_regions_shrink_as_planted_and_others_do_not(usable, where, effect, size):
    people, maps = usable
    weight = blobs(where)
    expected = -size * (template() * weight**2).sum() / (template() * weight).sum()  # its mean over the blob
    slope, error = _regress(people, _log_volume(maps, weight))[effect]
    assert slope == pytest.approx(expected, abs=3 * error)
    assert slope < -4 * error
    elsewhere = np.maximum(blobs(AGE_BLOBS), blobs(DIAGNOSIS_BLOBS)) < 0.02
    slope, error = _regress(people, _log_volume(maps, elsewhere))[effect]
    assert slope == pytest.approx(0, abs=3 * error)


def test_maps_scale_with_the_head_and_with_the_gain_of_the_site(usable):
    people, maps = usable
    found = _regress(people, _log_volume(maps, np.ones(SHAPE)))
    assert found["tiv"][0] == pytest.approx(1, abs=3 * found["tiv"][1])
    assert found["tiv"][0] > 4 * found["tiv"][1]
    for site in SITES[1:]:
        assert found[site.name][0] == pytest.approx(np.log(site.grey_gain), abs=3 * found[site.name][1])
    assert (
        stats.ttest_ind(people.loc[people["sex"] == "M", "tiv_ml"], people.loc[people["sex"] == "F", "tiv_ml"])[1]
        < 0.01
    )


def test_sites_blur_as_planted(usable):
    people, maps = usable
    roughness = np.abs(np.diff(maps, axis=2)).sum((1, 2, 3)) / maps.sum((1, 2, 3))
    by_site = pd.Series(roughness).groupby(people["site"])
    order = [site.name for site in sorted(SITES, key=lambda site: site.grey_blur_mm)]
    for sharp, blurred in pairwise(order):
        assert by_site.min()[sharp] > by_site.max()[blurred]


def test_reports_tell_the_planted_volume_and_what_the_map_sums_to(plan, folder):
    for scan in plan.scans:
        if scan.has_map:
            tiv_ml, (csf, gm, wm, *rest), grade = _report(folder, scan)
            image = nib.load(folder / scan_files(scan)["map"])
            voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
            assert (tiv_ml, grade) == (pytest.approx(scan.tiv_ml), pytest.approx(scan.iqr_grade))
            assert gm == pytest.approx(image.get_fdata().sum() * voxel_ml, rel=1e-4)
            assert csf + gm + wm + sum(rest) == pytest.approx(tiv_ml, rel=1e-4)
            assert min(csf, gm, wm) > 0.1 * tiv_ml


def test_one_scan_has_no_map_and_one_is_poor(plan, folder):
    there = {path.name.split("_")[1] if "cat_" in path.name else path.name[4:11] for path in folder.rglob("*_T1w.*")}
    assert {scan.participant_id for scan in plan.scans if not scan.has_map} == set(
        plan.people["participant_id"]
    ) - there
    assert len(there) == len(plan.people) - 1
    grades = [_report(folder, scan)[2] for scan in plan.scans if scan.has_map]
    assert sum(grade > USABLE_GRADE for grade in grades) == sum(scan.is_poor for scan in plan.scans) == 1


def test_one_file_is_in_another_orientation_and_shows_the_same_brain(plan, folder):
    left_first = [scan for scan in plan.scans if scan.left_first]
    for scan in plan.scans:
        if scan.has_map:
            image = nib.load(folder / scan_files(scan)["map"])
            assert image.get_data_dtype() == np.float32 and image.shape == SHAPE and image.header["sform_code"] == 4
            assert "".join(nib.aff2axcodes(image.affine)) == ("LAS" if scan.left_first else "RAS")
    (scan,) = left_first
    image = nib.as_closest_canonical(nib.load(folder / scan_files(scan)["map"]))
    assert np.allclose(image.affine, affine())
    assert np.array_equal(np.asarray(image.dataobj), simulate_map(scan, _rng(scan)))


def test_the_template_is_a_symmetric_ribbon_with_the_grey_matter_of_a_head():
    grey, side = template(), np.diag(affine())[0]
    assert grey.sum() * side**3 / 1000 == pytest.approx(GREY_SHARE * MEAN_TIV_ML)
    assert np.allclose(grey, grey[::-1])
    assert 0.5 < grey.max() < 1.2
    middle = grey[SHAPE[0] // 2 :, 18, 17]  # from the midline out, through white matter, to the right cortex
    assert middle[5] < 0.1 * middle.max() and middle[0] < middle.max() and middle[-1] == 0


def test_the_best_numbers_are_those_of_the_scores_in_many_people():
    n = 4000
    rng = np.random.default_rng(3)
    people = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:04d}" for i in range(n)],
            "age": rng.uniform(*AGE_RANGE, n),
            "sex": rng.choice(["F", "M"], n),
            "diagnosis": rng.choice(["patient", "control"], n),
            "site": SITES[0].name,
        }
    )
    scans = draw_scans(people, SITES, rng)
    truth = describe_anatomy(people, scans, SITES)
    patient, age = people["diagnosis"] == "patient", people["age"].to_numpy()
    measured = roc_auc_score(patient, [scan.diagnosis_score for scan in scans])
    assert truth["diagnosis"]["best_auroc"] == pytest.approx(measured, abs=0.015)
    assert truth["diagnosis"]["auroc_of_planted_score_in_these_people"] == pytest.approx(measured)
    score = np.array([[scan.age_score] for scan in scans])
    fitted = LinearRegression().fit(score, age)
    assert truth["age"]["best_r2"] == pytest.approx(fitted.score(score, age), abs=0.015)
    assert truth["age"]["best_mae_years"] == pytest.approx(mean_absolute_error(age, fitted.predict(score)), rel=0.03)


def test_age_and_diagnosis_can_be_found_in_voxels(usable):
    people, maps = usable
    voxels, age = maps[:, template() > 0.1], people["age"].to_numpy()
    patient = (people["diagnosis"] == "patient").to_numpy()
    ridge = make_pipeline(PCA(20, random_state=0), RidgeCV(np.logspace(-2, 3, 6)))
    assert (
        mean_absolute_error(age, cross_val_predict(ridge, voxels, age, cv=5)) < 0.75 * np.abs(age - age.mean()).mean()
    )
    logistic = make_pipeline(PCA(20, random_state=0), LogisticRegression())
    scores = cross_val_predict(logistic, voxels, patient, cv=5, method="decision_function")
    assert 0.7 < roc_auc_score(patient, scores) < 0.97
