"""Calibration against scikit-learn, a planted truth, and what it must never do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import _sigmoid_calibration

from neuropipe.evaluate import calibration
from neuropipe.evaluate.metrics import calibration_line, ece


def drawn(n: int, rng: np.random.Generator, temperature: float = 2.5, bias: float = -0.8):
    """Outputs whose true log odds are ``output / temperature + bias``."""
    logit = rng.normal(scale=4, size=n)
    return logit, (rng.random(n) < expit(logit / temperature + bias)).astype(float)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_is_platt_scaling_of_scikit_learn(scale):
    logit, y = drawn(200, np.random.default_rng(0))
    found = calibration.fit(logit, y)
    slope, intercept = _sigmoid_calibration(logit, y)  # p = 1 / (1 + exp(slope * x + intercept))
    assert 1 / found["temperature"] == pytest.approx(-slope, rel=1e-3)
    assert found["bias"] == pytest.approx(-intercept, rel=1e-3)
    scaled = calibration.fit(logit * scale, y)
    if scale >= 1:  # smaller outputs need a temperature below one, which is allowed as well
        assert scaled["temperature"] == pytest.approx(min(found["temperature"] * scale, calibration.MAX_TEMPERATURE))
    else:
        assert scaled["temperature"] == pytest.approx(found["temperature"] * scale, rel=1e-3)


def test_a_planted_calibration_is_found_and_probabilities_come_true():
    rng = np.random.default_rng(1)
    logit, y = drawn(20_000, rng)
    found = calibration.fit(logit, y)
    assert found["temperature"] == pytest.approx(2.5, rel=0.05)
    assert found["bias"] == pytest.approx(-0.8, abs=0.05)
    fresh, outcome = drawn(20_000, rng)
    calibrated = fresh / found["temperature"] + found["bias"]
    once = np.ones((1, len(fresh)))
    assert ece(outcome[None], expit(fresh)[None], once)[0] > 0.1
    assert ece(outcome[None], expit(calibrated)[None], once)[0] < 0.015
    slope, intercept = calibration_line(outcome[None], calibrated[None], once)
    assert slope[0] == pytest.approx(1, abs=0.05) and intercept[0] == pytest.approx(0, abs=0.05)


def test_separated_classes_give_finite_probabilities_and_labels_against_the_outputs_no_confidence():
    logit = np.array([-3.0, -2.0, -1.0, 1.0, 2.0])
    separated = calibration.fit(logit, np.array([0, 0, 0, 1, 1]))
    p = expit(logit / separated["temperature"] + separated["bias"])
    assert 0.05 < p.min() < p.max() < 0.95
    against = calibration.fit(logit, np.array([1, 1, 1, 0, 0]))
    assert against["temperature"] == calibration.MAX_TEMPERATURE
    p = expit(logit / against["temperature"] + against["bias"])
    assert (np.diff(p) > 0).all() and p == pytest.approx(np.full(5, 4 / 7), abs=0.1)


def test_outputs_that_do_not_vary_give_the_softened_prevalence():
    found = calibration.fit(np.zeros(8), np.array([1, 1, 0, 0, 0, 0, 0, 0]))
    soft = (2 * 3 / 4 + 6 * 1 / 8) / 8  # Platt's targets: (n+ + 1) / (n+ + 2) and 1 / (n- + 2)
    assert expit(found["bias"]) == pytest.approx(soft, rel=1e-3)
