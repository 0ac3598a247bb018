"""Judging one task: linear readouts of connectivity with nested choices, a permutation null and bootstrap intervals.

    python benchmarks/evaluate.py            # 1,000 people, 19,900 features, 17 sites: some minutes
    python benchmarks/evaluate.py --small    # seconds, for a test of this script

The plain way is scikit-learn's, timed on a part and extrapolated: `GridSearchCV` over the same strengths on the same
inner folds for a single fold and label vector, and `roc_auc_score` for some bootstrap draws. Its numbers must be the
same. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from neuropipe.config import Roles, Split
from neuropipe.evaluate.features import Features
from neuropipe.evaluate.linear import STRENGTHS
from neuropipe.evaluate.protocol import Answer, System, answer
from neuropipe.evaluate.question import Question, ask, inner_folds
from neuropipe.evaluate.summary import summarise
from neuropipe.evaluate.targets import Target
from neuropipe.splits.make import make_split
from neuropipe.splits.people import People


@dataclass(frozen=True)
class Size:
    """How large the task is."""

    n_people: int
    n_features: int
    n_sites: int
    permutations: int
    bootstrap: int


FULL = Size(1000, 19_900, 17, 200, 10_000)
SMALL = Size(80, 200, 4, 10, 500)
PLAIN_DRAWS = 100  # bootstrap draws that the plain way is timed on
EFFECT = 0.1  # in standard deviations, on every tenth feature


def make(size: Size) -> tuple[Question, Features]:
    """Return a diagnosis with leave-one-site-out folds, and connectivity that knows a little of it."""
    rng = np.random.default_rng(0)
    ids = [f"sub-{i:05d}" for i in range(size.n_people)]
    site = [f"site{i % size.n_sites:02d}" for i in range(size.n_people)]
    y = rng.integers(0, 2, size.n_people).astype(float)
    table = pd.DataFrame({"dataset": "made", "participant_id": ids, "site": site, "sex": ""})
    table = table.assign(person="made/" + table["participant_id"])
    participants = {"made": pd.DataFrame({"site": site}, index=pd.Index(ids, name="participant_id"))}
    people = People(table, pd.DataFrame({"row": range(size.n_people)}), participants, {"made": Roles(site="site")})
    split = make_split("sites", Split(scheme="leave_one_site_out"), people)
    target = Target("diagnosis", "diagnosis", "binary", "patient", y)
    values = rng.standard_normal((size.n_people, size.n_features), dtype=np.float32)
    values[:, ::10] += np.float32(EFFECT) * y[:, None].astype(np.float32)
    return ask(people, target, split, draws=size.permutations, seed=0), Features(values, scaled=False)


def timed(work: Callable[[], object]) -> tuple[object, float, float]:
    """Return what `work` returns, its wall seconds and its CPU seconds over all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - processor


def readout(question: Question, values: np.ndarray, name: str) -> Answer:
    """Let a readout answer; inner products are made anew, as for a study."""
    features = Features(values, scaled=False)
    return answer(question, System("fc"), name, lambda fold: features)


def plain_fold(question: Question, values: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    """Return scikit-learn's prediction of the first fold's test people, and the strength that its search chose."""
    fold = question.folds[0]
    inner = inner_folds(question.people, fold.train, question.seed)
    x = values.astype(np.float64) - values[fold.train].mean(axis=0, dtype=np.float64)
    x /= np.sqrt((x[fold.train] ** 2).sum(axis=1).mean())
    n_inner = len(fold.train) * (1 - 1 / len(np.unique(inner)))  # of one inner training side
    y = question.labels[fold.train, 0]
    if name == "ridge":
        search = GridSearchCV(
            Ridge(), {"alpha": np.array(STRENGTHS) * n_inner}, scoring="neg_mean_squared_error",
            cv=PredefinedSplit(inner), refit=False,
        ).fit(x[fold.train], y)  # fmt: skip
        strength = search.best_params_["alpha"] / n_inner
        model = Ridge(alpha=strength * len(fold.train)).fit(x[fold.train], y)
        return model.predict(x[fold.test]), strength
    search = GridSearchCV(
        LogisticRegression(max_iter=1000), {"C": 1 / (np.array(STRENGTHS) * n_inner)}, scoring="neg_log_loss",
        cv=PredefinedSplit(inner), refit=False,
    ).fit(x[fold.train], y)  # fmt: skip
    strength = 1 / search.best_params_["C"] / n_inner
    # The default tolerance leaves log odds 0.1 from the minimum; the search is timed with it all the same.
    model = LogisticRegression(C=1 / (strength * len(fold.train)), tol=1e-8, max_iter=10_000).fit(x[fold.train], y)
    return model.decision_function(x[fold.test]), strength


def plain_bootstrap(y: np.ndarray, score: np.ndarray, draws: int) -> list[float]:
    """Return the AUROC of bootstrap draws over people, one after the other."""
    rng = np.random.default_rng(0)
    places = (rng.integers(0, len(y), len(y)) for _ in range(draws))
    return [roc_auc_score(y[drawn], score[drawn]) for drawn in places]


def same_numbers(question: Question, found: Answer, name: str, expected: np.ndarray, strength: float) -> float:
    """Check that choice and predictions of the first fold are scikit-learn's; return the largest difference.

    Raises
    ------
    SystemExit
        They are not.
    """
    first = question.folds[0].name
    rows = found.predictions[found.predictions["fold"] == first]
    value = rows["score" if name == "ridge" else "logit"].to_numpy()
    chosen = found.choices[(found.choices["fold"] == first) & found.choices["chosen"]]["strength"].iloc[0]
    difference = float(np.abs(value - expected).max())
    if not np.isclose(chosen, strength) or difference > (1e-4 if name == "ridge" else 5e-3):
        raise SystemExit(f"{name}: strength {chosen} and {strength}, predictions differ by {difference}")
    return difference


def median(work: Callable[[], object], repeats: int) -> tuple[object, float, float]:
    """Return what `work` returned last, and the medians of its wall and CPU seconds."""
    took = [timed(work) for _ in range(repeats)]
    return took[-1][0], statistics.median(one[1] for one in took), statistics.median(one[2] for one in took)


def measure(name: str, size: Size, repeats: int) -> dict[str, float]:
    """Return seconds of a readout with its null and intervals, and how often they go into scikit-learn's."""
    question, features = make(size)
    answered, read_s, read_cpu_s = median(lambda: readout(question, features.values, name), repeats)
    tested = answered.predictions
    judge = partial(summarise, tested, answered.nulls, draws=size.bootstrap, seed=0)
    _, judge_s, judge_cpu_s = median(judge, repeats)
    (expected, strength), plain_s, _ = timed(lambda: plain_fold(question, features.values, name))
    _, auc_s, _ = timed(lambda: plain_bootstrap(tested["y"].to_numpy(), tested["score"].to_numpy(), PLAIN_DRAWS))
    plain = plain_s * len(question.folds) * (1 + size.permutations) + auc_s * size.bootstrap / PLAIN_DRAWS
    difference = same_numbers(question, answered, name, expected, strength)
    print(f"{name:<9} readout and null {read_s:8.2f} s ({read_cpu_s:.2f} CPU s)")
    print(f"{name:<9} metrics          {judge_s:8.2f} s ({judge_cpu_s:.2f} CPU s)")
    print(
        f"{name:<9} scikit-learn     {plain:8.0f} s, extrapolated; predictions differ by {difference:.1e}", flush=True
    )
    found = {f"{name}_s": read_s + judge_s, f"{name}_cpu_s": read_cpu_s + judge_cpu_s}
    return found | {f"{name}_over_scikit_learn": plain / (read_s + judge_s)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small task, to test the script")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    size = SMALL if chosen.small else FULL
    print(json.dumps(measure("ridge", size, chosen.repeats) | measure("logistic", size, 1)))
