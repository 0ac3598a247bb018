"""What training for a task relies on, for every family: one output, all weights trained, passes that runs share."""

from __future__ import annotations

import pytest
import torch
from test_contract import N_PEOPLE, batch, configs, make

from neuropipe.models.network import OnEmbedding, on_top_of, one_view
from neuropipe.train import optim


@pytest.fixture(params=sorted(configs()))
def tuned(request):
    """A network in evaluation mode, the model that it was made from (with its own weights), and what it reads."""
    model, config = make(request.param)
    network = on_top_of(make(request.param)[0], 1, 0.3).eval()
    return network, model, batch(config, one_view(config.reads()).n_views)


def test_it_gives_one_number_per_row_that_does_not_depend_on_the_others(tuned):
    network, _, given = tuned
    with torch.no_grad():
        whole = network(given)
        assert whole.shape == (N_PEOPLE, 1)
        parts = torch.cat([network(given.rows(torch.tensor([i]))) for i in range(N_PEOPLE)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_every_weight_is_trained_once_and_gradients_reach_it(tuned):
    network, _, given = tuned
    groups = network.param_groups(0.05, 0.5)
    grouped = [id(p) for group in groups for p in group["params"]]
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert sorted(grouped) == sorted(map(id, trained.values()))
    network(given, torch.Generator().manual_seed(0)).square().sum().backward()
    dead = [name for name, p in trained.items() if p.grad is None]
    assert set(dead) <= {"encoder.mask_token"}  # nothing is hidden from a network that is trained for a task
    assert min(group["lr_scale"] for group in groups) < max(group["lr_scale"] for group in groups) == 1
    assert {group["weight_decay"] for group in groups} <= {0.0, 0.05}
    assert optim.param_groups(network, 0.05)  # as the loop asks for them


def test_passes_share_the_encoder_differ_among_each_other_and_meet_all_rows_alike(tuned):
    network, _, given = tuned
    with torch.no_grad():
        encoded = network.encode(given)
        drawn = network.passes(encoded, 5, torch.Generator().manual_seed(1))
        assert drawn.shape == (5, N_PEOPLE, 1) and drawn.std(0).min() > 0
        alone = network.encode(given.rows(torch.tensor([2])))
        again = network.passes(alone, 5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(again[:, 0], drawn[:, 2], rtol=1e-4, atol=1e-5)


def test_the_pretrained_weights_are_those_that_embed_reads(tuned):
    network, model, _ = tuned
    before = [
        p for name, p in model.named_parameters() if name.startswith(("encoder.", "backbone.", "teacher.encoder."))
    ]
    after = {tuple(p.shape): [] for p in network.parameters()}
    for p in network.parameters():
        after[tuple(p.shape)].append(p)
    assert before and all(any(torch.equal(p, q) for q in after.get(tuple(p.shape), [])) for p in before)


def test_a_family_without_a_network_of_its_own_gets_a_linear_layer_on_its_embedding():
    class Bare(torch.nn.Module):
        embed_dim = 3

        def __init__(self):
            super().__init__()
            self.map = torch.nn.Linear(4, 3)

        def embed(self, given):
            return self.map(given.image.flatten(1))

    config = make("multiscale_vit-demo")[1]
    network = on_top_of(Bare(), 1)
    assert isinstance(network, OnEmbedding) and network.drop_rate == 0.1
    given = batch(config)
    given = type(given).of_images(given.image[:, :, :2, :2])
    network(given).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    rates = {group["lr_scale"] for group in network.param_groups(0.1, 0.5)}
    assert rates == {0.5, 1.0}
