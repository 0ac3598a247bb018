"""Clips: the right samples, marked where there is nothing, whatever the residence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from neuropipe.data import networks
from neuropipe.data.recordings import Recordings
from neuropipe.errors import AtlasError, InputError
from neuropipe.models.base import ClipSpec


def test_cut_returns_the_recording_and_marks_padding(toy_shards):
    source = Recordings([toy_shards])
    batch = source.cut(np.array([0, 2]), np.array([5, 45]), 10)
    np.testing.assert_array_equal(batch.series[0].numpy(), toy_shards.series(0)[5:15].astype(np.float32))
    length = int(source.lengths[2])
    assert batch.valid_time[1].sum() == length - 45
    assert (batch.series[1, length - 45 :] == 0).all()


@pytest.mark.parametrize("starts", ["uniform", "regular"])
def test_device_and_memory_map_give_the_same_batches(toy_shards, starts):
    spec = ClipSpec(n_samples=20, n_views=2, starts=starts)
    resident, mapped = Recordings([toy_shards]), Recordings([toy_shards], residence="mapped")
    for step in range(5):
        a, b = (source.training_batch(spec, 4, 7, step) for source in (resident, mapped))
        for name in ("series", "valid_time", "valid_region", "person", "site", "t_r"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_views_are_clips_of_one_recording_of_the_same_person(toy_shards):
    batch = Recordings([toy_shards]).training_batch(ClipSpec(20, 2), 6, 0, 0)
    first, second = batch.person.view(2, -1)
    assert torch.equal(first, second) and len(set(first.tolist())) == 6


def test_starts_are_uniform_over_all_possible_ones(make_shards):
    values = np.arange(30.0)[:, None].repeat(2, 1)
    source = Recordings([make_shards({("sub-1", "sub-1_task-rest"): values}, dtype="float32")])
    starts = [int(source.training_batch(ClipSpec(20), 1, 0, step).series[0, 0, 0]) for step in range(2200)]
    counts = np.bincount(starts, minlength=11)
    assert len(counts) == 11
    assert ((counts - 200) ** 2 / 200).sum() < 29.6  # chi-square, 10 degrees of freedom, p = 0.001


def test_chosen_people_only(toy_shards):
    people = pd.DataFrame({"dataset": ["toy", "toy"], "participant_id": ["sub-01", "sub-05"]})
    source = Recordings([toy_shards], people)
    assert source.n_people == 2 and set(source.table["participant_id"]) == {"sub-01", "sub-05"}
    with pytest.raises(InputError, match="None of the chosen people"):
        Recordings([toy_shards], people.assign(dataset="other"))


def test_sites_are_coded_and_unknown_is_minus_one(toy_shards):
    assert set(Recordings([toy_shards], sites={"toy": "site"}).table["site"]) == {0, 1}
    assert set(Recordings([toy_shards], sites={"toy": None}).table["site"]) == {-1}


def test_other_regions_are_refused(toy_shards, make_shards, tmp_path_factory, monkeypatch):
    other = make_shards({("sub-1", "sub-1_task-rest"): np.ones((60, 8))}, dataset="other")
    with pytest.raises(AtlasError, match=r"expected 9 regions.*found 8 regions"):
        Recordings([toy_shards, other])


def test_networks_are_found_where_series_share_a_signal(make_shards):
    rng = np.random.default_rng(0)
    truth = np.array([0, 0, 1, 2, 1, 2, 0, 1])
    latent = rng.normal(size=(400, 3))
    values = latent[:, truth] + 0.5 * rng.normal(size=(400, 8))
    source = Recordings([make_shards({("sub-1", "sub-1_task-rest"): values})])
    regions = networks.derive(source, 3)
    np.testing.assert_array_equal(regions.network_ids, truth)
    assert regions.order_hash == source.regions.order_hash
