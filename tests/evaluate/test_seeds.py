"""Several seeds of a recipe: mean, spread, and agreement about people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from test_decoding_metrics import judged
from test_decoding_metrics import rows as clips
from test_summary import held_out, nulls_of, predicted, row, summary

from neuropipe.evaluate.seeds import icc, mean_kappa

# Shrout & Fleiss (1979), Psychological Bulletin 86:420, table 2: six targets, four judges; ICC(2,1) = .29.
RATINGS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


def test_the_intraclass_correlation_is_the_one_of_its_paper():
    assert icc(RATINGS) == pytest.approx(0.29, abs=0.005)
    assert icc(np.repeat(RATINGS[:, :1], 3, axis=1)) == pytest.approx(1)
    assert np.isnan(icc(np.ones((5, 2))))
    assert np.isnan(icc(np.ones((1, 2))))


def test_kappa_is_scikit_learns_over_all_pairs():
    labels = np.random.default_rng(0).integers(0, 3, (3, 50))
    labels[1:] = np.where(np.random.default_rng(1).random((2, 50)) < 0.6, labels[0], labels[1:])
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert mean_kappa(list(labels)) == pytest.approx(
        np.mean([cohen_kappa_score(labels[a], labels[b]) for a, b in pairs])
    )
    assert np.isnan(mean_kappa([np.zeros(5, int), np.zeros(5, int)]))


def of_seeds(folds: int = 1, kind: str = "binary") -> list[pd.DataFrame]:
    """Three seeds of one recipe."""
    found = []
    for seed in range(3):
        run = predicted("model", folds=folds, seed=seed, run_id=f"t_model_logistic_seed-{seed}", kind=kind)
        noise = np.random.default_rng(seed).standard_normal(len(run))
        run["logit"] += noise
        run["score"] = 1 / (1 + np.exp(-run["logit"]))
        run["yhat"] += noise
        found.append(run)
    return found


def test_seeds_have_a_mean_a_spread_and_an_agreement():
    runs = of_seeds()
    nulls = pd.concat([nulls_of(run) for run in runs])
    metrics = summary(*runs, nulls=nulls)
    own = [roc_auc_score(run["y"], run["score"]) for run in runs]
    found = row(metrics, "model", "auroc_seed_mean")
    assert (found["run_id"], found["value"]) == ("t_model_logistic_seeds", pytest.approx(np.mean(own)))
    assert pd.isna(found["seed"])
    assert found["ci_low"] < found["value"] < found["ci_high"]
    assert 0 < found["p_perm"] <= 1
    assert row(metrics, "model", "auroc_seed_sd")["value"] == pytest.approx(np.std(own, ddof=1))
    logits = np.stack([run["logit"] for run in runs], axis=1)
    assert row(metrics, "model", "seed_icc")["value"] == pytest.approx(icc(logits))
    calls = [(run["score"] >= 0.5).to_numpy() for run in runs]
    kappas = [cohen_kappa_score(calls[a], calls[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert row(metrics, "model", "seed_kappa")["value"] == pytest.approx(np.mean(kappas))
    # The rows of single seeds are what they were.
    alone = summary(runs[1], nulls=nulls)
    mine = metrics[metrics["run_id"] == "t_model_logistic_seed-1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, mine)


def test_the_mean_over_seeds_is_compared_like_a_run():
    runs, reference = of_seeds(folds=6), predicted("fc", folds=6, skill=0.2)
    metrics = summary(*runs, reference)
    own = [
        np.mean(
            [
                row(metrics.assign(system=metrics["run_id"]), run["run_id"].iloc[0], fold=f"f{k}")["value"]
                for run in runs
            ]
        )
        for k in range(6)
    ]
    other = [row(metrics, "fc", fold=f"f{k}")["value"] for k in range(6)]
    found = row(metrics, "model", "auroc_seed_mean")
    assert found["delta"] == pytest.approx(np.mean(own) - np.mean(other))
    t = found["delta"] / np.sqrt((1 / 6 + 40 / 60) * np.var(np.subtract(own, other), ddof=1))
    assert found["t_nb"] == pytest.approx(t)
    holdout = row(summary(*of_seeds(), predicted("fc", skill=0.2)), "model", "auroc_seed_mean")
    assert holdout["delta_ci_low"] < holdout["delta"] < holdout["delta_ci_high"]


def test_a_seed_that_says_the_same_of_everyone_is_averaged_too():
    """It is not calibrated, so that it lacks metrics, and has nulls, that the other seeds have not."""
    runs = of_seeds()
    runs[1] = runs[1].assign(logit=0.0, score=0.5)
    nulls = pd.concat([nulls_of(run) for run in runs])
    metrics = summary(*runs, *map(held_out, runs), nulls=nulls)
    own = [row(metrics[metrics["seed"] == seed], "model", "brier")["value"] for seed in range(3)]
    assert row(metrics, "model", "brier_seed_mean")["value"] == pytest.approx(np.mean(own))
    assert pd.isna(row(metrics, "model", "brier_seed_mean")["p_perm"])
    assert "brier_uncalibrated_seed_mean" not in set(metrics["metric"])


def test_numbers_agree_by_their_values_and_labels_of_clips_by_kappa():
    runs = of_seeds(kind="regression")
    metrics = summary(*runs)
    assert row(metrics, "model", "seed_icc")["value"] == pytest.approx(icc(np.stack([r["yhat"] for r in runs], axis=1)))
    assert "seed_kappa" not in set(metrics["metric"])
    person, y = np.repeat(np.arange(10), 8), np.tile(np.arange(4), 20)
    second = np.where(np.arange(80) % 3 == 0, (y + 1) % 4, y)
    two = [
        clips(person, y, yhat, "model").assign(seed=seed, run_id=f"state_model_seed-{seed}")
        for seed, yhat in enumerate((y, second))
    ]
    found = judged(*two, draws=100, permutations=20).set_index("metric")["value"]
    assert found["seed_kappa"] == pytest.approx(cohen_kappa_score(y, second))
    assert "seed_icc" not in found


def test_seeds_on_other_people_or_alone_have_no_common_rows():
    runs = of_seeds()
    runs[1]["participant_id"] += "x"
    runs[1]["person"] += "x"
    assert not summary(*runs[:2])["metric"].str.contains("seed").any()
    assert not summary(runs[0])["metric"].str.contains("seed").any()
