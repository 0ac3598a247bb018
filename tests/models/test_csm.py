"""CSM against closed forms; `tests/parity` has the golden vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuropipe.data.batch import Batch
from neuropipe.errors import ConfigError
from neuropipe.models import csm, embedder
from neuropipe.models.csm import Config, Model
from neuropipe.models.layers import Attention, sincos_table
from neuropipe.signals.regions import Regions

SMALL = {"n_samples": 20, "min_samples": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def model(**fields) -> Model:
    torch.manual_seed(0)
    return Model(Config(**{**SMALL, **fields}), Regions.plain("a", 6))


def clips(n: int = 4, n_samples: int = 20, t_r: float = 2.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch.of_series(torch.randn(n, n_samples, 6, generator=generator), t_r)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_sample_is_predicted_from_those_before_it() -> None:
    one, batch = model(), clips()
    sequence = csm.every_sample(embedder.whole(batch))
    before = one.predict(sequence).predicted
    changed = batch.series.clone()
    changed[:, 10] += 1
    after = one.predict(sequence._replace(tokens=changed)).predicted
    moved = (after - before).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [False] * 11 + [True] * 9  # the sample itself is read from the place before it
    assert sequence.counted.all((0, 2)).tolist() == [False] + [True] * 19


def test_loss_is_the_mean_absolute_error_and_ignores_what_was_not_measured() -> None:
    one = model(drop_rate=0.0, min_samples=20)
    batch = clips()
    valid = batch.valid_time.clone()
    valid[0, 5], valid[1, 12:] = False, False
    series = batch.series.clone()
    series[~valid] = torch.nan
    loss = one.loss(replace(batch, series=series, valid_time=valid), seeded(), 0.0)
    hidden = one.encode(csm.every_sample(embedder.whole(replace(batch, valid_time=valid))))
    predicted = one.unembedder(hidden)
    pairs = [(i, t) for i in range(4) for t in range(19) if valid[i, t] and valid[i, t + 1]]
    by_hand = np.mean([(predicted[i, t] - batch.series[i, t + 1]).abs().mean().item() for i, t in pairs])
    zero = np.mean([batch.series[i, t + 1].abs().mean().item() for i, t in pairs])
    assert loss["loss"].item() == pytest.approx(by_hand, abs=1e-6)
    assert loss["zero_error"].item() == pytest.approx(zero, abs=1e-6)


def test_hidden_sample_is_never_the_first_and_all_others_are_as_likely() -> None:
    attend = torch.zeros(3000, 9, dtype=torch.bool)
    attend[:, [1, 3, 4, 7]] = True
    counts = torch.bincount(csm.draw_sample(attend, seeded()), minlength=9)
    assert counts.nonzero().flatten().tolist() == [3, 4, 7]
    assert (counts[[3, 4, 7]] - 1000).abs().max() < 110  # four standard deviations
    lonely = torch.tensor([[False, True, False]])
    window = embedder.Window(torch.ones(1, 3, 2), lonely, torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool))
    assert not csm.one_sample(window, csm.draw_sample(lonely, seeded()), torch.zeros(1, 1, 2)).counted.any()


def test_windows_have_all_lengths_and_the_release_leaves_the_longest_out() -> None:
    for draw_longest, longest in ((True, 12), (False, 11)):
        config = Config(**{**SMALL, "n_samples": 12, "draw_longest": draw_longest})
        lengths = embedder.draw_lengths(config, 2000, seeded())
        assert lengths.unique().tolist() == list(range(8, longest + 1))
    window = embedder.draw_windows(clips(200), Config(**SMALL), seeded())
    n_kept = window.attend.sum(1)
    assert (window.series[torch.arange(200), n_kept - 1] != 0).all()
    assert (window.series * ~window.attend[:, :, None] == 0).all()


def test_time_is_in_seconds_at_any_repetition_time_and_length() -> None:
    one = model()
    waves = one.embedder.time(torch.tensor([[0.0, 1.4, 400.0, embedder.NO_TIME]]))[0]
    torch.testing.assert_close(waves[:3], sincos_table(2001, 16)[[0, 7, 2000]], atol=2e-4, rtol=0)
    assert (waves[3] == 0).all()
    same_times = one.embedder.time(embedder.seconds(torch.tensor([1.0]), 9))[:, ::2]
    torch.testing.assert_close(same_times, one.embedder.time(embedder.seconds(torch.tensor([2.0]), 5)))
    assert (one.embed(clips(t_r=0.72)) - one.embed(clips())).abs().max() > 1e-3
    assert torch.isfinite(one.embed(clips(n_samples=300))).all()


def test_times_and_places_beyond_the_tables_are_refused() -> None:
    one = model(time_embedding="table", time_span_s=30.0, n_positions=25)
    with pytest.raises(ConfigError, match=r"below 30 s, found 38 s.*time_embedding: continuous"):
        one.embed(clips())
    with pytest.raises(ConfigError, match=r"at most n_positions = 25 tokens, found 30"):
        one.embed(clips(n_samples=30, t_r=0.5))


def test_special_tokens_have_the_last_row_of_the_table() -> None:
    times = torch.tensor([embedder.NO_TIME, 0.0, 0.3, 0.72, 29.95])
    assert embedder.time_rows(times, 0.2, 30.0).tolist() == [150, 0, 2, 4, 150]  # ties go to the even row


def test_attention_with_seeded_dropout_is_attention() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 4, qkv_bias=True, drop_rate=1e-12)
    x, attend = torch.randn(2, 7, 16), torch.ones(2, 7, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(attention(x, attend, seeded()), attention(x, attend), rtol=1e-4, atol=1e-6)
    attention.drop_rate = 0.5
    assert torch.equal(attention(x, attend, seeded(1)), attention(x, attend, seeded(1)))
    assert not torch.equal(attention(x, attend, seeded(1)), attention(x, attend, seeded(2)))


def test_network_for_a_task_trains_what_its_features_read() -> None:
    for fields in ({}, {"objective": "single", "feature": "cls"}):
        one = model(**fields)
        before = {name: p.requires_grad for name, p in one.named_parameters()}
        network = one.classifier(3)
        network(clips(), seeded()).square().sum().backward()
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        assert trained == {name for name, p in network.named_parameters() if p.grad is not None}
        grouped = {id(p) for group in network.param_groups(0.1, 0.5) for p in group["params"]}
        assert grouped == {id(p) for p in network.parameters() if p.requires_grad}
        assert sorted(one.parts()) == ["decoder", "embedder"] + ["pooler"] * ("feature" in fields)
        assert before.get("pooler.fc.weight", False) is False  # nothing in pretraining depends on it
