"""Motion goes with diagnosis, age does not, and ids tell nothing."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from neuropipe.demo.coupling import AGE_MEAN, AGE_RANGE, AGE_SD
from neuropipe.demo.people import FD_LIMITS_MM, LOG_FD_SD, LOG_FD_STEP, SITES, draw_people

SEEDS = range(40)


@pytest.fixture(scope="module")
def studies():
    return [draw_people(np.random.default_rng(seed)) for seed in SEEDS]


def test_a_study_has_48_people_half_of_them_patients_at_every_site(studies):
    for people in studies:
        assert len(people) == 48
        assert people["participant_id"].is_unique
        counts = people.groupby(["site", "diagnosis"]).size().unstack()
        assert counts["patient"].to_dict() == counts["control"].to_dict() == {s.name: s.n_pairs for s in SITES}


def test_patients_move_more_in_every_study_by_the_planted_amount(studies):
    aurocs = [roc_auc_score(people["diagnosis"] == "patient", people["mean_fd_mm"]) for people in studies]
    assert min(aurocs) > 0.6
    assert np.mean(aurocs) == pytest.approx(stats.norm.cdf(LOG_FD_STEP / LOG_FD_SD / 2**0.5), abs=0.02)
    assert all(people["mean_fd_mm"].between(*FD_LIMITS_MM).all() for people in studies)


def test_sexes_are_matched_between_the_groups(studies):
    for people in studies:
        counts = people.groupby(["site", "diagnosis", "sex"]).size().unstack("diagnosis")
        assert (counts["patient"] == counts["control"]).all()
    women = np.mean([(people["sex"] == "F").mean() for people in studies])
    assert women == pytest.approx(0.5, abs=0.06)


def test_age_is_uniform_and_matched_between_the_groups(studies):
    for people in studies:
        assert people["age"].between(*AGE_RANGE).all()
        by_group = people.groupby("diagnosis")["age"].mean()
        assert abs(by_group["patient"] - by_group["control"]) < 1.0
    ages = np.concatenate([people["age"] for people in studies])
    assert ages.mean() == pytest.approx(AGE_MEAN, abs=1.0)
    assert ages.std() == pytest.approx(AGE_SD, rel=0.05)


def test_the_order_of_people_is_unrelated_to_diagnosis(studies):
    positions = [np.flatnonzero(people["diagnosis"] == "patient").mean() for people in studies]
    assert stats.ttest_1samp(positions, 23.5).pvalue > 0.001
