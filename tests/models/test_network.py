"""What training for a task relies on, for every family: one output, all weights trained, passes that runs share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_contract import N_PEOPLE, batch, configs, make

from neuropipe import recipes
from neuropipe.errors import ConfigError
from neuropipe.models.network import OnEmbedding, on_top_of, one_view
from neuropipe.train import optim, recipe


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
    named = dict(model.named_parameters())
    before = [p for name, p in named.items() if name.startswith("encoder.")] or list(named.values())
    if hasattr(model, "parts"):
        before = [p for parameters in model.parts().values() for p in parameters]
    after = {tuple(p.shape): [] for p in network.parameters()}
    for p in network.parameters():
        after[tuple(p.shape)].append(p)
    assert before and all(any(torch.equal(p, q) for q in after.get(tuple(p.shape), [])) for p in before)


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
def test_a_hidden_layer_and_another_norm_decide_instead(tuned, norm):
    _, model, given = tuned
    network = on_top_of(model, 2, 0.3, hidden_dim=7, norm=norm).eval()
    with torch.no_grad():
        whole = network(given)
        drawn = network.passes(network.encode(given), 3, torch.Generator().manual_seed(1))
    assert whole.shape == (N_PEOPLE, 2) and drawn.shape == (3, N_PEOPLE, 2)
    grouped = [id(p) for group in network.param_groups(0.05, 0.5) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    network.train()
    network(given, torch.Generator().manual_seed(0)).square().sum().backward()
    hidden = getattr(network.deciding, network.last).hidden.weight
    assert hidden.shape[0] == 7 and hidden.grad.any()


def steps(network, given, n: int, progress: float = 0.0) -> None:
    """Take `n` steps as the loop takes them."""
    network.before_step(1.0)  # groups are made before anything is held still
    optimizer = torch.optim.AdamW(network.param_groups(0.5, 1.0), lr=0.1)
    network.train()
    for step in range(n):
        optimizer.zero_grad(set_to_none=True)
        network.before_step(progress)
        network(given, torch.Generator().manual_seed(step)).square().sum().backward()
        optimizer.step()


def moved(before: dict, network) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def test_frozen_parts_do_not_move_nor_decay_and_learn_when_it_is_time(tuned):
    network, _, given = tuned
    parts = set(network.parts())
    assert {"head"} < parts
    assert sorted(network.part_of) == sorted(name for name, p in network.named_parameters() if p.requires_grad)
    for names in ([], ["encoder"], *[[part] for part in sorted(parts - {"head"})]):
        held = parts - {"head"} if names == ["encoder"] else set(names)
        network.freeze(names, until=0.5)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        steps(network, given, 2, progress=0.4)
        changed = moved(before, network)
        assert {network.part_of[name] for name in changed if name in network.part_of} == parts - held
        if held == parts - {"head"}:
            owners = {name.rpartition(".")[0] for name, part in network.part_of.items() if part == "head"}
            assert {name.rpartition(".")[0] for name in changed} <= owners  # no running mean of what is held
        steps(network, given, 1, progress=0.5)
        changed = moved(before, network)
        assert {network.part_of[name] for name in changed if name in network.part_of} == parts


def test_recipes_freeze_what_their_families_have():
    for path in sorted(Path(recipes.__file__).parent.glob("*.yaml")):
        asked = recipe.read(path)
        if asked.finetune is None:
            continue
        small = next(name for name, (family, _) in configs().items() if family == asked.family)
        on_top_of(make(small)[0]).freeze(asked.finetune.frozen)


def test_a_part_that_the_family_does_not_have_is_refused_with_those_it_has(tuned):
    network = tuned[0]
    with pytest.raises(ConfigError, match=r"colour: expected encoder .* parts of this family: "):
        network.freeze(["encoder", "colour"])


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
    assert set(network.parts()) == {"encoder", "head"}


def test_what_embed_does_not_read_is_no_part_of_the_network_of_a_task():
    class Two(torch.nn.Module):
        embed_dim = 3

        def __init__(self):
            super().__init__()
            self.map, self.decoder = torch.nn.Linear(4, 3), torch.nn.Linear(3, 4)

        def parts(self):
            return {"map": list(self.map.parameters())}

        def param_groups(self, weight_decay, layer_decay):
            group = {"params": list(self.parameters()), "lr_scale": 1.0, "weight_decay": weight_decay}
            return [group | {"weight_decay_scale": 1.0}]

        def embed(self, given):
            return self.map(given.image.flatten(1))

    model = Two()
    network = on_top_of(model, 1)
    grouped = {id(p) for group in network.param_groups(0.1, 0.5) for p in group["params"]}
    assert not grouped & {id(p) for p in model.decoder.parameters()}
    assert grouped >= {id(p) for p in model.map.parameters()} and set(network.parts()) == {"map", "head"}
