"""People who are held out of pretraining: who they are, what is seen of them, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from neuropipe.data.recordings import Recordings
from neuropipe.errors import SplitError
from neuropipe.models.base import ClipSpec
from neuropipe.splits.people import individuals
from neuropipe.train import loop
from neuropipe.train.recipe import PretrainSettings
from neuropipe.train.validation import Validation, Watches, held_out

SPEC = ClipSpec(n_samples=20)


def table(**sizes: int) -> pd.DataFrame:
    rows = [(dataset, f"sub-{n:02d}") for dataset, size in sizes.items() for n in range(size)]
    return pd.DataFrame(rows, columns=["dataset", "participant_id"])


def test_every_dataset_gives_its_share_and_two_at_least():
    people = table(a=100, b=7)
    held = held_out(people, individuals(people, {}), 0.1, seed=0)
    assert people[held].groupby("dataset").size().to_dict() == {"a": 10, "b": 2}
    assert not np.array_equal(held, held_out(people, individuals(people, {}), 0.1, seed=1))


def test_someone_in_two_datasets_is_on_one_side():
    people = table(a=40, again=40)
    who = individuals(people, {"again": "a"})
    held = held_out(people, who, 0.25, seed=3)
    assert not set(who[held]) & set(who[~held]) and 20 <= held.sum() <= 40


def test_too_few_people_are_refused():
    people = table(a=20, b=3)
    with pytest.raises(SplitError, match=r"b has 3, of whom 2 would be held out"):
        held_out(people, individuals(people, {}), 0.1, seed=0)


class Constant(nn.Module):
    """Predicts one number: its loss on a dataset of ones and one of zeros is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.25))

    def loss(self, batch, generator, progress):
        noise = 0 * torch.rand((), generator=generator)
        return {"loss": (batch.series - self.value).abs().mean() + noise, "progress": torch.tensor(progress)}


@pytest.fixture
def sources(make_shards):
    made = {
        name: make_shards({(f"sub-{n}", f"sub-{n}_rest"): np.full((30, 2), value) for n in range(6)}, dataset=name)
        for name, value in (("ones", 1.0), ("zeros", 0.0))
    }
    return {name: Recordings([shards]) for name, shards in made.items()}


def settings(**changes) -> PretrainSettings:
    return PretrainSettings(**({"n_steps": 10, "batch_size": 4, "lr": 1e-3, "validate_every": 4} | changes))


def test_losses_are_those_of_each_dataset(sources):
    watch = Validation(Constant(), sources, SPEC, settings(), seed=0)
    for step in range(1, 11):
        watch.look(step)
    assert [row["step"] for row in watch.rows] == [4, 8, 10]
    assert watch.rows[0]["validation_loss_ones"] == pytest.approx(0.75)
    assert watch.rows[0]["validation_loss_zeros"] == pytest.approx(0.25)
    assert watch.rows[0]["validation_loss"] == pytest.approx(0.5)
    assert watch.rows[1]["validation_progress_ones"] == pytest.approx(0.8)


def test_looking_changes_nothing_and_survives_a_kill(sources, tmp_path):
    def trained(folder, watch_of):
        model = Constant()
        watch = watch_of(model)
        source = sources["ones"]
        loop.train(model, source, SPEC, settings(), seed=0, folder=folder, identity="x", watch=watch)
        return model.value.item(), watch

    plain, _ = trained(tmp_path / "a", lambda model: None)
    seen, watch = trained(tmp_path / "b", lambda m: Watches([Validation(m, sources, SPEC, settings(), seed=0)]))
    assert seen == plain
    _, again = trained(tmp_path / "b", lambda m: Watches([Validation(m, sources, SPEC, settings(), seed=0)]))
    assert again.watches[0].rows == watch.watches[0].rows and len(again.watches[0].rows) == 3  # from the checkpoint
