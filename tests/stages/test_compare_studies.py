"""Two evaluated studies side by side: what differs in the protocol is named, and differences are those of one study."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neuropipe.errors import InputError
from neuropipe.evaluate import across, tables
from neuropipe.evaluate.summary import summarise
from neuropipe.provenance import write_json
from neuropipe.stages import report

N = 50
NO_NULLS = tables.frame([], tables.NULLS)


def answers(system: str, seed: int, *, folds: int = 1, kind: str = "binary", flip: int = 0, task: str = "asked"):
    """Return a run's predictions: the same people and labels whatever the system, one label turned with `flip`."""
    y = np.arange(N * folds) % 2.0 if kind == "binary" else np.linspace(20, 60, N * folds)
    y = np.where(np.arange(len(y)) < flip, 1 - y, y)
    value = (y - y.mean()) + np.random.default_rng(seed).standard_normal(len(y)) * (1.5 if kind == "binary" else 8)
    table = pd.DataFrame(
        {
            "run_id": f"{task}_{system}", "system": system, "task": task, "readout": "ridge", "split": "main",
            "split_scheme": "kfold" if folds > 1 else "holdout", "target": "x", "target_type": kind, "positive": "1",
            "atlas_id": "toy", "data_hash": "same", "repeat": 0, "n_train": 150, "n_val": 0, "role": "test",
            "fold": np.repeat([str(i) for i in range(folds)], N), "dataset": "toy", "y": y, "train_mean": y.mean(),
            "participant_id": [f"sub-{i:03d}" for i in range(N * folds)],
            "score": value if kind == "binary" else np.nan, "yhat": np.nan if kind == "binary" else 40 + value,
        }
    )  # fmt: skip
    table["person"] = "toy/" + table["participant_id"]
    return tables.frame(table.reindex(columns=list(tables.PREDICTIONS)), tables.PREDICTIONS)


def study(folder, *runs):
    """Write what `neuropipe evaluate` leaves, as far as comparing reads it."""
    predictions = pd.concat(runs, ignore_index=True)
    tables.write(folder / "predictions.parquet", predictions, tables.PREDICTIONS)
    metrics = summarise(predictions, NO_NULLS, draws=300, seed=0)
    tables.write(folder / "metrics.parquet", metrics, tables.METRICS)
    write_json(folder / "metrics.json", {"Settings": {"bootstrap": 300, "permutations": 0, "seed": 0}})
    return folder


def in_one_study(**settings) -> pd.Series:
    """Return the difference of the second answer from the first where one study holds both."""
    both = [answers("fc", 1, **settings), answers("other", 2, **settings)]
    table = summarise(pd.concat(both, ignore_index=True), NO_NULLS, draws=300, seed=0)
    primary = "mae" if settings.get("kind") == "regression" else "auroc"
    chosen = table[(table["system"] == "other") & (table["metric"] == primary) & (table["fold"] == "mean")]
    return chosen.iloc[0]


@pytest.mark.parametrize("settings", [{}, {"folds": 5}, {"kind": "regression"}, {"folds": 6, "kind": "regression"}])
def test_a_difference_between_studies_is_that_within_one(tmp_path, settings):
    folders = [study(tmp_path / name, answers("model", seed, **settings)) for name, seed in (("a", 1), ("b", 2))]
    found = across.differences(across.read(folders), 300, 0)
    within, row = in_one_study(**settings), found.iloc[0]
    assert len(found) == 1 and (row["study"], row["other"]) == ("b", "a")
    assert row["delta"] == pytest.approx(within["delta"], abs=1e-12)
    if settings.get("folds") or not settings:
        assert (row["low"], row["high"]) == pytest.approx((within["delta_ci_low"], within["delta_ci_high"]), abs=1e-9)
    else:  # a bootstrap with draws of its own
        width = within["delta_ci_high"] - within["delta_ci_low"]
        assert (row["low"], row["high"]) == pytest.approx(
            (within["delta_ci_low"], within["delta_ci_high"]), abs=0.25 * width
        )
    assert row["p"] == pytest.approx(within["p_nb"], nan_ok=True)


@pytest.mark.parametrize("both", [False, True])
def test_a_perfect_ranking_is_compared_as_within_one_study(tmp_path, both):
    runs = [answers("model", 1), answers("model", 2)]
    for run in runs[0 if both else 1 :]:
        run["score"] = run["y"]
    folders = [study(tmp_path / name, run) for name, run in zip("ab", runs, strict=True)]
    found = across.differences(across.read(folders), 300, 0).iloc[0]
    pair = [run.assign(system=name, run_id=name) for run, name in zip(runs, ("fc", "other"), strict=True)]
    table = summarise(pd.concat(pair, ignore_index=True), NO_NULLS, draws=300, seed=0)
    within = table[(table["system"] == "other") & (table["metric"] == "auroc") & (table["fold"] == "mean")].iloc[0]
    assert (found["low"], found["high"]) == pytest.approx((within["delta_ci_low"], within["delta_ci_high"]), abs=0.03)
    assert found["low"] < found["delta"] < found["high"]
    assert found["method"] == "recovered"


def test_the_corrected_interval_is_that_of_the_t_distribution(tmp_path):
    folders = [study(tmp_path / name, answers("m", seed, folds=5)) for name, seed in (("a", 1), ("b", 2))]
    studies = across.read(folders)
    row = across.differences(studies, 300, 0).iloc[0]
    values = [one.metrics.query("metric == 'auroc' and fold not in ['mean', 'pooled']")["value"] for one in studies]
    d = values[1].to_numpy(float) - values[0].to_numpy(float)
    half = stats.t.ppf(0.975, 4) * np.sqrt((1 / 5 + 50 / 150) * d.var(ddof=1))
    assert (row["low"], row["high"]) == pytest.approx((d.mean() - half, d.mean() + half))


def test_one_protocol_is_said_to_be_one(tmp_path, caplog):
    folders = [study(tmp_path / name, answers("fc", 1), answers("model", seed)) for name, seed in (("a", 2), ("b", 3))]
    report.run(studies=folders)
    html = (tmp_path / "compare_a_b.html").read_text()
    assert "One protocol" in html and "differs" not in html.partition("<tbody>")[2]
    assert "model · a" in html and "model · b" in html and "b − a" in html
    table = pd.read_csv(tmp_path / "compare_a_b.tsv", sep="\t")
    assert list(table["system"]) == ["fc", "fc", "model", "model"] and list(table["study"]) == ["a", "b"] * 2
    assert table.loc[0, "value"] == table.loc[1, "value"]


def test_what_differs_is_named_and_other_people_are_not_compared(tmp_path):
    folders = [study(tmp_path / "a", answers("m", 1)), study(tmp_path / "b", answers("m", 1, flip=2))]
    studies = across.read(folders)
    protocol = across.protocol(studies).set_index("fact")
    assert protocol.index[~protocol["same"].astype(bool)].tolist() == [across.PEOPLE]
    assert across.differences(studies, 300, 0).empty
    report.run(studies=folders, output=tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "Not the same protocol: test people and their labels differ" in html and "No difference is tested" in html


def test_tasks_of_one_study_alone_are_listed(tmp_path):
    folders = [
        study(tmp_path / "a", answers("m", 1), answers("m", 1, task="mine")),
        study(tmp_path / "b", answers("m", 1)),
    ]
    report.run(studies=folders, output=tmp_path / "page.html")
    assert "Only in a: mine." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"studies": ["a"]}, "two studies at least, found 1"),
        ({"studies": ["a", "a"]}, "Each study is given once"),
        ({"studies": ["a", "nowhere"]}, r"No metrics of an evaluated study at .*nowhere.metrics.parquet"),
        ({"studies": ["a", "b"], "config": "config.yaml"}, "neither --config nor --study"),
        ({}, "needs --config and --study"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, arguments, message):
    for name in "ab":
        study(tmp_path / name, answers("m", 1))
    if "studies" in arguments:
        arguments = arguments | {"studies": [tmp_path / name for name in arguments["studies"]]}
    with pytest.raises(InputError, match=message):
        report.run(**arguments)
