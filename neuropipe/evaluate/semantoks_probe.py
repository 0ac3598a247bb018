"""The linear probe of Brain-Semantoks: batch norm and a linear layer on frozen features, trained by SGD.

For comparison with published numbers; the study's own probe is `neuropipe.evaluate.linear`. All
learning rates are trained at once, as one stack of heads. What is corrected: the order of training
samples is seeded, and a last batch of a single sample, of which no variance can be taken, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn import metrics
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

LEARNING_RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
MOMENTUM = 0.9
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
        """Map features (sample, dim) to (head, sample, n_outputs).

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
    """Train every head with its own learning rate on the same batches, by SGD with momentum.

    Parameters
    ----------
    heads : Heads
        Trained in place and left in evaluation mode.
    features : tensor (sample, dim)
    targets : tensor (sample,)
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
        order = torch.randperm(len(features), generator=generator, device=generator.device)
        for rows in order.split(batch_size):
            if len(rows) < 2:
                continue
            loss = _losses(heads(features[rows]), targets[rows], task).sum()
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, v, g in zip(parameters, velocities, gradients, strict=True):
                    p -= lr * v.mul_(MOMENTUM).add_(g)
    heads.eval()


def _losses(outputs: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Return the mean loss of every head, (head,); `outputs` is (head, sample, n_outputs)."""
    if task == "regression":
        return (outputs.squeeze(-1) - targets).abs().mean(1)
    all_targets = targets.expand(len(outputs), -1)
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
    """The chosen head's learning rate and validation score, and its metrics on the test people."""

    lr: float
    validation: float
    metrics: dict[str, float]


def linear_probe(
    features: np.ndarray,
    targets: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    task: Task,
    n_outputs: int,
    generator: torch.Generator,
    epochs: int = 50,
    max_batch_size: int = 512,
) -> Result:
    """Train heads at all published learning rates and judge the best one of the validation side.

    Parameters
    ----------
    features : float array (person, clip, dim)
        Every clip is a sample of its own in training and validation; outputs are averaged over a
        test person's clips.
    targets : array (person,)
    rows : three int arrays
        Training, validation and test people.
    task, n_outputs
        Kind of target; number of classes, or 1.
    generator : torch.Generator
    """
    side = [(torch.from_numpy(features[r]).float(), torch.from_numpy(targets[r])) for r in rows]
    (x, y), (x_val, y_val), (x_test, _) = side
    n_clips, dim = features.shape[1:]
    heads = Heads(len(LEARNING_RATES), dim, n_outputs, generator)
    train_heads(
        heads,
        x.flatten(0, 1),
        y.repeat_interleave(n_clips),
        LEARNING_RATES,
        task=task,
        epochs=epochs,
        batch_size=min(max_batch_size, max(1, len(x) * n_clips // 8)),
        generator=generator,
    )
    with torch.no_grad():
        validated = heads(x_val.flatten(0, 1)).numpy()
        tested = heads(x_test.flatten(0, 1)).unflatten(1, (-1, n_clips)).mean(2).numpy()
    y_clips = y_val.repeat_interleave(n_clips).numpy()
    scores = [primary(outputs, y_clips, task) for outputs in validated]
    best = int(np.argmax(scores) if task == "classification" else np.argmin(scores))
    return Result(LEARNING_RATES[best], scores[best], score(tested[best], targets[rows[2]], task))
