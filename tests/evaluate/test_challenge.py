"""The OpenBHB challenge: its score against published rows, its readouts against planted truth and by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score

from neuropipe.errors import InputError
from neuropipe.evaluate import challenge
from neuropipe.stages import openbhb

# MAE ext, BAcc in percent, score: src/figures/ablation.csv of the authors of arXiv:2211.08326
ROWS = [(3.76, 5.1, 1.54), (4.10, 5.7, 1.74), (4.10, 6.6, 1.82), (5.49, 6.6, 2.43), (3.88, 5.0, 1.58)]


@pytest.mark.parametrize(("mae", "percent", "published"), ROWS)
def test_the_score_is_that_of_published_rows_within_their_rounding(mae, percent, published):
    low = challenge.score(mae - 0.005, (percent - 0.05) / 100)
    high = challenge.score(mae + 0.005, (percent + 0.05) / 100)
    assert low - 0.005 <= published <= high + 0.005
    assert high - low < 0.02


def test_the_published_rows_that_are_printed_have_the_published_scores():
    scores = {name: result.score for name, result in challenge.PUBLISHED.items()}
    assert [round(value, 2) for value in scores.values()] == pytest.approx([1.82, 1.74, 1.54], abs=0.01)


def cohort(n: int = 240, n_sites: int = 4, site_effect: float = 0.0, seed: int = 0):
    """Embeddings that hold age in one direction and, as asked, the site in others; two more sites only in testing."""
    rng = np.random.default_rng(seed)
    side = np.repeat(["train", "internal_test", "external_test"], [n // 2, n // 4, n // 4])
    number = np.arange(n) % n_sites + np.where(side == "external_test", n_sites, 0)
    age = rng.uniform(6, 80, n)
    values = rng.standard_normal((n, 12))
    values[:, 0] += age / 4
    values[:, 2:] += site_effect * rng.standard_normal((2 * n_sites, 10))[number]
    return values, age, [f"site {k}" for k in number], side


def test_age_and_site_are_found_as_far_as_they_are_there():
    blind, seen = challenge.judge(*cohort()), challenge.judge(*cohort(site_effect=3.0))
    assert blind.mae_internal == pytest.approx(3.5, abs=1.5)
    assert blind.site_accuracy < 0.45
    assert seen.site_accuracy > 0.95
    assert seen.score > blind.score
    guess = challenge.chance(*cohort()[1:])
    assert guess.site_accuracy == 0.25
    assert guess.mae_internal > 12


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_chosen_strengths_are_those_of_five_folds_by_hand():
    values, age, site, side = cohort(site_effect=0.5)
    train, internal, external = (side == name for name in challenge.SIDES)
    folds = np.array_split(np.flatnonzero(train), 5)
    scores = []
    for alpha in (0.01, 0.1, 1, 10, 100):
        parts = []
        for out in folds:
            rest = np.setdiff1d(np.flatnonzero(train), out)
            parts.append(Ridge(alpha=alpha).fit(values[rest], age[rest]).score(values[out], age[out]))
        scores.append(np.mean(parts))
    ridge = Ridge(alpha=[0.01, 0.1, 1, 10, 100][int(np.argmax(scores))]).fit(values[train], age[train])
    found = challenge.judge(values, age, site, side)
    assert found.mae_external == pytest.approx(np.abs(ridge.predict(values[external]) - age[external]).mean())
    assert found.mae_internal == pytest.approx(np.abs(ridge.predict(values[internal]) - age[internal]).mean())
    names = np.array(site)
    possible = {
        balanced_accuracy_score(
            names[internal],
            LogisticRegression(solver="saga", max_iter=150, C=c, random_state=0)
            .fit(values[train], names[train])
            .predict(values[internal]),
        )
        for c in (0.01, 0.1, 1, 10, 100)
    }
    assert found.site_accuracy in possible


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v, a, s, d: (v, a, s, np.where(d == "external_test", "other", d)), "nobody of external_test"),
        (lambda v, a, s, d: (v, np.where(np.arange(len(a)) == 3, np.nan, a), s, d), "missing values"),
        (lambda v, a, s, d: (np.zeros((len(a), 10_000)), a, s, d), "fewer than 10000 features, found 10000"),
        (lambda v, a, s, d: (v, a, [*s[:120], *["new"] * 60, *s[180:]], d), "found people of new"),
    ],
)
def test_what_is_no_challenge_is_refused(change, expected):
    with pytest.raises(InputError, match=expected):
        challenge.judge(*change(*cohort()))


@pytest.fixture
def files(tmp_path):
    """Embeddings and OpenBHB's participants, whose ids lack the prefix, with people who are on no side."""
    values, age, site, side = cohort()
    folder = tmp_path / "embeddings" / "yaware" / "seed-0" / "main" / "0"
    folder.mkdir(parents=True)
    ids = [f"sub-{i:03d}" for i in range(len(age))]
    table = pd.DataFrame({"dataset": "openbhb", "participant_id": ids, "n_recordings": 1})
    pd.concat([table, pd.DataFrame(values).add_prefix("e")], axis=1).to_parquet(folder / "trained.parquet")
    known = pd.DataFrame({"participant_id": [i[4:] for i in ids], "age": age, "siteXacq": site, "split": side})
    known.loc[0, "split"] = "n/a"
    known.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    return tmp_path


def test_the_command_prints_the_numbers_and_writes_them(files):
    printed = openbhb.run(embeddings=files / "embeddings", participants=files / "participants.tsv")
    written = json.loads((files / "embeddings/yaware/seed-0/main/0/openbhb.json").read_text())
    values, age, site, side = cohort()
    expected = challenge.judge(values[1:], age[1:], site[1:], side[1:])
    assert written["result"]["mae_external"] == pytest.approx(expected.mae_external)
    assert written["result"]["score"] == pytest.approx(expected.score)
    assert written["people"] == {"train": 119, "internal_test": 60, "external_test": 60}
    assert f"{expected.mae_external:.2f}" in printed.lines[1]
    assert printed.lines[2].startswith("chance") and "25.0 %" in printed.lines[2]
    assert any("L_exp" in line and "5.1 %" in line and "1.54" in line for line in printed.lines)


def test_embeddings_of_several_models_or_none_are_refused(files):
    other = files / "embeddings" / "yaware" / "seed-1"
    other.mkdir()
    (files / "embeddings/yaware/seed-0/main/0/trained.parquet").rename(other / "trained.parquet")
    (files / "embeddings/yaware/seed-0/main/0/trained.parquet").write_bytes((other / "trained.parquet").read_bytes())
    with pytest.raises(InputError, match=r"Expected one trained\.parquet in .*, found yaware/seed-0"):
        openbhb.run(embeddings=files / "embeddings", participants=files / "participants.tsv")
    with pytest.raises(InputError, match="found none"):
        openbhb.run(embeddings=files / "nowhere", participants=files / "participants.tsv")


def test_a_table_without_sides_or_people_is_named(files):
    path = files / "participants.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str)
    table.drop(columns="split").to_csv(path, sep="\t", index=False)
    with pytest.raises(InputError, match="lacks the columns split"):
        openbhb.run(embeddings=files / "embeddings", participants=path)
    table.iloc[5:].to_csv(path, sep="\t", index=False)
    with pytest.raises(InputError, match="no row for 5 people with embeddings: sub-000"):
        openbhb.run(embeddings=files / "embeddings", participants=path)
