"""Verdicts say no more than their intervals."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from neuropipe.config import Task
from neuropipe.report import audit, words
from neuropipe.report.systems import System, label_of, make, role_of
from neuropipe.report.tables import Board, Difference, Entry

TASKS = {
    "auroc": Task(target="diagnosis", kind="binary", positive="patient", datasets=["demo"], split="main"),
    "mae": Task(target="age", kind="regression", datasets=["demo"], split="main"),
}


def entry(
    name: str, value: float, readout: str = "ridge", difference: Difference | None = None, p: float = 0.01
) -> Entry:
    system = System(f"t_{name}_{readout}", name, readout, role_of(name), name, "s-model")
    differences = {} if difference is None else {"fc": difference}
    return Entry(system, value, value - 0.1, value + 0.1, "bootstrap", math.nan, differences, p, 0.5, 30, 20)


def board(metric: str, *entries: Entry) -> Board:
    return Board("t", TASKS[metric], metric, list(entries), 0.5, pd.DataFrame(), pd.DataFrame(), {})


@pytest.mark.parametrize(
    ("metric", "model", "fc", "interval", "says", "tone"),
    [
        ("auroc", 0.8, 0.7, (0.02, 0.18), "beats", "good"),
        ("auroc", 0.8, 0.7, (-0.02, 0.22), "cannot be told apart", "neutral"),
        ("auroc", 0.6, 0.7, (-0.18, -0.02), "falls below", "bad"),
        ("mae", 5.0, 6.0, (-1.8, -0.2), "beats", "good"),
        ("mae", 7.0, 6.0, (0.2, 1.8), "falls below", "bad"),
        ("mae", 5.9, 6.0, (-0.9, 0.7), "cannot be told apart", "neutral"),
        ("auroc", 0.8, 0.7, (math.nan, math.nan), "untested", "neutral"),
    ],
)
def test_the_headline_follows_the_interval_of_the_difference(metric, model, fc, interval, says, tone) -> None:
    difference = Difference(model - fc, *interval, math.nan)
    verdict = words.verdict(board(metric, entry("recipe", model, difference=difference), entry("fc", fc)))
    assert says in verdict.headline
    assert verdict.tone == tone


def test_a_network_trained_for_the_task_is_compared_with_itself_from_scratch() -> None:
    model = entry("b", 0.8, "finetune")
    model = replace(model, differences={"b (from scratch)": Difference(0.2, 0.1, 0.3, math.nan)})
    others = entry("b (random weights)", 0.7), entry("a (from scratch)", 0.75, "finetune")
    own = entry("b (from scratch)", 0.6, "finetune")
    details = " ".join(words.verdict(board("auroc", model, *others, own)).details)
    assert "Pretraining helped: 0.800 against 0.600 from scratch" in details
    assert "0.700 with random weights" in " ".join(words.verdict(board("auroc", model, *others[:1])).details)


@pytest.mark.parametrize(
    ("p", "says"), [(0.005, "above chance"), (0.2, "not distinguishable"), (math.nan, "not tested")]
)
def test_chance_is_judged_by_shuffled_labels(p: float, says: str) -> None:
    assert says in words.verdict(board("auroc", entry("recipe", 0.8, p=p))).details[0]


def test_the_best_of_several_models_is_said_to_be_chosen_by_its_own_numbers() -> None:
    alone, beside = board("auroc", entry("recipe", 0.8)), board("auroc", entry("recipe", 0.8), entry("other", 0.7))
    assert not any("flatters" in detail for detail in words.verdict(alone).details)
    assert any(
        "recipe is the best of 2 models by these very test people" in line for line in words.verdict(beside).details
    )


def test_a_model_no_better_than_confounds_is_called_so() -> None:
    details = words.verdict(board("auroc", entry("recipe", 0.7), entry("confounds", 0.72))).details
    assert any("needs no brain data" in sentence for sentence in details)


def test_without_a_model_the_best_baseline_is_named_and_nothing_is_claimed() -> None:
    verdict = words.verdict(board("auroc", entry("fc", 0.76), entry("confounds", 0.55)))
    assert "No model was trained" in verdict.headline
    assert "0.760" in verdict.numbers
    assert verdict.tone == "neutral"


def test_a_model_is_compared_with_the_same_readout_and_not_with_the_best() -> None:
    same, better = entry("fc", 0.70, "logistic"), entry("fc", 0.90, "ridge")
    found = board("auroc", entry("recipe", 0.8, "logistic"), better, same)
    assert found.twin(found.entries[0], "reference") is same
    verdict = words.verdict(found)
    assert "against 0.700" in verdict.numbers
    assert any("0.900" in sentence for sentence in verdict.details)


def test_random_weights_of_the_same_recipe_are_the_twin() -> None:
    model, other, own = entry("b", 0.8), entry("a (random weights)", 0.9), entry("b (random weights)", 0.6)
    found = board("auroc", model, other, own)
    assert found.twin(model, "random") is own


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.01, 0.05, "adds to"), (-0.02, 0.08, "adds anything to functional connectivity is open"), (-0.3, -0.1, "takes")],
)
def test_what_a_model_adds_to_connectivity_is_said_of_that_model_and_readout(low, high, says) -> None:
    middle = (low + high) / 2
    joined = entry("a + fc", 0.7 + middle, difference=Difference(middle, low, high, math.nan))
    others = entry("b + fc", 0.95), entry("a + fc", 0.95, "logistic"), entry("a + fc (random weights)", 0.95)
    found = board("auroc", entry("a", 0.65), joined, entry("b", 0.6), *others, entry("fc", 0.7))
    assert found.best("model").system.name == "a"
    assert found.joined(found.best("model")) is joined
    (said,) = [sentence for sentence in words.verdict(found).details if "together" in sentence]
    assert says in said
    assert f"{0.7 + middle:.3f} together against 0.700 alone" in said


def test_a_joined_system_is_named_by_both_parts() -> None:
    assert role_of("a + fc") == "combined"
    assert role_of("a + fc (random weights)") == "random"
    assert role_of("fc_tangent") == "variant"
    assert label_of("a + fc", "baseline", "", "binary") == "a + functional connectivity"
    random = label_of("a + fc_tangent (random weights)", "ridge", "", "binary")
    assert random == "a + connectivity in tangent space, random weights · ridge"


@pytest.mark.parametrize(
    ("metric", "model", "fc", "interval", "phrase"),
    [
        ("auroc", 0.6, 0.7, (-0.18, -0.02), "excludes zero"),
        ("auroc", 0.69, 0.7, (-0.1, 0.08), "includes zero"),
        ("mae", 7.0, 6.0, (0.2, 1.8), "excludes zero"),
        ("auroc", 0.69, 0.7, (math.nan, math.nan), "No interval"),
    ],
)
def test_a_model_below_connectivity_is_a_banner(metric, model, fc, interval, phrase) -> None:
    difference = Difference(model - fc, *interval, math.nan)
    banner = audit.below_reference(board(metric, entry("recipe", model, difference=difference), entry("fc", fc)))
    assert banner is not None
    assert phrase in banner.detail


@pytest.mark.parametrize(("metric", "model", "fc"), [("auroc", 0.8, 0.7), ("mae", 5.0, 6.0)])
def test_a_model_above_connectivity_is_none(metric, model, fc) -> None:
    assert audit.below_reference(board(metric, entry("recipe", model), entry("fc", fc))) is None


def test_numbers_are_written_with_true_minus_and_dashes_for_nothing() -> None:
    assert words.amount(-0.03214, "auroc", signed=True) == "−0.032"
    assert words.amount(0.5, "auroc", signed=True) == "+0.500"
    assert words.amount(math.nan, "auroc") == "–"
    assert words.interval(4.0, 6.123, "mae") == "4.00 to 6.12"
    assert [words.probability(p) for p in (0.04975, 0.0002, math.nan)] == ["0.050", "< 0.001", "–"]


def test_labels_name_readout_and_seed_only_where_they_tell_systems_apart() -> None:
    runs = pd.DataFrame(
        [
            ("a", "fc", "ridge", ""),
            ("b", "fc", "logistic", ""),
            ("c", "recipe", "logistic", "0"),
            ("d", "recipe", "logistic", "1"),
            ("e", "recipe (random weights)", "logistic", "0"),
            ("f", "majority", "baseline", ""),
        ],
        columns=["run_id", "system", "readout", "seed"],
    )
    labels = {system.run_id: system.label for system in make(runs, "binary")}
    assert labels == {
        "c": "recipe · seed 0",
        "d": "recipe · seed 1",
        "e": "recipe, random weights",
        "a": "Functional connectivity · ridge",
        "b": "Functional connectivity · logistic",
        "f": "Majority class",
    }
    assert next(iter(labels)) == "c"
    assert label_of("majority", "baseline", "", "regression") == "Mean of the training people"


def test_random_weights_of_the_same_seed_are_the_twin() -> None:
    names = [("r", "0"), ("r", "1"), ("r (random weights)", "0"), ("r (random weights)", "1")]
    runs = [(f"{name}-{seed}", name, "ridge", seed) for name, seed in names]
    systems = make(pd.DataFrame(runs, columns=["run_id", "system", "readout", "seed"]), "binary")
    found = board("auroc", *(replace(entry("r", 0.7), system=system) for system in systems))
    assert [found.twin(model, "random").system.run_id for model in found.of_role("model")] == [
        "r (random weights)-0",
        "r (random weights)-1",
    ]


def test_a_difference_without_a_comparison_has_no_interval() -> None:
    model, random = entry("b", 0.8), entry("b (random weights)", 0.6)
    found = board("auroc", model, random).difference(model, random)
    assert found.value == pytest.approx(0.2)
    assert math.isnan(found.low)
    compared = replace(model, differences={"b (random weights)": Difference(0.2, 0.05, 0.35, math.nan)})
    details = words.verdict(board("auroc", compared, random)).details
    assert any(sentence.startswith("Pretraining helped") for sentence in details)
