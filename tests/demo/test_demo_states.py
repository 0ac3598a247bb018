"""The task run: planted where truth.json says, in blocks whose order tells nothing, and nothing beside."""

from __future__ import annotations

import numpy as np
import pytest
from nilearn.glm.first_level import compute_regressor

from neuropipe.demo import states
from neuropipe.demo.coupling import NETWORKS, network_ids, population
from neuropipe.demo.states import LABELS, STATES, Timing, block_features, draw_blocks, network_signals

TIMING = Timing.of(2.0)


def test_every_label_comes_once_in_each_cycle_and_events_are_the_blocks_without_rest() -> None:
    blocks = draw_blocks(np.random.default_rng(0))
    for cycle in range(states.N_CYCLES):
        assert sorted(blocks[4 * cycle : 4 * cycle + 4]) == sorted(LABELS)
    table = states.events(blocks)
    assert table["trial_type"].tolist() == [label for label in blocks if label != "rest"]
    assert (table["onset"] % states.BLOCK_S == states.LEAD_S).all() and (table["duration"] == states.BLOCK_S).all()
    assert table["onset"].iloc[-1] + states.BLOCK_S <= states.DURATION_S <= TIMING.n_volumes * TIMING.t_r


@pytest.mark.parametrize("t_r", [1.5, 2.0, 2.5])
def test_responses_are_nilearns(t_r: float) -> None:
    blocks, timing = draw_blocks(np.random.default_rng(1)), Timing.of(t_r)
    found, table = states.responses(blocks, timing), states.events(blocks)
    for column, state in enumerate(STATES):
        mine = table[table["trial_type"] == state]
        condition = np.stack([mine["onset"], mine["duration"], np.ones(len(mine))])
        expected, _ = compute_regressor(condition, "spm", np.arange(timing.n_volumes) * t_r, oversampling=20)
        assert np.corrcoef(found[:, column], expected[:, 0])[0, 1] > 0.995
        assert 0.9 < found[:, column].max() < 1.3


def test_levels_and_couplings_rise_where_they_are_planted_and_nowhere_else() -> None:
    rng = np.random.default_rng(2)
    means, couplings, labels = [], [], []
    for _ in range(200):
        blocks = draw_blocks(rng)
        mean, pairs = block_features(network_signals(population(), blocks, TIMING, rng), TIMING)
        means.append(mean)
        couplings.append(pairs)
        labels += blocks
    means, couplings, labels = np.concatenate(means), np.concatenate(couplings), np.array(labels)
    pairs = list(zip(*states.PAIRS, strict=True))
    for state, names in STATES.items():
        members = sorted(NETWORKS.index(name) for name in names)
        here, rest = labels == state, labels == "rest"
        rise = means[here].mean(0) - means[rest].mean(0)
        assert set(np.argsort(rise)[-2:]) == set(members) and rise[members].min() > 0.5
        gain = couplings[here].mean(0) - couplings[rest].mean(0)
        assert pairs[int(gain.argmax())] == tuple(members)


def test_regions_follow_their_network() -> None:
    blocks = ["look", "move", "recall", "rest"] * 4
    ids = network_ids()
    series = states.regional_series(population(), ids, blocks, TIMING, np.random.default_rng(3))
    assert series.shape == (TIMING.n_volumes, len(ids)) and series.dtype == np.float32
    response = states.responses(blocks, TIMING)[:, 0]
    strength = np.array([series[:, ids == network].mean(1) @ (response - response.mean()) for network in range(9)])
    assert set(np.argsort(strength)[-2:]) == {NETWORKS.index(name) for name in STATES["look"]}


def test_the_best_accuracies_lie_above_chance_and_below_certainty() -> None:
    found = states.best_accuracies(np.random.default_rng(4))
    assert 0.25 < found["couplings"] < found["means"] < 1 and found["means_and_couplings"] > found["means"] - 0.02
