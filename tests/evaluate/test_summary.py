"""The table of metrics from hand-made predictions: rows, intervals, comparisons, corrections."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import mean_absolute_error, roc_auc_score

from neuropipe.errors import InputError
from neuropipe.evaluate import tables, uncertainty
from neuropipe.evaluate.summary import summarise

N_TRAIN = 60


def predicted(
    system: str,
    *,
    task: str = "t",
    folds: int = 1,
    n: int = 40,
    skill: float = 1.0,
    kind: str = "binary",
    **facts: object,
) -> pd.DataFrame:
    """Predictions of a run on the same people and labels for every system."""
    labels, noise = np.random.default_rng(0), np.random.default_rng(sum(map(ord, system)))
    y = (
        labels.permutation(np.arange(n * folds) % 2).astype(float)
        if kind == "binary"
        else labels.uniform(20, 60, n * folds)
    )
    value = skill * (y - y.mean()) + noise.standard_normal(n * folds)
    logit = value if kind == "binary" and facts.get("readout", "logistic") == "logistic" else np.full(n * folds, np.nan)
    table = pd.DataFrame(
        {
            "run_id": f"{task}_{system}",
            "system": system,
            "task": task,
            "readout": "logistic",
            "split": "main",
            "split_scheme": "holdout",
            "target_type": kind,
            "repeat": 0,
            "fold": np.repeat([f"f{i}" for i in range(folds)], n),
            "role": "test",
            "dataset": "toy",
            "participant_id": [f"sub-{i:03d}" for i in range(n * folds)],
            "n_train": N_TRAIN,
            "n_val": 0,
            "train_mean": 0.5 if kind == "binary" else 40.0,
            "y": y,
            "score": 1 / (1 + np.exp(-value)) if kind == "binary" else np.nan,
            "logit": logit,
            "yhat": np.nan if kind == "binary" else 40 + value,
            **facts,
        }
    )
    table["person"] = "toy/" + table["participant_id"]
    return tables.frame(table.reindex(columns=list(tables.PREDICTIONS)), tables.PREDICTIONS)


def nulls_of(predictions: pd.DataFrame, draws: int = 50) -> pd.DataFrame:
    """Permuted labels and unrelated predictions for every test person."""
    rng = np.random.default_rng(5)
    rows = predictions[["run_id", "repeat", "fold", "dataset", "participant_id"]].to_dict("records")
    labels = [rng.permutation(predictions["y"]) for _ in range(draws)]
    for row, y in zip(rows, np.stack(labels, axis=1), strict=True):
        row |= {"y": y.astype(np.float32), "prediction": rng.standard_normal(draws).astype(np.float32)}
    return tables.frame(rows, tables.NULLS)


NO_NULLS = tables.frame([], tables.NULLS)


def summary(*runs: pd.DataFrame, nulls: pd.DataFrame = NO_NULLS, draws: int = 300) -> pd.DataFrame:
    return summarise(pd.concat(runs, ignore_index=True), nulls, draws=draws, seed=0)


def row(
    metrics: pd.DataFrame, system: str, metric: str = "auroc", fold: str = "mean", reference: str | None = None
) -> pd.Series:
    found = metrics[(metrics["system"] == system) & (metrics["metric"] == metric) & (metrics["fold"] == fold)]
    found = found if reference is None else found[found["reference"] == reference]
    assert len(found) == 1
    return found.iloc[0]


def test_a_single_test_set_has_one_row_per_metric_named_mean():
    run = predicted("model", n=80)
    metrics = summary(run)
    assert set(metrics["fold"]) == {"mean"}
    found = row(metrics, "model")
    assert found["value"] == pytest.approx(roc_auc_score(run["y"], run["score"]))
    assert found["ci_low"] < found["value"] < found["ci_high"]
    assert found["ci_method"] == "bootstrap_stratified"
    assert (found["n_test"], found["n_train"], found["prevalence"]) == (80, N_TRAIN, 0.5)
    assert pd.isna(found["p_perm"])
    assert row(metrics, "model", "mcc")["threshold"] == 0.5
    assert row(metrics, "model", "mcc")["threshold_source"] == "fixed"


def test_folds_are_averaged_with_the_corrected_interval_and_pooled_beside():
    run = predicted("model", folds=6)
    metrics = summary(run)
    per_fold = [roc_auc_score(part["y"], part["score"]) for _, part in run.groupby("fold")]
    found, pooled = row(metrics, "model"), row(metrics, "model", fold="pooled")
    assert found["value"] == pytest.approx(np.mean(per_fold))
    assert found["ci_method"] == "corrected_resampled"
    half = stats.t.ppf(0.975, 5) * np.sqrt((1 / 6 + 40 / N_TRAIN) * np.var(per_fold, ddof=1))
    assert found["ci_low"] == pytest.approx(max(0, np.mean(per_fold) - half))
    assert found["ci_high"] == pytest.approx(min(1, np.mean(per_fold) + half))
    assert pooled["value"] == pytest.approx(roc_auc_score(run["y"], run["score"]))
    assert pooled["ci_method"] == "bootstrap_stratified_descriptive"
    assert [row(metrics, "model", fold=f"f{i}")["value"] for i in range(6)] == pytest.approx(per_fold)
    assert (found["n_test"], row(metrics, "model", fold="f2")["n_test"]) == (240, 40)


def test_numbers_are_judged_by_their_error():
    run = predicted("model", kind="regression")
    metrics = summary(run)
    assert row(metrics, "model", "mae")["value"] == pytest.approx(mean_absolute_error(run["y"], run["yhat"]))
    assert row(metrics, "model", "mae")["ci_method"] == "bootstrap"
    assert set(metrics["metric"]) == {"mae", "r2", "pearson_r", "age_bias_slope"}
    assert metrics["prevalence"].isna().all()


def test_scores_that_are_no_probabilities_have_no_calibration():
    metrics = summary(predicted("model", readout="ridge"))
    assert set(metrics["metric"]) == {"auroc", "auprc", "balanced_accuracy", "mcc"}


def test_the_reference_is_connectivity_with_the_same_readout():
    ridge = predicted("fc", readout="ridge", run_id="t_fc_ridge", skill=0.0)
    logistic = predicted("fc", run_id="t_fc_logistic", skill=3.0)
    model = predicted("model", skill=1.0)
    metrics = summary(model, ridge, logistic)
    found = row(metrics, "model")
    expected = roc_auc_score(model["y"], model["score"]) - roc_auc_score(logistic["y"], logistic["score"])
    assert found["reference"] == "fc"
    assert found["delta"] == pytest.approx(expected)
    assert metrics[metrics["system"] == "fc"]["delta"].isna().all()


UNTRAINED = "model (random weights)"


def test_a_trained_model_is_compared_with_its_untrained_twin_too():
    model, untrained, reference = predicted("model", seed=0), predicted(UNTRAINED, seed=0), predicted("fc")
    metrics = summary(model, untrained, reference)
    found = metrics[(metrics["system"] == "model") & (metrics["metric"] == "auroc")]
    assert found["reference"].tolist() == ["fc", UNTRAINED]
    assert found["value"].nunique() == 1
    scores = np.stack([model["score"].to_numpy(), untrained["score"].to_numpy()])
    delta, low, high = uncertainty.delong_difference(model["y"].to_numpy(), scores)
    twin = row(metrics, "model", reference=UNTRAINED)
    assert [twin[name] for name in ("delta", "delta_ci_low", "delta_ci_high")] == pytest.approx([delta, low, high])
    assert row(metrics, UNTRAINED)["reference"] == "fc"
    alone = summary(model, untrained)
    assert row(alone, "model")["reference"] == UNTRAINED
    assert pd.isna(row(alone, UNTRAINED)["reference"])


def test_the_twin_has_the_same_seed_and_readout():
    model = predicted("model", seed=1)
    others = [
        predicted(UNTRAINED, seed=0, run_id="a", skill=3.0),
        predicted(UNTRAINED, seed=1, run_id="b", readout="ridge", skill=3.0),
        predicted(UNTRAINED, seed=1, run_id="c", skill=0.0),
    ]
    own = others[2]
    expected = roc_auc_score(model["y"], model["score"]) - roc_auc_score(own["y"], own["score"])
    assert row(summary(model, *others), "model")["delta"] == pytest.approx(expected)
    assert pd.isna(row(summary(model, *others[:2]), "model")["reference"])


def test_p_is_corrected_among_comparisons_with_one_reference():
    runs = [
        predicted(system, task=task, folds=6, skill=skill)
        for task in ("a", "b")
        for system, skill in (("model", 1.5), (UNTRAINED, 0.8), ("fc", 0.2))
    ]
    metrics = summary(*runs)
    primary = metrics[(metrics["system"] == "model") & (metrics["metric"] == "auroc") & (metrics["fold"] == "mean")]
    assert primary.groupby("reference").size().to_dict() == {"fc": 2, UNTRAINED: 2}
    for _, rows in primary.groupby("reference"):
        np.testing.assert_allclose(rows["p_holm"], uncertainty.holm(rows["p_nb"].to_numpy()))


def test_a_perfect_ranking_is_not_certain():
    perfect, reference = predicted("model", skill=50.0), predicted("fc")
    metrics = summary(perfect, reference)
    found, other = row(metrics, "model"), row(metrics, "fc")
    exact = stats.binomtest(20, 20).proportion_ci(method="exact").low
    assert (found["value"], found["ci_high"], found["ci_method"]) == (1, 1, "exact_pairs")
    assert found["ci_low"] == pytest.approx(exact)
    assert found["delta_ci_low"] == pytest.approx(
        found["delta"] - np.hypot(1 - exact, other["ci_high"] - other["value"])
    )
    assert found["delta_ci_high"] == pytest.approx(found["delta"] + other["value"] - other["ci_low"])
    copies = row(summary(predicted("fc", skill=50.0), perfect), "model")
    assert (copies["delta_ci_low"], copies["delta_ci_high"]) == (pytest.approx(exact - 1), pytest.approx(1 - exact))


def test_a_holdout_is_compared_person_by_person():
    model, reference = predicted("model", n=100), predicted("fc", n=100)
    metrics = summary(model, reference, draws=2000)
    _, low, high = uncertainty.delong_difference(
        model["y"].to_numpy(), np.stack([model["score"].to_numpy(), reference["score"].to_numpy()])
    )
    found = row(metrics, "model")
    assert (found["delta_ci_low"], found["delta_ci_high"]) == (pytest.approx(low), pytest.approx(high))
    assert pd.isna(found["p_nb"])
    brier = row(metrics, "model", "brier")
    difference = (model["score"] - model["y"]) ** 2 - (reference["score"] - reference["y"]) ** 2
    half = 1.96 * difference.std() / 10
    assert brier["delta"] == pytest.approx(difference.mean())
    assert brier["delta_ci_low"] == pytest.approx(difference.mean() - half, abs=0.2 * half)
    assert brier["delta_ci_high"] == pytest.approx(difference.mean() + half, abs=0.2 * half)


def test_equal_systems_differ_by_exactly_nothing():
    model = predicted("fc").assign(system="copy", run_id="t_copy")
    found = row(summary(model, predicted("fc")), "copy", "brier")
    assert (found["delta"], found["delta_ci_low"], found["delta_ci_high"]) == (0, 0, 0)


def test_folds_are_compared_by_the_corrected_resampled_test():
    model, reference = predicted("model", folds=6, skill=2.0), predicted("fc", folds=6, skill=0.2)
    found = row(summary(model, reference), "model")
    differences = [
        roc_auc_score(a["y"], a["score"]) - roc_auc_score(b["y"], b["score"])
        for (_, a), (_, b) in zip(model.groupby("fold"), reference.groupby("fold"), strict=True)
    ]
    t = np.mean(differences) / np.sqrt((1 / 6 + 40 / N_TRAIN) * np.var(differences, ddof=1))
    assert found["delta"] == pytest.approx(np.mean(differences))
    assert found["t_nb"] == pytest.approx(t)
    assert found["p_nb"] == pytest.approx(2 * stats.t.sf(abs(t), 5))


def test_p_is_corrected_over_the_tasks_of_a_system():
    runs = [
        predicted(system, task=task, folds=6, skill=skill)
        for task, skills in (("a", (1.5, 0.2)), ("b", (0.6, 0.3)), ("c", (2.0, 0.1)))
        for system, skill in zip(("model", "fc"), skills, strict=True)
    ]
    metrics = summary(*runs)
    primary = metrics[(metrics["system"] == "model") & (metrics["metric"] == "auroc") & (metrics["fold"] == "mean")]
    assert primary["p_nb"].notna().all()
    np.testing.assert_allclose(primary["p_holm"], uncertainty.holm(primary["p_nb"].to_numpy()))
    assert metrics.loc[metrics["metric"] != "auroc", "p_holm"].isna().all()


def test_other_people_are_not_compared():
    other = predicted("fc")
    other["participant_id"] = other["participant_id"] + "x"
    assert summary(predicted("model"), other)["delta"].isna().all()


def test_nulls_are_averaged_over_folds_like_the_value():
    run = predicted("model", folds=3, skill=2.0)
    nulls = nulls_of(run)
    found = row(summary(run, nulls=nulls), "model")
    draws = np.zeros(50)
    for _, part in nulls.groupby("fold"):
        y, null = (np.stack(part[name].to_list(), axis=1) for name in ("y", "prediction"))
        draws += [roc_auc_score(*pair) / 3 for pair in zip(y, null, strict=True)]
    assert found["null_mean"] == pytest.approx(draws.mean())
    assert found["p_perm"] == pytest.approx((1 + (draws >= found["value"]).sum()) / 51)


def test_a_smaller_error_beats_its_null():
    run = predicted("model", kind="regression")
    nulls = nulls_of(run)
    found = row(summary(run, nulls=nulls), "model", "mae")
    assert found["null_mean"] > found["value"]
    assert found["p_perm"] == pytest.approx(1 / 51)


def test_a_run_does_not_depend_on_its_company_or_the_order_of_rows():
    model, reference = predicted("model", folds=3), predicted("fc", folds=3)
    columns = ["fold", "metric", "value", "ci_low", "ci_high"]
    alone = summary(model)[columns]
    shuffled = pd.concat([reference, model]).sample(frac=1, random_state=0)
    together = summarise(shuffled, NO_NULLS, draws=300, seed=0).query("system == 'model'")[columns]
    pd.testing.assert_frame_equal(alone, together.reset_index(drop=True))


def held_out(run: pd.DataFrame) -> pd.DataFrame:
    """Other people with the same scores, on the validation side."""
    return run.assign(role="validation", participant_id=run["participant_id"] + "v", person=run["person"] + "v")


def test_validation_people_are_not_judged():
    run = predicted("model", readout="ridge")
    few = held_out(run).iloc[:15]  # too few of a class to settle a threshold
    pd.testing.assert_frame_equal(summary(run), summary(run, few))
    whole = summary(run, held_out(run).assign(y=1 - run["y"]))
    pd.testing.assert_frame_equal(
        summary(run).query("metric in ['auroc', 'auprc']"), whole.query("metric in ['auroc', 'auprc']")
    )


def test_overlap_and_checkpoint_are_carried_along():
    run = predicted("model", folds=2, seed=4)
    run["pretrain_overlap_n"] = np.repeat([1, 2], 40)
    run["checkpoint_sha256"] = np.repeat(["a", "b"], 40)
    metrics = summary(run)
    assert row(metrics, "model")["pretrain_overlap_n"] == 3
    assert row(metrics, "model", fold="f1")["pretrain_overlap_n"] == 2
    assert pd.isna(row(metrics, "model")["checkpoint_sha256"])
    assert row(metrics, "model", fold="f1")["checkpoint_sha256"] == "b"
    assert row(metrics, "model")["seed"] == 4


def test_bad_tables_are_refused():
    run = predicted("model")
    with pytest.raises(InputError, match="more than once in a fold"):
        summary(run, run)
    with pytest.raises(InputError, match="do not cover its test people"):
        summary(run, nulls=nulls_of(run).iloc[1:])
    with pytest.raises(InputError, match="no test person"):
        summary(run.assign(role="validation"))
