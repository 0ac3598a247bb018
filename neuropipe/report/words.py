"""Numbers and verdicts in plain words, no stronger than their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from neuropipe.report.tables import NAMES, Board, Difference, Entry

Tone = Literal["good", "neutral", "bad"]
ALPHA = 0.05  # a permutation p below it is called above chance
TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "undecided": "neutral"}
RELATIONS = {
    "better": "{model} beats {reference} on {task}.",
    "worse": "{model} falls below {reference} on {task}.",
    "undecided": "{model} and {reference} cannot be told apart on {task}.",
    "untested": "{model} stands beside {reference} on {task}, untested.",
}


@dataclass(frozen=True)
class Verdict:
    """What a task's leaderboard says.

    Attributes
    ----------
    task : str
        Name of the task.
    tone : {"good", "neutral", "bad"}
        Against the reference: functional connectivity, or the linear model of voxels.
    headline : str
        One sentence without numbers.
    numbers : str
        The numbers behind it.
    details : list of str
        Chance, the mean of the training people, random weights, confounds: one sentence each.
    """

    task: str
    tone: Tone
    headline: str
    numbers: str
    details: list[str]


def decimals(metric: str) -> int:
    """Return how many decimals a metric is shown with."""
    return 2 if metric == "mae" else 3


def amount(value: float, metric: str, signed: bool = False) -> str:
    """Return a metric as text with a true minus sign; a dash where it is missing."""
    if not math.isfinite(value):
        return "–"
    sign = "+" if signed and value > 0 else ""
    return f"{sign}{value:.{decimals(metric)}f}".replace("-", "−")


def interval(low: float, high: float, metric: str, signed: bool = False) -> str:
    """Return ``low to high``; a dash where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{amount(low, metric, signed)} to {amount(high, metric, signed)}"


def probability(p: float) -> str:
    """Return a p-value with the digits it deserves."""
    if not math.isfinite(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def verdict(board: Board) -> Verdict:
    """Return what a leaderboard says, in sentences."""
    model = board.best("model")
    if model is None:
        return _without_model(board)
    reference, random = board.twin(model, "reference"), _unlearned(board, model)
    details = [_against_chance(model), *_against_mean(board, model), *_chosen(board, model)]
    if model.n_seen > 0:
        details.insert(0, f"Pretraining saw {model.n_seen:.0f} test people: this says nothing about new people.")
    if random is not None:
        details.append(_against_random(board, model, random))
    details += _added(board, model, reference) + _other_baselines(board, reference)
    details += _confounds(board, model)
    named = board.reference.words
    if reference is None:
        headline = f"{model.system.label} stands alone on {board.name}: {named} was not run beside it."
        return Verdict(board.name, "neutral", headline, _with_interval(board, model), details)
    difference = board.difference(model, reference)
    judged = board.judge(difference)
    relation = RELATIONS[judged if math.isfinite(difference.low) else "untested"]
    headline = relation.format(model=model.system.label, reference=named, task=board.name)
    numbers = (
        f"{NAMES[board.metric]} {amount(model.value, board.metric)} against "
        f"{amount(reference.value, board.metric)}; {_difference(board, difference)}."
    )
    tone: Tone = "bad" if model.n_seen > 0 else TONES[judged]
    return Verdict(board.name, tone, headline, numbers, details)


def _without_model(board: Board) -> Verdict:
    """Return the verdict of a task for which no model was trained."""
    roles = ("random", "reference", "connectivity", "regions", "confounds")
    best = next((entry for role in roles if (entry := board.best(role))), None)
    if best is None:
        return Verdict(board.name, "neutral", f"Nothing but the trivial answer was judged on {board.name}.", "", [])
    headline = f"No model was trained for {board.name}; {best.system.label} stands for what is reachable."
    confounds = board.best("confounds")
    details = [_against_chance(best)]
    if confounds is not None and confounds is not best:
        details += [f"Confounds alone reach {amount(confounds.value, board.metric)}."]
    return Verdict(board.name, "neutral", headline, _with_interval(board, best), details)


def _with_interval(board: Board, entry: Entry) -> str:
    text = f"{NAMES[board.metric]} {amount(entry.value, board.metric)}"
    between = interval(entry.ci_low, entry.ci_high, board.metric)
    return f"{text}." if between == "–" else f"{text} (95 % interval {between})."


def _difference(board: Board, difference: Difference) -> str:
    """Return the difference in words; for errors it says which direction is better."""
    text = f"difference {amount(difference.value, board.metric, signed=True)}"
    between = interval(difference.low, difference.high, board.metric, signed=True)
    text += " (no interval)" if between == "–" else f" (95 % interval {between})"
    return f"{text}, where negative is better" if board.lower_is_better else text


def _against_chance(entry: Entry) -> str:
    """Return whether permuted labels reach the value."""
    if not math.isfinite(entry.p_perm):
        return f"{entry.system.label} was not tested against permuted labels."
    p = f"permutation p {probability(entry.p_perm) if entry.p_perm < 0.001 else '= ' + probability(entry.p_perm)}"
    if entry.p_perm < ALPHA:
        return f"{entry.system.label} is above chance ({p})."
    return f"{entry.system.label} is not distinguishable from chance ({p})."


def _chosen(board: Board, model: Entry) -> list[str]:
    """Return a warning where the model that is named is the best of several by the numbers that it is named for."""
    n_models = len(board.of_role("model"))
    if n_models < 2:
        return []
    return [f"{model.system.label} is the best of {n_models} models by these very test people, which flatters it."]


def _other_baselines(board: Board, compared: Entry | None) -> list[str]:
    """Return a sentence where another readout of the reference does better, and one for each other linear model."""
    best = board.best("reference")
    shown = [] if best is None or compared is None or best is compared else [best]
    shown += [entry for role in ("connectivity", "variant", "regions") if (entry := board.best(role)) is not None]
    return [f"{entry.system.label} reaches {amount(entry.value, board.metric)}." for entry in shown]


def _added(board: Board, model: Entry, reference: Entry | None) -> list[str]:
    """Return what a model's embeddings add to the reference when both are read out together."""
    joined = board.joined(model)
    if joined is None or reference is None:
        return []
    difference = board.difference(joined, reference)
    named = board.reference.words
    if math.isfinite(difference.low):
        says = {
            "better": f"{model.system.label} adds to {named}",
            "worse": f"{model.system.label} takes away from {named}",
            "undecided": f"Whether {model.system.label} adds anything to {named} is open",
        }[board.judge(difference)]
    else:
        says = f"{model.system.label} was joined with {named}, untested"
    values = f"{amount(joined.value, board.metric)} together against {amount(reference.value, board.metric)} alone"
    return [f"{says}: {values}; {_difference(board, difference)}."]


def _against_mean(board: Board, model: Entry) -> list[str]:
    """Return whether a number is predicted better than by the mean of the training people."""
    mean = board.best("majority")
    if board.task.kind != "regression" or mean is None:
        return []
    difference = board.difference(model, mean)
    values = f"{amount(model.value, board.metric)} against {amount(mean.value, board.metric)}"
    if math.isfinite(difference.low):
        says = {
            "better": "beats the mean of the training people",
            "worse": "does worse than the mean of the training people",
            "undecided": "cannot be told apart from the mean of the training people",
        }[board.judge(difference)]
    else:
        says = "stands beside the mean of the training people, untested"
    return [f"{model.system.label} {says}: {values}; {_difference(board, difference)}."]


def _unlearned(board: Board, model: Entry) -> Entry | None:
    """Return the same network without pretraining; of one trained for the task, the one trained from scratch."""
    scratch = board.twin(model, "scratch") if model.system.readout == "finetune" else None
    return scratch or board.twin(model, "random")


def _against_random(board: Board, model: Entry, random: Entry) -> str:
    difference = board.difference(model, random)
    values = f"{amount(model.value, board.metric)} against {amount(random.value, board.metric)}"
    change = _difference(board, difference)
    if math.isfinite(difference.low):
        says = {
            "better": "Pretraining helped",
            "worse": "Pretraining hurt",
            "undecided": "Whether pretraining helped is open",
        }[board.judge(difference)]
    else:
        gain = board.gain(difference.value)
        says = "Pretrained weights score higher than random ones" if gain > 0 else "Random weights score no lower"
    how = "from scratch" if random.system.role == "scratch" else "with random weights"
    return f"{says}: {values} {how}; {change}."


def _confounds(board: Board, model: Entry) -> list[str]:
    """Return a sentence where confounds alone do as well as the model."""
    confounds = board.best("confounds")
    if confounds is None:
        return []
    value = amount(confounds.value, board.metric)
    if board.gain(model.value - confounds.value) <= 0:
        return [f"Confounds alone reach {value}, no worse than the model: the result needs no brain data."]
    return [f"Confounds alone reach {value}."]
