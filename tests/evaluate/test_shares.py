"""The embedding's share of joined features is chosen on inner folds: against a plain search, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from questions import age, diagnosis, some_people
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from neuropipe.evaluate.features import Blocks, Features
from neuropipe.evaluate.linear import STRENGTHS
from neuropipe.evaluate.protocol import System, answer
from neuropipe.evaluate.question import inner_folds
from neuropipe.evaluate.shares import SHARES

N = 100


def parts(question, knows: float, seed: int = 0) -> tuple[Features, Features]:
    """An embedding that knows so much of the target, and connectivity that knows some."""
    rng = np.random.default_rng(seed)
    y = (question.target.y - question.target.y.mean())[:, None] / question.target.y.std()
    embedding = 100 * (rng.standard_normal((N, 5)) + knows * y * np.eye(5)[0])
    pairs = rng.standard_normal((N, 200)) + 0.2 * y
    return Features(embedding), Features(pairs, scaled=False)


def test_share_and_strength_are_those_of_a_plain_search():
    question = age(some_people(N))
    embedding, pairs = parts(question, 0.7)
    found = answer(question, System("s"), "ridge", lambda fold: Blocks((embedding, pairs)))
    fold = question.folds[0]
    a, b = (part.coordinates(fold.train) for part in (embedding, pairs))
    inner = inner_folds(question.people, fold.train, 0)
    y, losses = question.target.y[fold.train], {}
    for share in SHARES:
        x = np.concatenate([np.sqrt(share) * a, np.sqrt(1 - share) * b], axis=1)
        for strength in STRENGTHS:
            error = 0.0
            for out in (inner == number for number in range(5)):
                model = Ridge(alpha=strength * (~out).sum()).fit(x[fold.train][~out], y[~out])
                error += ((model.predict(x[fold.train][out]) - y[out]) ** 2).sum()
            losses[share, strength] = error / len(y)
    share, strength = min(losses, key=losses.get)
    assert 0 < share < 1
    chosen = found.choices[found.choices["chosen"]]
    assert chosen[["share", "strength"]].to_numpy().tolist() == [[share, strength]]
    np.testing.assert_allclose(found.choices["inner_loss"], [losses[pair] for pair in sorted(losses)], rtol=1e-6)
    x = np.concatenate([np.sqrt(share) * a, np.sqrt(1 - share) * b], axis=1)
    model = Ridge(alpha=strength * len(y)).fit(x[fold.train], y)
    np.testing.assert_allclose(found.predictions["yhat"], model.predict(x[fold.test]), rtol=1e-6)


@pytest.mark.parametrize("readout", ["ridge", "logistic", "knn"])
def test_an_embedding_that_says_nothing_costs_next_to_nothing(readout):
    joined, alone = [], []
    for seed in range(5):
        question = diagnosis(some_people(N, seed=seed))
        embedding, pairs = parts(question, 0, seed)
        for scores, table in ((joined, Blocks((embedding, pairs))), (alone, pairs)):
            rows = answer(question, System("s"), readout, lambda fold, table=table: table).predictions
            scores.append(roc_auc_score(rows["y"], rows["score"]))
    assert np.mean(joined) > np.mean(alone) - 0.03


def test_where_the_baseline_says_nothing_the_embedding_stands_alone():
    question = diagnosis(some_people(N))
    embedding, pairs = parts(question, 1.5)
    noise = Features(np.random.default_rng(5).standard_normal(pairs.values.shape), scaled=False)
    choices = answer(question, System("s"), "logistic", lambda fold: Blocks((embedding, noise))).choices
    assert choices["share"].nunique() == 1  # of logistic regression: its strengths at the share
    assert choices["share"].iloc[0] >= 0.5
    assert choices["strength"].tolist() == list(STRENGTHS)


@pytest.mark.parametrize("readout", ["ridge", "logistic"])
def test_a_null_draw_chooses_its_own_share(readout):
    question = diagnosis(some_people(N), draws=6)
    table = Blocks(parts(question, 0.5))
    null = np.stack(answer(question, System("s"), readout, lambda fold: table).nulls["prediction"].to_list())
    for draw in (1, 4):
        swapped = replace(question, labels=question.labels[:, [1 + draw]])
        alone = answer(swapped, System("s"), readout, lambda fold: table).predictions
        expected = alone["logit" if readout == "logistic" else "score"]
        np.testing.assert_allclose(null[:, draw], expected, rtol=1e-4, atol=1e-4)
