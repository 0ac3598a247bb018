"""Probing at moments of a pretraining, for every family: the training does not notice."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from test_contract import N_PEOPLE, batch, configs, make

from neuropipe.evaluate.moments import Prober
from neuropipe.train import loop
from neuropipe.train.recipe import PretrainSettings

SETTINGS = {"n_steps": 4, "batch_size": N_PEOPLE, "lr": 1e-3, "warmup": 0.0, "log_every": 1, "probe_at": [0.25, 0.5, 1]}


class Made:
    """What a family reads, made anew for every step; one recording per person."""

    device = torch.device("cpu")

    def __init__(self, config) -> None:
        self.config = config
        names = [f"sub-{i}" for i in range(N_PEOPLE)]
        self.table = pd.DataFrame({"dataset": "toy", "participant_id": names, "key": names})

    def __iter__(self):
        return iter(range(N_PEOPLE))

    def training_batch(self, spec, batch_size, seed, step):
        return batch(self.config, spec.n_views, seed=100 * seed + step)

    def evaluation_batch(self, i, spec, n_clips):
        return batch(self.config).rows(torch.tensor([i]))


def trained(name: str, folder, probed: bool):
    model, config = make(name)
    source, settings = Made(config), PretrainSettings(**SETTINGS)
    watch = Prober(model, source, config.reads(), None, [], settings.probe_at, settings.n_steps) if probed else None
    rows = loop.train(
        model, source, config.reads(), settings, seed=3, folder=folder, identity="x", what=name, watch=watch
    )
    return model, pd.DataFrame(rows).drop(columns=["seconds", "samples_per_s"]), torch.get_rng_state()


@pytest.mark.parametrize("name", sorted(configs()))
def test_losses_weights_and_random_state_are_the_same_with_and_without(name, tmp_path, monkeypatch):
    looked = []
    original = Prober.look

    def look(self, step):
        looked.append(step)
        original(self, step)

    monkeypatch.setattr(Prober, "look", look)
    plain, losses, state = trained(name, tmp_path / "plain", probed=False)
    probed, again, after = trained(name, tmp_path / "probed", probed=True)
    assert looked == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(again, losses, check_exact=True)
    assert torch.equal(after, state) and probed.training == plain.training
    for key, value in plain.state_dict().items():
        assert torch.equal(probed.state_dict()[key], value), key
