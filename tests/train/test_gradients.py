"""Too little memory halves the batch, aloud, and changes nothing else."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from test_loop import SPEC, settings
from torch import nn

from neuropipe.data import chance
from neuropipe.data.batch import Batch
from neuropipe.data.chance import Piece
from neuropipe.data.recordings import Recordings
from neuropipe.errors import ConfigError, NeuropipeError
from neuropipe.train import checkpoint, devices, gradients, loop
from neuropipe.train.distributed import Group


class Noisy(nn.Module):
    """A family that draws for every row, and that a device with too little memory cannot hold whole."""

    def __init__(self, most: int = 99) -> None:
        super().__init__()
        self.map, self.most, self.seen = nn.Linear(9, 9), most, []

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> dict:
        self.seen.append(batch.n_people)
        if batch.n_people > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        noisy = batch.series + chance.randn(batch.series.shape, generator)
        counted = batch.valid_time[:, :, None] & batch.valid_region[:, None, :]
        error = ((self.map(noisy) - batch.series).abs() * counted).sum() / counted.sum()
        return {"loss": error, "weight": counted.sum()}


def trained(shards, folder, most: int = 99, **changes):
    torch.manual_seed(0)
    model = Noisy(most)
    chosen = settings(**({"batch_size": 7, "n_steps": 6, "log_every": 2} | changes))
    rows = loop.train(model, Recordings([shards]), SPEC, chosen, seed=3, folder=folder, identity="x")
    return model, rows


def test_out_of_memory_halves_the_batch_aloud_and_learns_the_same(toy_shards, tmp_path, caplog):
    whole, rows = trained(toy_shards, tmp_path / "whole")
    with caplog.at_level(logging.WARNING):
        short, halved = trained(toy_shards, tmp_path / "short", most=2)
    assert short.seen[:6] == [7, 4, 2, 2, 2, 1] and max(short.seen[6:]) == 2  # then no further attempt
    assert "out of memory on cpu: from now on a batch of 7 people is computed in 4 parts" in caplog.text
    assert [row["accumulate"] for row in halved] == [4, 4, 4] and "accumulate" not in rows[0]
    for row, other in zip(halved, rows, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-6)
    for a, b in zip(short.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_what_was_halved_is_remembered_by_the_next_process(toy_shards, tmp_path):
    trained(toy_shards, tmp_path, most=2, n_steps=6, checkpoint_every=2)
    (tmp_path / "step-00000006.pt").unlink()
    resumed, rows = trained(toy_shards, tmp_path, most=2, checkpoint_every=2)
    assert resumed.seen == [2, 2, 2, 1] * 2 and rows[-1]["accumulate"] == 4


def test_several_processes_agree_on_smaller_parts_when_they_are_started_again(toy_shards, tmp_path, caplog):
    """Of two processes the second lacks memory; a single one stands for all that go on."""
    batch = Recordings([toy_shards]).training_batch(SPEC, 12, seed=3, step=0)
    remember = partial(checkpoint.remember_parts, tmp_path, "x")
    given = (nullcontext(), Group(1, 2), True, SPEC.n_copies, 1, remember, "tiny main/0")
    model = Noisy(most=5)
    with pytest.raises(NeuropipeError, match=r"process 1 of 2 lacks memory for 6 people at once.*accumulate: 2"):
        gradients.Gradients(model, model.loss, *given).compute(batch, 0, 0.0, False)
    with caplog.at_level(logging.INFO):
        resumed, rows = trained(toy_shards, tmp_path, most=4)
    assert "a batch is computed in 2 parts, as memory did not do before" in caplog.text
    assert set(resumed.seen) == {4, 3} and {row["accumulate"] for row in rows} == {2}
    changed, _ = trained(toy_shards, tmp_path / "other")
    assert set(changed.seen) == {7}
    assert checkpoint.parts(tmp_path, "another recipe") == 1


def test_one_person_that_does_not_fit_is_the_end(toy_shards, tmp_path):
    with pytest.raises(NeuropipeError, match="not even one person fits in the memory of cpu"):
        trained(toy_shards, tmp_path, most=0)


def test_a_gpu_that_the_recipe_needs_and_nobody_has():
    with pytest.raises(ConfigError, match=r"^r\.yaml: needs_gpu: true, but torch .* sees no GPU"):
        devices.check("cpu", True, "r.yaml")
    devices.check("cpu", False, "r.yaml")
    devices.check("cuda:0", True, "r.yaml")


@pytest.mark.parametrize(("n_views", "n_beside"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_pieces_draw_the_rows_of_the_whole(n_views, n_beside):
    """Row by row: views of everyone behind each other, what belongs to one row side by side."""
    n_people, shape = 5, (n_views, 5, n_beside, 4)
    whole = torch.rand(n_views * n_people * n_beside, 4, generator=torch.Generator().manual_seed(7))
    for mine in gradients.parts(slice(0, n_people), 3):
        piece = Piece.of(torch.device("cpu"), 7, n_people, mine, n_views)
        n_rows = n_views * (mine.stop - mine.start) * n_beside
        expected = whole.view(shape)[:, mine].flatten(0, 2)
        assert torch.equal(chance.rand((n_rows, 4), piece), expected)
        again = Piece.of(torch.device("cpu"), 7, n_people, mine, n_views)
        assert chance.rand((4, n_rows), again, axis=1).shape == (4, n_rows)
