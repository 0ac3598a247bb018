"""Sequence-BERT and Network-BERT: pairs and masks by hand; `tests/parity` has the golden vectors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from neuropipe.data.batch import Batch
from neuropipe.models import csm, embedder, network_bert, sequence_bert
from neuropipe.models.sequence_bert import END, FIRST, SECOND, SEPARATOR, Config
from neuropipe.signals.regions import Regions

SMALL = {"n_samples": 20, "min_samples": 10, "embed_dim": 16, "depth": 2, "num_heads": 2}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(family=sequence_bert, n_regions: int = 2, **fields):
    torch.manual_seed(0)
    return family.Model(family.Config(**{**SMALL, **fields}), Regions.plain("a", n_regions))


def numbered(n: int, n_samples: int = 20) -> Batch:
    """Return clips of two regions that hold the row and the sample, both from 1."""
    row = torch.arange(1.0, n + 1)[:, None].expand(n, n_samples)
    sample = torch.arange(1.0, n_samples + 1).expand(n, n_samples)
    return Batch.of_series(torch.stack([row, sample], dim=2))


def sources(batch: Batch, dataset: list[int], t_r: list[float]) -> Batch:
    return replace(batch, dataset=torch.tensor(dataset), t_r=torch.tensor(t_r))


def test_parts_leave_a_gap_and_keep_their_order() -> None:
    """Every pair is checked sample by sample against what was drawn."""
    batch, config = numbered(64), Config(**SMALL)
    pairs = sequence_bert.draw_pairs(batch, config, seeded())
    joined = sequence_bert.join(embedder.whole(batch), pairs)
    gaps = set()
    for i in range(64):
        held = joined.series[i]
        first = held[joined.place_of[i] == FIRST]
        second = held[joined.place_of[i] == SECOND]
        assert (first[:, 0] == i + 1).all() and first[:, 1].tolist() == list(range(1, len(first) + 1))
        partner = int(second[0, 0]) - 1
        assert (second[:, 0] == partner + 1).all() and (partner != i) == pairs.other[i]
        own_first = int(pairs.n_first[partner])
        assert second[:, 1].diff().eq(1).all()
        gaps.add(int(second[0, 1]) - 1 - own_first)
        length = int(second[-1, 1])
        assert 10 <= length <= 20 and own_first == (length - int(second[0, 1]) + 1 + own_first) // 2
        kinds = joined.place_of[i].tolist()
        assert kinds.index(SEPARATOR) == len(first) and kinds.index(END) == len(first) + len(second) + 1
        expected = [2.0 * k for k in range(len(first))] + [-1.0] + [2.0 * k for k in range(len(second))] + [-1.0]
        assert joined.time_s[i, : len(expected)].tolist() == expected
    assert gaps == {1, 2, 3, 4}
    assert 16 < pairs.other.sum() < 48


def test_wrong_second_parts_are_of_the_same_dataset_and_repetition_time() -> None:
    batch = sources(numbered(6), [0, 0, 0, 1, 1, 2], [2.0, 2.0, 1.0, 2.0, 2.0, 2.0])
    drawn = torch.stack([sequence_bert.draw_partner(batch, "same_source", seeded(k)) for k in range(20)])
    assert drawn.unique(dim=0).tolist() == [[1, 0, 2, 4, 3, 5]]  # rows 2 and 5 have nobody
    pairs = sequence_bert.draw_pairs(batch, Config(**SMALL), seeded())
    assert not pairs.other[[2, 5]].any()
    anyone = torch.stack([sequence_bert.draw_partner(batch, "any", seeded(k)) for k in range(200)])
    assert all(set(anyone[:, i].tolist()) == set(range(6)) - {i} for i in range(6))


def test_short_and_censored_recordings_make_pairs_of_what_is_there() -> None:
    batch = numbered(8)
    valid = torch.arange(20) < torch.tensor([20, 12, 6, 4, 3, 2, 1, 20])[:, None]
    valid[7, 5:8] = False
    batch = replace(batch, valid_time=valid)
    joined = sequence_bert.join(embedder.whole(batch), sequence_bert.draw_pairs(batch, Config(**SMALL), seeded()))
    seen = joined.series[joined.attend].long()
    assert valid[seen[:, 0] - 1, seen[:, 1] - 1].all()
    loss = model().loss(batch, seeded(), 0.0)
    assert torch.isfinite(loss["loss"])


@pytest.mark.parametrize("family", [sequence_bert, network_bert])
@pytest.mark.parametrize("place", ["first", "last"])
def test_hidden_entries_are_read_where_they_stand_or_one_later_as_released(family, place: str) -> None:
    one = model(family, n_regions=6, cls_place=place, mask_share=0.3)
    batch = Batch.of_series(torch.randn(4, 20, 6, generator=seeded()))
    sequence, _ = one.prepare(batch, seeded())
    late = 0 if place == "first" else 1
    mask = one.embedder.tokens["mask"].expand(1, 1, 6)[0, 0]
    for i, t, d in sequence.counted.nonzero().tolist():
        assert sequence.tokens[i, t - late, d] == mask[d]
    assert (sequence.time_s[:, 0] == embedder.NO_TIME).all() == (place == "first")
    told = one.reconstruct(batch, seeded()).visible
    assert not told[sequence.counted].any() and torch.equal(told | sequence.counted, sequence.visible)
    shown = told if place == "first" else told.roll(-1, 1)
    target = sequence.target if place == "first" else sequence.target.roll(-1, 1)
    assert torch.equal(sequence.tokens[shown], target[shown])


def test_masks_hide_the_share_that_is_asked_for_and_at_least_one_entry() -> None:
    allowed = torch.arange(50).expand(2000, 50) < torch.randint(1, 51, (2000, 1), generator=seeded())
    hidden = sequence_bert.draw_hidden(allowed, 0.2, False, seeded(1))
    assert hidden[allowed].float().mean() == pytest.approx(0.2, abs=0.01)
    assert not hidden[~allowed].any() and not hidden.any(1).all()
    forced = sequence_bert.draw_hidden(allowed, 0.2, True, seeded(1))
    assert forced.any(1).all() and not forced[~allowed].any()
    assert torch.equal(forced[hidden.any(1)], hidden[hidden.any(1)])


def test_network_bert_hides_regions_throughout() -> None:
    one = model(network_bert, n_regions=12, mask_share=0.3)
    batch = Batch.of_series(torch.randn(6, 20, 12, generator=seeded()))
    region = batch.valid_region.clone()
    region[:, 3] = False
    sequence, _ = one.prepare(replace(batch, valid_region=region), seeded())
    samples = sequence.counted.any(2) | sequence.visible.any(2)
    of_region = sequence.counted.any(1)
    assert torch.equal(sequence.counted, samples[:, :, None] & of_region[:, None, :])
    assert of_region.any(1).all() and not of_region[:, 3].any()


class Calls(TorchDispatchMode):
    """Counts operator calls, and refuses those that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += 1
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")
        assert not any(word in function.name() for word in waits), f"{function.name()} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", [csm, sequence_bert, network_bert])
def test_preparation_has_no_loop_over_the_batch_and_a_step_never_waits(family) -> None:
    """The release makes 72,000 to 120,000 calls to prepare a batch of 192."""
    counts = []
    for n in (8, 192):
        one, batch = model(family), numbered(n)
        with Calls() as calls:
            one.prepare(batch, seeded())
        counts.append(calls.n)
        with Calls():
            one.loss(batch, seeded(), 0.0)["loss"].backward()
    assert counts[0] == counts[1] < 200


def test_loss_on_pairs_asks_which_second_parts_are_anothers() -> None:
    one, batch = model(drop_rate=0.0), numbered(16)
    with torch.no_grad():
        one.next_head.weight.zero_()
        one.next_head.bias.fill_(2.0)
    loss = one.loss(batch, seeded(), 0.0)
    _, other = one.prepare(batch, seeded())
    by_hand = torch.where(other, math.log1p(math.exp(-2)), math.log1p(math.exp(2))).mean()
    assert 0 < other.sum() < 16
    assert loss["next_loss"].item() == pytest.approx(by_hand.item(), abs=1e-6)
    assert loss["loss"].item() == pytest.approx((loss["reconstruction_loss"] + loss["next_loss"]).item(), abs=1e-6)
