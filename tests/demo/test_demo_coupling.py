"""What is planted is there, is nowhere else, and the stated best is what an oracle reaches."""

import numpy as np
import pytest
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score

from neuropipe.demo.coupling import (
    AGE_PAIRS,
    AGE_RANGE,
    DIAGNOSIS_PAIRS,
    NETWORKS,
    Effects,
    draw_couplings,
    network_ids,
    pattern,
    population,
    score,
)
from neuropipe.demo.signals import regional_series
from neuropipe.demo.truth import auroc, best_age_mae, best_age_r2, best_auroc, recording_noise

PAIRS = np.triu_indices(len(NETWORKS), 1)
N_PEOPLE = 20_000


@pytest.fixture(scope="module")
def crowd():
    """20,000 people: (patient, age in years, coupling of the 36 pairs, coupling matrices)."""
    rng = np.random.default_rng(11)
    patient = np.arange(N_PEOPLE) % 2 == 0
    age = rng.uniform(*AGE_RANGE, N_PEOPLE)
    couplings = draw_couplings(patient, age, rng)
    return patient, age, couplings[:, *PAIRS], couplings


def test_population_and_people_are_correlation_matrices(crowd):
    couplings = crowd[3]
    assert np.linalg.eigvalsh(population())[0] > 0.3
    assert np.linalg.eigvalsh(couplings)[:, 0].min() > 0
    assert (np.diagonal(couplings, axis1=1, axis2=2) == 1).all()
    assert (couplings == couplings.transpose(0, 2, 1)).all()


def test_network_sizes_are_those_of_the_published_map():
    ids = network_ids()
    assert np.bincount(ids).tolist() == [61, 77, 46, 47, 26, 52, 91, 50, 7]
    assert 1 + np.count_nonzero(np.diff(ids)) == 16  # 7 runs in each hemisphere, subcortex, cerebellum


def test_diagnosis_shifts_the_named_pairs_by_the_step_and_no_other(crowd):
    patient, _, coupling, _ = crowd
    shift = coupling[patient].mean(0) - coupling[~patient].mean(0)
    error = np.sqrt(coupling[patient].var(0) + coupling[~patient].var(0)) / np.sqrt(N_PEOPLE / 2)
    assert np.abs(shift - Effects().diagnosis_step * pattern(DIAGNOSIS_PAIRS)[PAIRS]).max() < (5 * error).max()
    assert np.count_nonzero(np.abs(shift) > 5 * error) == len(DIAGNOSIS_PAIRS)


def test_age_moves_the_named_pairs_and_no_other(crowd):
    _, age, coupling, _ = crowd
    r = np.array([stats.pearsonr(age, column).statistic for column in coupling.T])
    moved = np.abs(r) > 5 / N_PEOPLE**0.5
    assert (moved == (pattern(AGE_PAIRS)[PAIRS] != 0)).all()
    assert (np.sign(r[moved]) == pattern(AGE_PAIRS)[PAIRS][moved]).all()


def test_best_auroc_is_what_the_oracle_reaches_and_a_fitted_discriminant_does_not_pass(crowd):
    patient, _, coupling, couplings = crowd
    expected = best_auroc(Effects())
    assert 0.95 < expected < 0.98
    reached = score(couplings, DIAGNOSIS_PAIRS)
    assert roc_auc_score(patient, reached) == pytest.approx(expected, abs=0.003)
    assert auroc(reached, patient) == pytest.approx(roc_auc_score(patient, reached), abs=1e-12)
    half = N_PEOPLE // 2
    fitted = LinearDiscriminantAnalysis().fit(coupling[:half], patient[:half])
    assert roc_auc_score(patient[half:], fitted.decision_function(coupling[half:])) == pytest.approx(
        expected, abs=0.004
    )


def test_best_age_prediction_is_what_a_regression_on_true_coupling_reaches(crowd):
    _, age, coupling, _ = crowd
    half, expected = N_PEOPLE // 2, best_age_r2(Effects())
    predicted = LinearRegression().fit(coupling[:half], age[:half]).predict(coupling[half:])
    assert r2_score(age[half:], predicted) == pytest.approx(expected, abs=0.01)
    assert mean_absolute_error(age[half:], predicted) == pytest.approx(best_age_mae(expected), rel=0.02)


def test_motion_adds_to_the_best_auroc_as_an_independent_normal_score():
    rng = np.random.default_rng(3)
    patient = np.arange(40_000) % 2 == 0
    d = stats.norm.ppf(best_auroc(Effects())) * 2**0.5
    both = d * (d * patient + rng.normal(size=40_000)) + 0.8 * (0.8 * patient + rng.normal(size=40_000))
    assert best_auroc(Effects(), motion_d=0.8) == pytest.approx(roc_auc_score(patient, both), abs=0.002)


def test_best_from_one_recording_is_what_the_oracle_reaches_on_measured_correlations():
    rng = np.random.default_rng(5)
    patient = np.arange(4000) % 2 == 0
    couplings = draw_couplings(patient, rng.uniform(*AGE_RANGE, 4000), rng)
    networks_only = regional_series(
        couplings, np.arange(len(NETWORKS)), n_samples=200, t_r=2.0, rng=rng, loading=1.0
    ).astype(np.float64)
    measured = np.stack([np.corrcoef(series, rowvar=False) for series in networks_only])
    noise, _ = recording_noise(200, 2.0, rng, Effects())
    reached = roc_auc_score(patient, score(measured, DIAGNOSIS_PAIRS))
    assert best_auroc(Effects(), noise) == pytest.approx(reached, abs=0.008)
    assert best_auroc(Effects(), noise) < best_auroc(Effects())
