"""Augmentations: what is drawn lies in the published ranges, and is done in the published order."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from neuropipe.data import augment

OFF = {"spatial": 0, "temporal": 0, "scale": 0, "noise": 0}


def draw(batch: int = 500, time: int = 50, region: int = 40, seed: int = 0, **levels: int) -> augment.Draws:
    shape = (batch, time, region)
    return augment.draw(shape, augment.Levels(**{**OFF, **levels}), torch.Generator().manual_seed(seed))


def test_everything_off_leaves_the_series() -> None:
    series = torch.randn(3, 5, 4)
    assert augment.apply(series, draw(3, 5, 4)) is series


@pytest.mark.parametrize(("level", "fewest", "most"), [(1, 1, 3), (2, 4, 11), (3, 10, 19)])
def test_regions_dropped(level: int, fewest: int, most: int) -> None:
    """max(1, floor(40 r)) of 40 regions, every region as often as the others, each clip on its own."""
    dropped = draw(4000, spatial=level).drop_region
    counts = dropped.sum(1)
    assert (counts.min(), counts.max()) == (fewest, most)
    share = dropped.float().mean(0)
    assert (share - share.mean()).abs().max() < 0.05
    assert len({tuple(row.tolist()) for row in dropped[:20]}) > 10


@pytest.mark.parametrize(("level", "shortest", "longest"), [(1, 1, 14), (2, 10, 19), (3, 15, 29)])
def test_one_block_of_time_is_dropped(level: int, shortest: int, longest: int) -> None:
    dropped = draw(4000, temporal=level).drop_time.int()
    lengths = dropped.sum(1)
    assert (lengths.min(), lengths.max()) == (shortest, longest)
    starts = torch.diff(dropped, dim=1, prepend=torch.zeros(4000, 1)) == 1
    assert (starts.sum(1) == 1).all()
    assert dropped[:, 0].any() and dropped[:, -1].any()


def test_scale_and_noise_have_the_published_strength() -> None:
    assert draw(scale=3).scale.min() >= 0.4 and draw(scale=3).scale.max() <= 1.6
    assert draw(noise=2).noise.std().item() == pytest.approx(0.2, rel=0.02)


def test_noise_comes_last_and_is_not_scaled() -> None:
    series = torch.ones(2, 6, 3)
    draws = augment.Draws(
        drop_region=torch.tensor([[True, False, False]] * 2),
        drop_time=torch.tensor([[False, True] + [False] * 4] * 2),
        scale=torch.tensor([2.0, 0.5]),
        noise=torch.full((2, 6, 3), 0.25),
    )
    found = augment.apply(series, draws)
    assert found[0, 0].tolist() == [0.25, 2.25, 2.25] and found[1, 0].tolist() == [0.25, 0.75, 0.75]
    assert (found[:, 1] == 0.25).all()


def test_draws_follow_the_seed() -> None:
    levels = {"spatial": 1, "temporal": 1, "scale": 1, "noise": 1}
    first, again, other = (draw(5, seed=seed, **levels) for seed in (0, 0, 1))
    assert torch.equal(first.noise, again.noise) and torch.equal(first.drop_time, again.drop_time)
    assert not torch.equal(first.noise, other.noise)


def test_levels_are_checked() -> None:
    with pytest.raises(ValidationError):
        augment.Levels(noise=4)
