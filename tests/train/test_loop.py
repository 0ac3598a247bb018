"""The loop: exact resume after a kill at any step, and one page of promises kept."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest
import torch
from torch import nn

from neuropipe.data.batch import Batch
from neuropipe.data.recordings import Recordings
from neuropipe.errors import CheckpointError, NeuropipeError
from neuropipe.models.base import ClipSpec, ImageSpec, VolumeSpec
from neuropipe.train import checkpoint, gradients, loop, optim
from neuropipe.train.recipe import TrainSettings

SPEC = ClipSpec(n_samples=20, n_views=2)


class Toy(nn.Module):
    """A family reduced to the contract: it has dropout, and draws from the generator that it is given."""

    def __init__(self, n_regions: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(n_regions, 8), nn.Dropout(0.2), nn.Linear(8, n_regions))
        self.steps_seen: list[float] = []

    def loss(self, batch, generator, progress):
        noise = torch.randn(batch.series.shape, generator=generator, device=batch.series.device)
        loss = (self.map(batch.series + noise) - batch.series).square().mean()
        return {"loss": loss, "reconstruction": loss.detach()}

    def after_step(self, progress):
        self.steps_seen.append(progress)


def settings(**changes) -> TrainSettings:
    return TrainSettings(
        **({"n_steps": 24, "batch_size": 4, "lr": 1e-2, "log_every": 5, "checkpoint_every": 7} | changes)
    )


def trained(shards, folder, **changes):
    torch.manual_seed(0)
    model = Toy(9)
    rows = loop.train(model, Recordings([shards]), SPEC, settings(**changes), seed=3, folder=folder, identity="x")
    return model, rows


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("dies_at", [1, 7, 8, 13, 23])
def test_killed_and_resumed_equals_uninterrupted(toy_shards, tmp_path, monkeypatch, dies_at):
    whole, rows = trained(toy_shards, tmp_path / "whole")
    original = optim.set_schedules

    def dies(optimizer, chosen, step):
        if step == dies_at:
            raise KeyboardInterrupt
        return original(optimizer, chosen, step)

    monkeypatch.setattr(optim, "set_schedules", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(toy_shards, tmp_path / "killed")
    monkeypatch.setattr(optim, "set_schedules", original)
    resumed, again = trained(toy_shards, tmp_path / "killed")
    assert same(whole, resumed)
    assert len(resumed.steps_seen) == 24 - dies_at // 7 * 7  # it went on; it did not start anew
    timing = ["seconds", "samples_per_s"]
    pd.testing.assert_frame_equal(pd.DataFrame(again).drop(columns=timing), pd.DataFrame(rows).drop(columns=timing))


@pytest.mark.slow
def test_kill_minus_nine_in_mid_run(toy_shards, tmp_path):
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        import test_loop; from pathlib import Path; from neuropipe.shards.read import Shards
        import torch; torch.set_num_threads(1)
        test_loop.trained(Shards({str(toy_shards.folder)!r}), Path(sys.argv[1]), n_steps=4000, checkpoint_every=50)
    """)
    folder = tmp_path / "killed"
    victim = subprocess.Popen([sys.executable, "-c", script, str(folder)])
    while not list(folder.glob("step-*.pt")):
        time.sleep(0.05)
        assert victim.poll() is None
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert checkpoint.latest(folder)["step"] < 4000
    torch.set_num_threads(1)
    resumed, _ = trained(toy_shards, folder, n_steps=4000, checkpoint_every=50)
    whole, _ = trained(toy_shards, tmp_path / "whole", n_steps=4000, checkpoint_every=4000)
    assert same(resumed, whole)


def test_another_identity_is_not_continued(toy_shards, tmp_path):
    trained(toy_shards, tmp_path)
    torch.manual_seed(0)
    model = Toy(9)
    loop.train(model, Recordings([toy_shards]), SPEC, settings(), seed=3, folder=tmp_path, identity="other recipe")
    assert len(model.steps_seen) == 24


def test_checkpoints_of_another_identity_do_not_outlive_those_of_this_run(toy_shards, tmp_path, monkeypatch):
    trained(toy_shards, tmp_path)
    original = optim.set_schedules

    def dies(optimizer, chosen, step):
        if step == 9:
            raise KeyboardInterrupt
        return original(optimizer, chosen, step)

    monkeypatch.setattr(optim, "set_schedules", dies)
    with pytest.raises(KeyboardInterrupt):
        loop.train(Toy(9), Recordings([toy_shards]), SPEC, settings(), seed=3, folder=tmp_path, identity="other recipe")
    assert [path.name for path in tmp_path.glob("step-*.pt")] == ["step-00000007.pt"]
    assert checkpoint.latest(tmp_path)["identity"] == "other recipe"


def test_a_checkpoint_without_room_is_not_called_broken(toy_shards, tmp_path, monkeypatch):
    trained(toy_shards, tmp_path)

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(CheckpointError, match=r"step-00000024\.pt does not fit into the memory of cuda:0 that is free"):
        checkpoint.latest(tmp_path, "cuda:0")


def test_two_checkpoints_are_kept_and_a_broken_one_is_passed_over(toy_shards, tmp_path):
    trained(toy_shards, tmp_path)
    names = sorted(path.name for path in tmp_path.glob("step-*.pt"))
    assert names == ["step-00000021.pt", "step-00000024.pt"]
    (tmp_path / names[1]).write_bytes((tmp_path / names[1]).read_bytes()[:200])
    assert checkpoint.latest(tmp_path)["step"] == 21
    (tmp_path / names[0]).write_bytes(b"")
    with pytest.raises(CheckpointError, match="None of the 2 checkpoints"):
        checkpoint.latest(tmp_path)


def test_accumulated_parts_give_the_gradient_of_the_whole(toy_shards, tmp_path):
    class Plain(Toy):
        def loss(self, batch, generator, progress):
            return {"loss": (self.map[2](self.map[0](batch.series)) - batch.series).square().mean()}

    models = []
    for parts in (1, 2):
        torch.manual_seed(0)
        models.append(Plain(9))
        chosen = settings(n_steps=3, accumulate=parts)
        loop.train(
            models[-1], Recordings([toy_shards]), SPEC, chosen, seed=3, folder=tmp_path / str(parts), identity="x"
        )
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_parts_keep_the_views_of_a_person_together(toy_shards):
    batch = Recordings([toy_shards]).training_batch(SPEC, 5, 0, 0)
    people = [batch.people(mine) for mine in gradients.parts(slice(0, 5), 2)]
    for part in people:
        first, second = part.person.view(2, -1)
        assert torch.equal(first, second) and part.whole is batch
    assert torch.equal(torch.cat([part.person.view(2, -1) for part in people], 1), batch.person.view(2, -1))


class Maps(nn.Module):
    """A family of volumes or images reduced to the contract; it has labels to fit."""

    def __init__(self, content: str, n_voxels: int) -> None:
        super().__init__()
        self.content, self.map = content, nn.Linear(n_voxels, 1)

    def loss(self, batch, generator, progress):
        error = self.map(getattr(batch, self.content).flatten(1))[:, 0] - batch.labels["age"]
        return {"loss": error.square().mean()}


class InMemory:
    """A source whose batches are the same at every step."""

    device = torch.device("cpu")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def training_batch(self, spec, batch_size, seed, step):
        return self.batch


@pytest.mark.parametrize(("content", "shape"), [("volume", (6, 1, 2, 3, 4)), ("image", (6, 1, 5, 4))])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_volumes_and_images_go_through_the_loop_with_their_labels(tmp_path, content, shape, accumulate):
    torch.manual_seed(0)
    wrap = {"volume": Batch.of_volumes, "image": Batch.of_images}[content]
    source = InMemory(wrap(torch.randn(shape), {"age": torch.arange(6.0)}))
    spec = {"volume": VolumeSpec, "image": ImageSpec}[content]()
    chosen = settings(n_steps=200, lr=0.1, clip_norm=None, accumulate=accumulate)
    model = Maps(content, math.prod(shape[1:]))
    rows = loop.train(model, source, spec, chosen, seed=0, folder=tmp_path, identity="x")
    assert rows[-1]["loss"] < 0.05 * rows[0]["loss"]


def test_a_loss_that_is_not_finite_stops_with_advice(toy_shards, tmp_path):
    class Broken(Toy):
        def loss(self, batch, generator, progress):
            return {"loss": self.map(batch.series).mean() * math.inf}

    with pytest.raises(NeuropipeError, match=r"loss is (nan|inf|-inf) at step 5\. Lower `lr`"):
        loop.train(Broken(9), Recordings([toy_shards]), SPEC, settings(), seed=0, folder=tmp_path, identity="x")


def test_checkpoints_hold_tensors_and_plain_containers_only(toy_shards, tmp_path):
    trained(toy_shards, tmp_path)
    state = torch.load(tmp_path / "step-00000024.pt", weights_only=True)
    assert set(state) == {"step", "identity", "model", "optimizer", "rows", "window"}


def test_rates_reach_tensorboard(toy_shards, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    torch.manual_seed(0)
    rows = loop.train(
        Toy(9),
        Recordings([toy_shards]),
        SPEC,
        settings(),
        seed=3,
        folder=tmp_path / "c",
        identity="x",
        tensorboard=tmp_path / "t",
    )
    events = accumulator.EventAccumulator(str(tmp_path / "t")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [row["step"] for row in rows]
    assert events.Scalars("loss")[-1].value == pytest.approx(rows[-1]["loss"], rel=1e-5)
