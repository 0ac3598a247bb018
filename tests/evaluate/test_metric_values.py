"""Metrics against scikit-learn and scipy, unweighted, weighted as repeated people, and many at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import linear_model
from sklearn import metrics as reference

from neuropipe.evaluate import metrics
from neuropipe.evaluate.metrics import METRICS, Scored

RNG = np.random.default_rng(0)


def classes(n: int = 60, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    y = (RNG.random(n) < 0.4).astype(float)
    probability = 1 / (1 + np.exp(-(RNG.standard_normal(n) + y - 0.5)))
    return y, np.round(probability, 1) if ties else probability


CLASS_METRICS = {
    "auroc": (metrics.auroc, reference.roc_auc_score),
    "auprc": (metrics.auprc, reference.average_precision_score),
    "balanced_accuracy": (metrics.balanced_accuracy, lambda y, p: reference.balanced_accuracy_score(y, p >= 0.5)),
    "mcc": (metrics.mcc, lambda y, p: reference.matthews_corrcoef(y, p >= 0.5)),
    "brier": (metrics.brier, reference.brier_score_loss),
}
NUMBER_METRICS = {
    "mae": (metrics.mae, reference.mean_absolute_error),
    "pearson_r": (metrics.pearson_r, lambda y, p: stats.pearsonr(y, p).statistic),
    "age_bias_slope": (metrics.age_bias_slope, lambda y, p: stats.linregress(y, p - y).slope),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", CLASS_METRICS)
def test_class_metrics_are_scikit_learns(name, ties):
    ours, theirs = CLASS_METRICS[name]
    y, probability = classes(ties=ties)
    once = np.ones((1, len(y)))
    assert ours(y[None], probability[None], once)[0] == pytest.approx(theirs(y, probability), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", CLASS_METRICS)
def test_weights_are_repeated_people(name, ties):
    ours, theirs = CLASS_METRICS[name]
    y, probability = classes(ties=ties)
    weight = RNG.integers(0, 4, (20, len(y))).astype(np.float32)
    repeated = [theirs(np.repeat(y, w.astype(int)), np.repeat(probability, w.astype(int))) for w in weight]
    np.testing.assert_allclose(ours(y[None], probability[None], weight), repeated, rtol=1e-5)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", CLASS_METRICS)
def test_many_label_vectors_at_once(name, ties):
    ours, theirs = CLASS_METRICS[name]
    pairs = [classes(ties=ties) for _ in range(8)]
    y, probability = (np.stack(part) for part in zip(*pairs, strict=True))
    expected = [theirs(*pair) for pair in pairs]
    np.testing.assert_allclose(ours(y, probability, np.ones((1, y.shape[1]))), expected, rtol=1e-9)


def numbers(n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    y = RNG.uniform(20, 80, n)
    return y, 0.5 * y + 25 + 5 * RNG.standard_normal(n)


@pytest.mark.parametrize("name", NUMBER_METRICS)
def test_metrics_of_numbers_are_scikit_learns_and_scipys(name):
    ours, theirs = NUMBER_METRICS[name]
    y, yhat = numbers()
    weight = np.concatenate([np.ones((1, 50)), RNG.integers(0, 3, (10, 50))]).astype(np.float32)
    expected = [theirs(np.repeat(y, w.astype(int)), np.repeat(yhat, w.astype(int))) for w in weight]
    np.testing.assert_allclose(ours(y[None], yhat[None], weight), expected, rtol=1e-5)
    pairs = [numbers() for _ in range(4)]
    many = ours(*(np.stack(part) for part in zip(*pairs, strict=True)), np.ones((1, 50)))
    np.testing.assert_allclose(many, [theirs(*pair) for pair in pairs], rtol=1e-9)


def test_r2_is_against_the_training_mean_not_the_test_mean():
    y, yhat = numbers()
    found = metrics.r2(y[None], yhat[None], np.ones((1, 50)), np.full((1, 50), 30.0))[0]
    assert found == pytest.approx(1 - ((y - yhat) ** 2).sum() / ((y - 30) ** 2).sum())
    own = metrics.r2(y[None], yhat[None], np.ones((1, 50)), np.full((1, 50), y.mean()))[0]
    assert own == pytest.approx(reference.r2_score(y, yhat))


def test_predicting_the_training_mean_has_no_skill_and_full_age_bias():
    y = RNG.uniform(20, 80, (1, 40))
    constant = np.full((1, 40), 45.0)
    once = np.ones((1, 40))
    assert metrics.r2(y, constant, once, constant)[0] == 0
    assert np.isnan(metrics.pearson_r(y, constant, once)[0])
    assert metrics.age_bias_slope(y, constant, once)[0] == pytest.approx(-1)


def test_one_class_gives_no_value():
    score = RNG.random((1, 10))
    once = np.ones((1, 10))
    for y in (np.zeros((1, 10)), np.ones((1, 10))):
        assert np.isnan(metrics.auroc(y, score, once)[0])
        assert np.isnan(metrics.balanced_accuracy(y, score, once)[0])


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_a_calibrated_simulation_has_a_small_calibration_error(spread):
    # 20,000 people, 22 % prevalence, outcomes drawn from the very probabilities that are predicted.
    rng = np.random.default_rng(1)
    probability = 1 / (1 + np.exp(-(spread * rng.standard_normal(20_000) - 1.27)))
    probability *= 0.22 / probability.mean()
    y = (rng.random(20_000) < probability).astype(float)
    once = np.ones((1, 20_000))
    assert metrics.ece(y[None], probability[None], once)[0] < 0.01
    wrong = np.clip(probability + 0.1, 0, 1)
    assert metrics.ece(y[None], wrong[None], once)[0] == pytest.approx(0.1, abs=0.01)


def test_calibration_error_by_hand_in_fifteen_bins_of_two():
    probability = np.repeat(np.linspace(0.1, 0.9, 15), 2)
    y = np.tile([0.0, 1.0], 15)  # every bin has frequency one half
    expected = np.abs(np.linspace(0.1, 0.9, 15) - 0.5).mean()
    once = np.ones((1, 30))
    assert metrics.ece(y[None], probability[None], once)[0] == pytest.approx(expected)
    both = metrics.ece(np.stack([y, 1 - y]), np.stack([probability, probability]), once)
    np.testing.assert_allclose(both, expected)


def test_equal_probabilities_share_a_bin_whatever_the_order_of_people():
    y = np.concatenate([np.zeros(20), np.ones(20)])
    assert metrics.ece(y[None], np.full((1, 40), 0.5), np.ones((1, 40)))[0] == pytest.approx(0)


def test_brier_skill_is_zero_for_the_prevalence_and_one_for_the_truth():
    y = np.repeat([0.0, 1.0], [30, 10])[None]
    once = np.ones((1, 40))
    assert metrics.brier_skill(y, np.full((1, 40), 0.25), once)[0] == pytest.approx(0)
    assert metrics.brier_skill(y, y, once)[0] == pytest.approx(1)


def test_the_calibration_line_is_an_unpenalised_logistic_regression():
    y, probability = classes(200)
    logit = np.log(probability / (1 - probability)) * 1.7 + 0.4
    model = linear_model.LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(logit[:, None], y)
    slope, intercept = metrics.calibration_line(y[None], logit[None], np.ones((1, 200)))
    assert slope[0] == pytest.approx(model.coef_[0, 0], abs=1e-4)
    assert intercept[0] == pytest.approx(model.intercept_[0], abs=1e-4)


def test_the_one_step_bootstrap_of_the_calibration_line_spreads_like_full_refits():
    y, probability = classes(300)
    logit = np.log(probability / (1 - probability))
    weight = np.stack([np.bincount(RNG.integers(0, 300, 300), minlength=300) for _ in range(150)]).astype(float)
    slope, _ = metrics.calibration_line(y[None], logit[None], weight)
    full = [
        linear_model.LogisticRegression(C=np.inf, solver="newton-cholesky")
        .fit(logit[:, None], y, sample_weight=w)
        .coef_[0, 0]
        for w in weight
    ]
    assert np.corrcoef(slope, full)[0, 1] > 0.95
    assert slope.std() == pytest.approx(np.std(full), rel=0.15)


@pytest.mark.parametrize("logit", [np.linspace(-2, 2, 10), -np.linspace(-2, 2, 10), np.zeros(10)])
def test_separated_or_constant_log_odds_have_no_calibration_line(logit):
    y = np.repeat([0.0, 1.0], 5)
    slope, intercept = metrics.calibration_line(y[None], logit[None], np.ones((3, 10)))
    assert np.isnan(slope).all()
    assert np.isnan(intercept).all()


def scored(kind: str) -> Scored:
    """Sixty people or clips with everything that metrics may ask for."""
    if kind == "regression":
        y, prediction = numbers(60)
        return Scored(y[None], prediction[None], None, np.full((1, 60), y.mean()))
    if kind == "binary":
        y, probability = classes()
        logit = np.log(probability / (1 - probability))[None]
        return Scored(
            y[None], probability[None], logit, np.full((1, 60), y.mean()), probability[None], None, probability[None]
        )
    shares = RNG.dirichlet(np.ones(4), 60).T
    return Scored(RNG.integers(0, 4, (1, 60)), shares.argmax(axis=0)[None], None, np.zeros((1, 60)), shares)


@pytest.mark.parametrize("kind", METRICS)
def test_every_listed_metric_gives_one_value_per_draw(kind):
    whole = scored(kind)
    weight = RNG.integers(1, 3, (5, 60)).astype(np.float32)
    for name, metric in METRICS[kind].items():
        assert whole.allows(metric), name
        found = metric.compute(whole, weight)
        assert found.shape == (5,), name
        assert np.isfinite(found).all(), name
        assert (found >= metric.bounds[0]).all(), name
        assert (found <= metric.bounds[1]).all(), name


@pytest.mark.parametrize("kind", METRICS)
def test_some_of_the_people_are_judged_as_they_alone_would_be(kind):
    whole = scored(kind)
    some = np.flatnonzero(RNG.random(60) < 0.7)
    inside = np.isin(np.arange(60), some).astype(float)[None]
    once = np.ones((1, len(some)))
    for name, metric in METRICS[kind].items():
        if "ece" not in name and "calibration" not in name:  # whose bins and start are those of the whole sample
            alone = metric.compute(whole.take(some), once)
            np.testing.assert_allclose(alone, metric.compute(whole, inside), err_msg=name)
