"""A task run with planted states: blocks in which pairs of networks become more active and more alike.

Each of three states has two networks of its own. During its blocks, after the haemodynamic response, both rise by
`LEVEL` standard deviations, and a signal that the two share takes the place of a part of their own. Blocks of the
states and of rest follow each other in an order that is new for every person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import gamma
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from neuropipe.demo.coupling import AGE_RANGE, NETWORKS, draw_couplings
from neuropipe.demo.signals import LOADING, band_limited

TASK = "states"
STATES = {"look": ("Vis", "DorsAttn"), "move": ("SomMot", "Cerebellum"), "recall": ("Limbic", "Default")}
REST = "rest"
LABELS = (*STATES, REST)
N_CYCLES = 4  # every label once in each
BLOCK_S = 24.0
LEAD_S = 12.0  # before the first block
TAIL_S = 8.0  # after the last one, for its response
DURATION_S = LEAD_S + N_CYCLES * len(LABELS) * BLOCK_S + TAIL_S
LEVEL = 1.0  # of a network, in standard deviations of its signal
SHARED = 0.8  # part of the shared signal in a network's, at full response
N_TASK_PEOPLE = 16
DELAY_S = 4.5  # between a block and its clip, as the configuration of the demo says
STEP_S = 0.1  # in which the response is computed
N_SIMULATED = 240  # people on whom the best accuracy is measured
PAIRS = np.triu_indices(len(NETWORKS), 1)


@dataclass(frozen=True)
class Timing:
    """When the samples of a run were taken: every `t_r` seconds, the first at 0."""

    n_volumes: int
    t_r: float

    @classmethod
    def of(cls, t_r: float) -> Timing:
        """Return the timing of a whole task run."""
        return cls(int(np.ceil(DURATION_S / t_r)), t_r)


def draw_blocks(rng: np.random.Generator) -> list[str]:
    """Return the labels of a run's blocks in their order: each cycle holds every label once."""
    return [str(label) for _ in range(N_CYCLES) for label in rng.permutation(LABELS)]


def onset_s(block: int) -> float:
    """Return when a block begins, in s from the first volume."""
    return LEAD_S + block * BLOCK_S


def events(blocks: list[str]) -> pd.DataFrame:
    """Return what events.tsv says: onset (s), duration (s) and trial_type; rest is no event."""
    rows = [(onset_s(number), BLOCK_S, label) for number, label in enumerate(blocks) if label != REST]
    return pd.DataFrame(rows, columns=["onset", "duration", "trial_type"])


def responses(blocks: list[str], timing: Timing) -> np.ndarray:
    """Return each state's expected response (n_volumes, n_states), 1 where a long block would end.

    Boxcars through the canonical haemodynamic response: a gamma density with its peak at 5 s, less a sixth of one with
    its peak at 15 s (Friston et al. 1998, NeuroImage 7:30).
    """
    lag = np.arange(0, 32, STEP_S)
    kernel = gamma.pdf(lag, 6) - gamma.pdf(lag, 16) / 6
    time = np.arange(0, DURATION_S + STEP_S, STEP_S)
    found = np.empty((timing.n_volumes, len(STATES)))
    for column, state in enumerate(STATES):
        boxcar = np.zeros(len(time))
        for number, label in enumerate(blocks):
            if label == state:
                boxcar[round(onset_s(number) / STEP_S) : round(onset_s(number + 1) / STEP_S)] = 1
        curve = np.convolve(boxcar, kernel / kernel.sum())[: len(time)]
        found[:, column] = np.interp(np.arange(timing.n_volumes) * timing.t_r, time, curve)
    return found


def network_signals(coupling: np.ndarray, blocks: list[str], timing: Timing, rng: np.random.Generator) -> np.ndarray:
    """Return the signals of the nine networks (n_volumes, 9): of variance one at rest, with what the states add."""
    signals = band_limited(timing.n_volumes, len(NETWORKS), timing.t_r, rng) @ np.linalg.cholesky(coupling).T
    shared = band_limited(timing.n_volumes, len(STATES), timing.t_r, rng)
    response = responses(blocks, timing)
    for column, networks in enumerate(STATES.values()):
        rise = response[:, [column]]
        part = SHARED * rise.clip(0, 1)
        members = [NETWORKS.index(name) for name in networks]
        signals[:, members] = (1 - part**2) ** 0.5 * signals[:, members] + part * shared[:, [column]] + LEVEL * rise
    return signals


def regional_series(
    coupling: np.ndarray, network_ids: np.ndarray, blocks: list[str], timing: Timing, rng: np.random.Generator
) -> np.ndarray:
    """Return the neural part of a task run, float32 (n_volumes, n_regions); see `signals.regional_series`."""
    networks = network_signals(coupling, blocks, timing, rng)
    own = band_limited(timing.n_volumes, len(network_ids), timing.t_r, rng)
    return (LOADING * networks[:, network_ids] + (1 - LOADING**2) ** 0.5 * own).astype(np.float32)


def block_features(signals: np.ndarray, timing: Timing) -> tuple[np.ndarray, np.ndarray]:
    """Return means (n_blocks, 9) and couplings (n_blocks, 36; Fisher's z) of the networks in every block's clip."""
    time = np.arange(len(signals)) * timing.t_r
    starts = [onset_s(number) + DELAY_S for number in range(N_CYCLES * len(LABELS))]
    clips = [signals[(time >= start) & (time < start + BLOCK_S)] for start in starts]
    couplings = [np.arctanh(np.corrcoef(clip, rowvar=False)[PAIRS]) for clip in clips]
    return np.stack([clip.mean(0) for clip in clips]), np.stack(couplings)


def best_accuracies(rng: np.random.Generator) -> dict[str, float]:
    """Return how well a linear discriminant tells the labels of new people's blocks from the networks' own signals.

    It learns from two thirds of `N_SIMULATED` people whose network signals are seen without noise of regions, voxels or
    motion; no linear method does better on scans, from the same measures.
    """
    timing = Timing.of(2.0)
    patient, age = np.arange(N_SIMULATED) % 2 == 0, rng.uniform(*AGE_RANGE, N_SIMULATED)
    means, couplings, labels = [], [], []
    for coupling in draw_couplings(patient, age, rng):
        blocks = draw_blocks(rng)
        mean, pairs = block_features(network_signals(coupling, blocks, timing, rng), timing)
        means.append(mean)
        couplings.append(pairs)
        labels.append([LABELS.index(label) for label in blocks])
    y = np.stack(labels)
    cut = 2 * N_SIMULATED // 3
    measures = {"means": np.stack(means), "couplings": np.stack(couplings)}
    measures["means_and_couplings"] = np.concatenate(list(measures.values()), axis=2)
    found = {}
    for name, values in measures.items():
        values = values - values.mean(axis=1, keepdims=True)  # clean series are centred over the run
        fitted = LinearDiscriminantAnalysis().fit(np.concatenate(values[:cut]), y[:cut].ravel())
        found[name] = float(fitted.score(np.concatenate(values[cut:]), y[cut:].ravel()))
    return found


def describe_states(blocks: dict[str, list[str]], rng: np.random.Generator) -> dict[str, Any]:
    """Return what ``truth.json`` says of the task runs.

    Parameters
    ----------
    blocks : dict of participant_id to list of str
        The order of the blocks of everyone who has a task run.
    rng : numpy Generator
        Draws the simulated people of `best_accuracies`.
    """
    return {
        "task": TASK,
        "block_s": BLOCK_S,
        "labels": list(LABELS),
        "planted_in": [
            {"state": state, "networks": list(networks), "level": LEVEL, "shared": SHARED}
            for state, networks in STATES.items()
        ],
        "chance": 1 / len(LABELS),
        "best_accuracy_from_networks": best_accuracies(rng),
        "blocks": blocks,
    }
