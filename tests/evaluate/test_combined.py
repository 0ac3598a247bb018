"""Embeddings joined with a baseline's features: what scikit-learn's pipelines say, and what is compared with what."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from questions import diagnosis, some_people
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from neuropipe.evaluate import linear, systems, tables
from neuropipe.evaluate.features import Blocks, Features
from neuropipe.evaluate.protocol import Answer, System, answer
from neuropipe.evaluate.summary import summarise

RNG = np.random.default_rng(0)
N, WIDTH, PAIRS = 60, 5, 300
TRAIN, TEST = np.arange(40), np.arange(40, 60)


def size(values: np.ndarray) -> float:
    return np.sqrt((values[TRAIN] ** 2).sum(axis=1).mean())


def pipeline(readout, embedding: np.ndarray, pairs: np.ndarray):
    """Standardised embeddings beside centred connectivity, each divided by its training size, then a readout."""
    standard = StandardScaler().fit(embedding[TRAIN]).transform(embedding)
    centred = pairs - pairs[TRAIN].mean(axis=0)
    columns = ColumnTransformer(
        [
            ("embedding", make_pipeline(StandardScaler(), divided(size(standard))), slice(0, WIDTH)),
            ("pairs", make_pipeline(StandardScaler(with_std=False), divided(size(centred))), slice(WIDTH, None)),
        ]
    )
    return make_pipeline(columns, divided(np.sqrt(2)), readout)


def divided(by: float) -> FunctionTransformer:
    return FunctionTransformer(lambda values: values / by)


@pytest.fixture(scope="module")
def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of large numbers, connectivity of many small ones, labels that both know something of."""
    y = RNG.integers(0, 2, N).astype(float)
    embedding = 1000 * (RNG.standard_normal((N, WIDTH)) + y[:, None] * np.array([1, 0, 0, 0, 0]))
    pairs = 0.01 * (RNG.standard_normal((N, PAIRS)) + 0.3 * y[:, None])
    return embedding, pairs, y


@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_ridge_and_logistic_of_both_are_those_of_a_pipeline(parts, strength):
    embedding, pairs, y = parts
    coordinates = Blocks((Features(embedding), Features(pairs, scaled=False))).coordinates(TRAIN)
    both = np.concatenate([embedding, pairs], axis=1)
    for model, sklearn_model, decide in (
        (linear.Ridge, Ridge(alpha=strength), "predict"),
        (linear.Logistic, LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000), "decision_function"),
    ):
        expected = getattr(pipeline(sklearn_model, embedding, pairs).fit(both[TRAIN], y[TRAIN]), decide)(both[TEST])
        path = model(coordinates[TRAIN], y[TRAIN, None], coordinates[TEST])
        found = path.predict(np.array([0]), np.array([strength]))[:, 0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_no_part_drowns_the_other(parts):
    embedding, pairs, _ = parts
    blocks = Blocks((Features(embedding), Features(pairs, scaled=False)))
    coordinates = blocks.coordinates(TRAIN)
    lengths = [(part[TRAIN] ** 2).sum(axis=1).mean() for part in np.split(coordinates, [WIDTH], axis=1)]
    np.testing.assert_allclose(lengths, 0.5)
    assert blocks.n_features == WIDTH + PAIRS


def stored(folder, people, values: np.ndarray) -> systems.Embeddings:
    """Embeddings of one fold as `neuropipe embed` writes them; the untrained network's are noise."""
    place = folder / "embeddings" / "recipe" / "seed-0"
    (place / "main" / "0").mkdir(parents=True)
    names = people.table[["dataset", "participant_id"]].reset_index(drop=True)
    for weights, table in (("trained", values), ("random", RNG.standard_normal(values.shape))):
        pd.concat([names, pd.DataFrame(table).add_prefix("e")], axis=1).to_parquet(
            place / "main" / "0" / f"{weights}.parquet"
        )
    entry = {"split": "main", "fold": "0", "folder": "embeddings/recipe/seed-0/main/0", "checkpoint_sha256": "x"}
    receipt = {"recipe": "recipe", "seed": 0, "checkpoints": [{**entry, "people": [], "mode": "external"}]}
    (place / "receipt.json").write_text(json.dumps(receipt))
    return systems.Embeddings.open(place)


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> pd.DataFrame:
    """Metrics where embedding and connectivity know different halves of the diagnosis."""
    people = some_people(200)
    question = diagnosis(people, draws=10)
    sick = question.target.y[:, None]
    embedding = RNG.standard_normal((200, 4)) + sick * np.array([1.0, 0, 0, 0])
    pairs = Features(RNG.standard_normal((200, 50)) + 0.25 * sick, scaled=False)
    opened = stored(tmp_path_factory.mktemp("study"), people, embedding)
    beside = {"fc": lambda fold: pairs}
    answers = [answer(question, System("fc"), "logistic", beside["fc"])]
    for weights in ("trained", "random"):
        answers += systems.probe(question, opened, ["linear"], weights, beside)
    joined = Answer.join(answers)
    metrics = summarise(joined.predictions, joined.nulls, draws=200, seed=0)
    return metrics[metrics["metric"] == "auroc"]


def row(metrics: pd.DataFrame, system: str, reference: str | None = None) -> pd.Series:
    rows = metrics[metrics["system"] == system]
    return (rows if reference is None else rows[rows["reference"] == reference]).iloc[0]


def test_what_an_embedding_adds_is_a_number_with_its_interval(judged):
    added = row(judged, "recipe + fc", "fc")
    alone = row(judged, "fc")
    assert added["value"] > max(alone["value"], row(judged, "recipe")["value"])
    assert added["delta"] == pytest.approx(added["value"] - alone["value"])
    assert added["delta_ci_low"] < added["delta"] < added["delta_ci_high"]
    assert added["run_id"] == "diagnosis_recipe_beside_fc_logistic_seed-0"
    assert added["checkpoint_sha256"] == "x"


def test_it_is_compared_with_the_untrained_network_that_is_joined_too(judged):
    twin = row(judged, "recipe + fc", "recipe + fc (random weights)")
    assert twin["delta"] == pytest.approx(twin["value"] - row(judged, "recipe + fc (random weights)")["value"])
    assert set(judged.loc[judged["system"] == "recipe", "reference"]) == {"fc", "recipe (random weights)"}


def test_joined_with_another_baseline_it_is_compared_with_that_one_too():
    assert tables.joined_with("recipe + fc_tangent (random weights)") == "fc_tangent"
    assert tables.joined_with("recipe (random weights)") is None
    assert tables.joined_with(tables.combined("recipe", "voxels")) == "voxels"
