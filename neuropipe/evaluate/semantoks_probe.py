"""The linear probe of Brain-Semantoks: batch norm and a linear layer on frozen features, trained by SGD.

For comparison with published numbers; the study's own probe is `neuropipe.evaluate.linear`. All
learning rates and repetitions are trained at once, as one stack of heads. What is corrected: people without
a target are left out, the order of training samples is seeded, and a last batch of a single sample, of which
no variance can be taken, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from sklearn import metrics
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from neuropipe.data.source import Source
from neuropipe.models import semantoks
from neuropipe.models.semantoks import Model

LEARNING_RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
MOMENTUM = 0.9
SHARES = (0.30769, 0.07692, 0.61538)  # training, validation and test people of the published example
STATISTICS_MOMENTUM = 0.1  # share of a batch in the running mean and variance
EPS = 1e-5

Task = Literal["classification", "regression"]


class Heads(nn.Module):
    """A stack of independent heads: batch norm over features, then a linear layer.

    Parameters
    ----------
    n_heads, dim, n_outputs : int
        Heads, features, outputs (classes, or 1).
    generator : torch.Generator
        Draws the weights, normal with standard deviation 2e-5 cut at two units.
    """

    def __init__(self, n_heads: int, dim: int, n_outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(n_heads, 1, dim))
        self.shift = nn.Parameter(torch.zeros(n_heads, 1, dim))
        self.weight = nn.Parameter(torch.empty(n_heads, dim, n_outputs))
        self.bias = nn.Parameter(torch.zeros(n_heads, 1, n_outputs))
        nn.init.trunc_normal_(self.weight, std=2e-5, generator=generator)
        self.register_buffer("mean", torch.zeros(n_heads, 1, dim))
        self.register_buffer("variance", torch.ones(n_heads, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (sample, dim), or those of every head (head, sample, dim), to (head, sample, n_outputs).

        In training mode batch statistics are used and the running ones are updated.
        """
        x = x.expand(len(self.mean), -1, -1)
        mean, variance = self.mean, self.variance
        if self.training:
            variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
            unbiased = variance * x.shape[1] / (x.shape[1] - 1)
            self.mean.lerp_(mean, STATISTICS_MOMENTUM)
            self.variance.lerp_(unbiased, STATISTICS_MOMENTUM)
        normalised = (x - mean) * (variance + EPS).rsqrt() * self.scale + self.shift
        return normalised @ self.weight + self.bias


def train_heads(
    heads: Heads,
    features: Tensor,
    targets: Tensor,
    lrs: Sequence[float],
    *,
    task: Task,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
) -> None:
    """Train every head with its own learning rate on batches of the same places, by SGD with momentum.

    Parameters
    ----------
    heads : Heads
        Trained in place and left in evaluation mode.
    features : tensor (sample, dim) or (repetition, sample, dim)
        Repetitions are served by equal shares of the heads, in order.
    targets : tensor (sample,) or (repetition, sample)
        Class numbers, or values.
    lrs : sequence of float
        One learning rate per head; constant.
    task : {"classification", "regression"}
        Cross-entropy, or mean absolute error on unscaled targets.
    epochs, batch_size : int
    generator : torch.Generator
        Draws the order of the samples.
    """
    lr = torch.tensor(lrs, device=features.device)[:, None, None]
    parameters = list(heads.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]
    heads.train()
    for _ in range(epochs):
        order = torch.randperm(features.shape[-2], generator=generator, device=generator.device)
        for rows in order.split(batch_size):
            if len(rows) < 2:
                continue
            outputs = heads(per_head(features[..., rows, :], len(heads.weight)))
            loss = _losses(outputs, targets[..., rows], task).sum()
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, v, g in zip(parameters, velocities, gradients, strict=True):
                    p -= lr * v.mul_(MOMENTUM).add_(g)
    heads.eval()


def per_head(values: Tensor, n_heads: int, shared: int = 2) -> Tensor:
    """Return `values` with the first axis of heads; with `shared` axes they are the same for all."""
    if values.dim() == shared:
        return values.expand(n_heads, *values.shape)
    return values.repeat_interleave(n_heads // len(values), dim=0)


def _losses(outputs: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Return the mean loss of every head, (head,); `outputs` is (head, sample, n_outputs)."""
    all_targets = per_head(targets, len(outputs), shared=1)
    if task == "regression":
        return (outputs.squeeze(-1) - all_targets).abs().mean(1)
    return F.cross_entropy(outputs.transpose(1, 2), all_targets, reduction="none").mean(1)


def primary(outputs: np.ndarray, targets: np.ndarray, task: Task) -> float:
    """Return what heads are chosen by: balanced accuracy in percent, or mean absolute error."""
    return score(outputs, targets, task)["balanced_accuracy" if task == "classification" else "mae"]


def score(outputs: np.ndarray, targets: np.ndarray, task: Task) -> dict[str, float]:
    """Return the published metrics of `outputs` (sample, n_outputs); those of classes are in percent."""
    if task == "regression":
        values = outputs.reshape(len(targets))
        return {
            "mae": float(metrics.mean_absolute_error(targets, values)),
            "r2": float(metrics.r2_score(targets, values)),
            "pearson_r": float(np.corrcoef(targets, values)[0, 1]),
        }
    found = outputs.argmax(1)
    probabilities = np.exp(outputs - outputs.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    binary = outputs.shape[1] == 2
    result = {
        "accuracy": metrics.accuracy_score(targets, found),
        "balanced_accuracy": metrics.balanced_accuracy_score(targets, found),
        "auroc": metrics.roc_auc_score(targets, probabilities[:, 1] if binary else probabilities, multi_class="ovr"),
    }
    for average in ("binary",) if binary else ("macro", "weighted"):
        values = metrics.precision_recall_fscore_support(targets, found, average=average, zero_division=0)
        suffix = "" if binary else f"_{average}"
        result |= {f"{name}{suffix}": values[i] for i, name in enumerate(("precision", "recall", "f1"))}
    return {name: 100 * float(value) for name, value in result.items()}


def split(
    people: Sequence[str], shares: tuple[float, float, float], seed: int, strata: Sequence[str] | None = None
) -> tuple[list[str], list[str], list[str]]:
    """Return training, validation and test people: first the test share, then validation from the rest.

    Parameters
    ----------
    people : sequence of str
    shares : (train, validation, test)
    seed : int
        The release uses 0 plus the number of the repetition.
    strata : sequence of str, optional
        One per person, kept in proportion.
    """
    train, validation, test = shares
    index = np.arange(len(people))
    strata = None if strata is None else np.asarray(strata)
    rest, tested = train_test_split(index, test_size=test, random_state=seed, stratify=strata)
    left = None if strata is None else strata[rest]
    share = validation / (train + validation)
    trained, validated = train_test_split(rest, test_size=share, random_state=seed, stratify=left)
    return tuple([people[i] for i in rows] for rows in (trained, validated, tested))


@dataclass(frozen=True)
class Result:
    """The chosen head of one repetition.

    Attributes
    ----------
    feature : str
        Type of features that it reads.
    lr, validation : float
        Its learning rate, and what it was chosen by: `primary` over the validation side's clips.
    metrics : dict of str to float
        Of the test people: ``ensembled_*`` of outputs that were averaged over clips (the published numbers),
        ``random_crop_*`` of one clip each, ``avg_single_crop_*`` and ``std_single_crop_*`` over single clips.
    """

    feature: str
    lr: float
    validation: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Sides:
    """Training, validation and test people (int arrays); of all repetitions equally many."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def linear_probe(
    features: Mapping[str, np.ndarray],
    targets: np.ndarray,
    repetitions: Sequence[Sides],
    *,
    task: Task,
    n_outputs: int,
    generator: torch.Generator,
    epochs: int = 50,
    max_batch_size: int = 512,
) -> list[Result]:
    """Train heads for all published learning rates and repetitions, and judge each repetition's best on validation.

    Parameters
    ----------
    features : mapping of str to float array (person, clip, dim)
        By type. Every clip is a sample of its own in training and validation.
    targets : array (person,)
        Class numbers, or values.
    repetitions : sequence of Sides
    task, n_outputs
        Kind of target; number of classes, or 1.
    generator : torch.Generator
        Draws initial weights, the order of training, and the single clips.
    """
    how = {"task": task, "n_outputs": n_outputs, "epochs": epochs, "max_batch_size": max_batch_size}
    found = {name: _probe(x, targets, repetitions, **how, generator=generator) for name, x in features.items()}
    results = []
    for number, sides in enumerate(repetitions):
        tried = [
            (value if task == "regression" else -value, name, place)
            for name, (values, _) in found.items()
            for place, value in enumerate(values[number])
        ]
        value, name, place = min(tried, key=lambda one: one[0])  # the first of equally good ones
        outputs = found[name][1][number, place]
        judged = judge(outputs, targets[sides.test], task, generator)
        results.append(Result(name, LEARNING_RATES[place], abs(value), judged))
    return results


def _probe(
    features: np.ndarray,
    targets: np.ndarray,
    repetitions: Sequence[Sides],
    *,
    task: Task,
    n_outputs: int,
    epochs: int,
    max_batch_size: int,
    generator: torch.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Train on one type of features.

    Returns
    -------
    validation : ndarray (repetition, learning rate)
        `primary` over clips.
    outputs : ndarray (repetition, learning rate, person, clip, n_outputs)
        Of the test people.
    """
    n_clips, dim = features.shape[1:]
    x, y = torch.from_numpy(features).float(), torch.from_numpy(np.repeat(targets[:, None], n_clips, axis=1))

    def side(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(np.stack(rows))
        return x[chosen].flatten(1, 2), y[chosen].flatten(1, 2)

    n_heads = len(repetitions) * len(LEARNING_RATES)
    heads = Heads(n_heads, dim, n_outputs, generator)
    train, train_y = side([sides.train for sides in repetitions])
    batch_size = min(max_batch_size, max(1, train.shape[1] // 8))
    lrs = LEARNING_RATES * len(repetitions)
    train_heads(heads, train, train_y, lrs, task=task, epochs=epochs, batch_size=batch_size, generator=generator)
    shape = (len(repetitions), len(LEARNING_RATES))
    with torch.no_grad():
        held, held_y = side([sides.validation for sides in repetitions])
        validated = heads(per_head(held, n_heads, shared=2)).unflatten(0, shape).numpy()
        tested = heads(per_head(side([sides.test for sides in repetitions])[0], n_heads)).unflatten(0, shape)
    scores = [[primary(o, t, task) for o in outputs] for outputs, t in zip(validated, held_y.numpy(), strict=True)]
    return np.array(scores), tested.unflatten(2, (-1, n_clips)).numpy()


def judge(outputs: np.ndarray, targets: np.ndarray, task: Task, generator: torch.Generator) -> dict[str, float]:
    """Return the metrics of `Result` for outputs (person, clip, n_outputs) of the test people."""
    n_people, n_clips, _ = outputs.shape
    drawn = torch.randint(n_clips, (n_people,), generator=generator).numpy()
    single = [score(outputs[:, clip], targets, task) for clip in range(n_clips)]
    values = {name: [one[name] for one in single] for name in single[0]}
    return {
        **{f"ensembled_{k}": v for k, v in score(outputs.mean(1), targets, task).items()},
        **{f"random_crop_{k}": v for k, v in score(outputs[np.arange(n_people), drawn], targets, task).items()},
        **{f"avg_single_crop_{k}": float(np.mean(v)) for k, v in values.items()},
        **{f"std_single_crop_{k}": float(np.std(v)) for k, v in values.items()},
    }


def repeated_probe(
    features: Mapping[str, np.ndarray],
    targets: np.ndarray,
    *,
    task: Task,
    n_repetitions: int = 10,
    shares: tuple[float, float, float] = SHARES,
    stratify: bool = True,
    seed: int = 0,
) -> list[Result]:
    """Probe with the published splits: repetition ``k`` divides people by seed ``seed + k``.

    Parameters
    ----------
    features : mapping of str to float array (person, clip, dim)
    targets : array (person,)
        Class numbers 0, 1, ..., or values; people with NaN are left out.
    shares : (train, validation, test)
    stratify : bool
        Keep the classes' shares on every side.
    """
    known = np.flatnonzero(np.isfinite(targets))
    y = targets[known]
    y = y.astype(np.int64) if task == "classification" else y.astype(np.float32)
    strata = [str(value) for value in y] if stratify and task == "classification" else None
    names = [str(i) for i in range(len(known))]
    parts = (split(names, shares, seed + k, strata) for k in range(n_repetitions))
    repetitions = [Sides(*(np.array(side, dtype=int) for side in sides)) for sides in parts]
    return linear_probe(
        {name: values[known] for name, values in features.items()},
        y,
        repetitions,
        task=task,
        n_outputs=int(y.max()) + 1 if task == "classification" else 1,
        generator=torch.Generator().manual_seed(seed),
    )


@torch.inference_mode()
def clip_features(model: Model, source: Source, n_clips: int = 8) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return who was read, and the teacher's features of `n_clips` evenly spaced clips of everyone.

    Of a person with several recordings the first is taken; the release draws one. A short recording has fewer
    clips, which are then repeated.

    Returns
    -------
    people : DataFrame
        ``dataset`` and ``participant_id``.
    features : dict of str to float32 array (person, clip, dim)
        By type: ``cls_avg`` and ``cls``.
    """
    model.eval()
    both = model.config.model_copy(update={"feature": "cls_avg"})
    first = source.table.drop_duplicates(["dataset", "participant_id"])
    values = []
    for i in first.index:
        found = semantoks.features(model.teacher.encoder, both, source.evaluation_batch(i, both.reads(), n_clips))
        spread = np.linspace(0, len(found) - 1, n_clips).round().astype(int)
        values.append(found[torch.from_numpy(spread)].float().cpu().numpy())
    people, features = first[["dataset", "participant_id"]].reset_index(drop=True), np.stack(values)
    return people, {"cls_avg": features, "cls": features[..., both.embed_dim :]}
