"""Training for a task: planted effects are found, the best step is kept, a kill does not show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from held_images import Held, Pixels, cohort
from pydantic import ValidationError
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight

from neuropipe.models.base import ImageSpec
from neuropipe.train import checkpoint, optim
from neuropipe.train.finetune import Objective, read_people, train
from neuropipe.train.recipe import FinetuneSettings

SPEC = ImageSpec(n_views=2)  # as a family trains without labels


def settings(**changes) -> FinetuneSettings:
    small = {"n_steps": 120, "batch_size": 16, "lr": 1e-2, "evaluate_every": 10, "log_every": 10, "n_clips": 3}
    return FinetuneSettings(**(small | {"checkpoint_every": 25} | changes))


def tuned(folder, kind="binary", chosen=None, y=None, n=80, network=None, **planted):
    """Train on one cohort, with another for validation; return the network, its watch and what it was given."""
    (source, known), (validation, more) = (cohort(size, kind, seed, **planted) for size, seed in ((n, 1), (30, 2)))
    known = (known | more) if y is None else y
    torch.manual_seed(0)
    network = network or Pixels()
    train_side = [known[person] for person in zip(source.table["dataset"], source.table["participant_id"], strict=True)]
    objective = Objective.of(kind, np.array(train_side))
    chosen = chosen or settings()
    rows, watch = train(
        network, source, validation, known, objective, SPEC, chosen, seed=3, folder=folder, identity="x"
    )
    return network, watch, rows, objective


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_planted_class_is_found_in_new_people(tmp_path, share):
    network, _, _, objective = tuned(tmp_path, share=share)
    test, y = cohort(200, "binary", 9, share)
    readings = read_people(network, test, SPEC, settings())
    assert roc_auc_score([y[p] for p in readings], [r.value for r in readings.values()]) > 0.95
    assert objective.mean == pytest.approx(share, abs=0.1) and objective.scaling is None


def test_a_planted_number_is_found_in_new_people_and_comes_in_its_own_unit(tmp_path):
    network, _, _, objective = tuned(tmp_path, "regression")
    test, y = cohort(200, "regression", 9)
    readings = read_people(network, test, SPEC, settings())
    values = np.array([r.value for r in readings.values()]) * objective.scaling["sd"] + objective.scaling["mean"]
    error = np.abs(values - [y[p] for p in readings]).mean()
    assert error < 8  # years; the training side's mean errs by 15


def test_the_loss_of_classes_is_scikit_learns_with_balanced_weights():
    rng = np.random.default_rng(0)
    y, output = (rng.random(50) < 0.2).astype(float), rng.normal(size=50)
    found = Objective.of("binary", y).loss(torch.tensor(output), torch.tensor(y))
    expected = log_loss(y, expit(output), sample_weight=compute_sample_weight("balanced", y))
    assert found.item() == pytest.approx(expected)
    plain = Objective.of("binary", y, balanced=False).loss(torch.tensor(output), torch.tensor(y))
    assert plain.item() == pytest.approx(log_loss(y, expit(output)))


def test_the_loss_of_numbers_is_the_unexplained_share_of_the_training_sides_variance():
    y = np.array([20.0, 40.0, 60.0, 90.0])
    objective = Objective.of("regression", y)
    assert objective.loss(torch.zeros(4), torch.tensor(y)).item() == pytest.approx(1)
    perfect = torch.tensor((y - y.mean()) / y.std())
    assert objective.loss(perfect, torch.tensor(y)).item() == pytest.approx(0)


def test_training_ends_early_and_keeps_the_best_step_where_labels_mean_nothing(tmp_path):
    chosen = settings(n_steps=2000, patience=4, evaluate_every=5)
    network, watch, rows, objective = tuned(tmp_path, chosen=chosen, strength=0.0, n=24)
    losses = [row["validation_loss"] for row in watch.losses]
    assert len(losses) - 1 - int(np.argmin(losses)) == 4
    assert rows[-1]["step"] == watch.losses[-1]["step"] < 2000
    validation, y = cohort(30, "binary", 2, strength=0.0)
    readings = read_people(network, validation, SPEC, chosen)
    values, labels = (torch.tensor(v) for v in ([r.value for r in readings.values()], [y[p] for p in readings]))
    assert objective.loss(values, labels).item() == pytest.approx(min(losses), rel=1e-5)


def frozen(until: float | None) -> Pixels:
    """Return a network whose hidden layer is held still."""
    torch.manual_seed(0)
    network = Pixels()
    network.part_of = {name: "hidden" if name.startswith("hidden") else "head" for name in network.state_dict()}
    network.freeze(["encoder"], until)
    return network


def test_what_is_frozen_stays_as_it_was_until_its_share_of_the_steps(tmp_path):
    steps = settings(n_steps=20, evaluate_every=1, patience=None)
    start = frozen(None).state_dict()
    for until, moves in ((None, False), (0.5, True)):
        network = frozen(until)
        tuned(tmp_path / str(until), chosen=steps, network=network)
        last = checkpoint.latest(tmp_path / str(until))["model"]
        assert torch.equal(last["hidden.weight"], start["hidden.weight"]) != moves
        assert not torch.equal(last["fc.weight"], start["fc.weight"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"unfreeze_at": 0.5}, "needs freeze"),
        ({"freeze": []}, "at least 1"),
        ({"head_norm": "batch", "batch_size": 1}, "two people"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        settings(**wrong)
    assert settings(freeze="encoder").frozen == ["encoder"] and settings().frozen == []
    assert settings(head="mlp").hidden_dim == 256 and settings().hidden_dim is None


@pytest.mark.parametrize("dies_at", [3, 30, 77])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, dies_at):
    chosen = settings(n_steps=80, patience=None)
    whole, watch, _, _ = tuned(tmp_path / "whole", chosen=chosen, network=frozen(0.5))
    original = optim.set_schedules

    def dies(optimizer, given, step):
        if step == dies_at:
            raise KeyboardInterrupt
        return original(optimizer, given, step)

    monkeypatch.setattr(optim, "set_schedules", dies)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "killed", chosen=chosen, network=frozen(0.5))
    monkeypatch.setattr(optim, "set_schedules", original)
    resumed, again, _, _ = tuned(tmp_path / "killed", chosen=chosen, network=frozen(0.5))
    assert again.losses == watch.losses
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_training_that_ended_early_is_not_taken_up_again(tmp_path, monkeypatch):
    chosen = settings(n_steps=2000, patience=2, evaluate_every=5)
    first, watch, _, _ = tuned(tmp_path, chosen=chosen, strength=0.0, n=24)
    monkeypatch.setattr(optim, "set_rates", lambda *given: pytest.fail("another step was taken"))
    monkeypatch.setattr(Held, "training_batch", lambda *given: pytest.fail("another batch was made"))
    second, again, _, _ = tuned(tmp_path, chosen=chosen, strength=0.0, n=24)
    assert again.losses == watch.losses
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    assert checkpoint.latest(tmp_path)["step"] == watch.losses[-1]["step"]


def test_scans_of_a_person_weigh_the_same_and_slices_are_averaged_before():
    images = torch.randn(3, 4, 4, 4)
    source, network = Held(["sub-b", "sub-a", "sub-b"], images), Pixels()
    found = read_people(network, source, SPEC, settings(n_clips=4))
    assert list(found) == [("toy", "sub-a"), ("toy", "sub-b")]
    with torch.no_grad():
        outputs = network.fc(network.norm(torch.tanh(network.hidden(images.flatten(2))))).mean((1, 2))
    assert found["toy", "sub-a"].value == pytest.approx(outputs[1].item(), abs=1e-6)
    assert found["toy", "sub-b"].value == pytest.approx(outputs[[0, 2]].mean().item(), abs=1e-6)


def test_bf16_and_accumulated_parts_learn_the_same_effect(tmp_path):
    network, *_ = tuned(tmp_path, chosen=settings(precision="bf16", accumulate=2, layer_decay=0.5))
    test, y = cohort(100, "binary", 9)
    readings = read_people(network, test, SPEC, settings())
    assert roc_auc_score([y[p] for p in readings], [r.value for r in readings.values()]) > 0.95


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        ({"needs_gpu": True}, False),
        ({"residence": "mapped"}, False),
        ({"log_every": 1}, False),
        ({"checkpoint_every": 1}, False),
        ({"from_scratch": False}, False),
        ({"compile": True}, True),
        ({"accumulate": 2}, True),
        ({"lr": 1e-3}, True),
    ],
)
def test_which_settings_decide_the_weights(change, decides):
    plain = FinetuneSettings(n_steps=1, batch_size=2, lr=1e-2)
    changed = plain.model_copy(update=change)
    assert (changed.decisive() != plain.decisive()) == decides
    assert plain.decisive() == plain.model_dump(mode="json"), "networks of today would be trained anew"
