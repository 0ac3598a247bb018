"""The autoencoder: what its decoder may see, how its layers hand over their states, and what the release does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from neuropipe.data.batch import Batch
from neuropipe.errors import CheckpointError
from neuropipe.hub import export
from neuropipe.hub.layouts import autoencoder as layout
from neuropipe.hub.published import published
from neuropipe.models.autoencoder import Config, Model, together
from neuropipe.models.embedder import whole
from neuropipe.signals.regions import Regions

SMALL = {"n_samples": 8, "min_samples": 4, "embed_dim": 6, "drop_rate": 0.0}
REGIONS = Regions.plain("a", 5)


def model(**changes) -> Model:
    torch.manual_seed(0)
    return Model(Config(**SMALL | changes), REGIONS)


def batch(seed: int = 1) -> Batch:
    return Batch.of_series(torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("shows", "first_change"), [("past", 5), ("same", 4)])
def test_what_a_forced_decoder_sees_when(shows, first_change):
    """A change of sample 4 that the encoder does not notice shows one sample later; in the release at once."""
    net = model(teacher_shows=shows)
    tokens = torch.randn(2, 8, 6)
    last, pooled, other = torch.randn(2, 6), torch.randn(2, 6), tokens.clone()
    other[:, 4] += 1
    forced = torch.tensor(True)
    a, b = (net.decoder(last, pooled, 8, net.shown(one, pooled), forced) for one in (tokens, other))
    assert next(i for i in range(8) if not torch.equal(a[:, i], b[:, i])) == first_change
    free = [net.decoder(last, pooled, 8, net.shown(one, pooled), ~forced) for one in (tokens, other)]
    assert torch.equal(free[0], free[1]) and torch.equal(free[0], net.decoder(last, pooled, 8))


def test_a_decoder_of_one_layer_under_forcing_is_an_lstm():
    net = model(depth=1)
    cell, tokens = net.decoder.cells[0], torch.randn(2, 8, 6)
    lstm = torch.nn.LSTM(6, 6, batch_first=True)
    lstm.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    last, pooled = torch.randn(2, 6), torch.randn(2, 6)
    shown = net.shown(tokens, pooled)
    expected, _ = lstm(shown, (last[None], torch.zeros(1, 2, 6)))
    torch.testing.assert_close(net.decoder(last, pooled, 8, shown, torch.tensor(True)), net.decoder.out(expected))


def test_an_encoder_of_one_layer_averages_the_directions_of_an_lstm():
    net, x = model(depth=1), torch.randn(2, 8, 6)
    _, (hidden, _) = net.encoder.lstms[0](x)
    torch.testing.assert_close(net.encoder(x)[0], hidden.mean(0))
    short = net.encoder(torch.cat([x, torch.full((2, 3, 6), 7.0)], 1), torch.tensor([8, 8]))
    torch.testing.assert_close(short[0], hidden.mean(0))


def test_a_gap_is_closed_and_its_time_kept():
    valid = torch.ones(3, 8, dtype=torch.bool)
    valid[1, [0, 3]] = False
    clips = replace(batch(), valid_time=valid)
    found = together(whole(clips))
    assert found.attend.sum(1).tolist() == [8, 6, 8] and found.time_s[1, :6].tolist() == [2, 4, 8, 10, 12, 14]
    assert torch.equal(found.series[1, :6], clips.series[1, [1, 2, 4, 5, 6, 7]])


def test_the_release_reads_padding():
    short = torch.tensor([[True] * 5 + [False] * 3] * 3)
    for padding, same in (("skipped", True), ("read", False)):
        net, clips = model(padding=padding), replace(batch(), valid_time=short)
        cut = replace(clips, series=clips.series[:, :5], valid_time=short[:, :5])
        assert torch.allclose(net.embed(clips), net.embed(cut), atol=1e-6) == same


def test_released_storages_are_not_kept_and_a_damaged_file_is_refused(tmp_path):
    net = model(time_embedding="table", time_span_s=20, padding="read")
    own = net.state_dict()
    tensors = {entry.key: own[entry.name].clone() for entry in layout.entries(net)}
    flat = torch.cat([value.flatten() for value in tensors.values()])
    shared, begin = {}, 0
    for key, value in tensors.items():
        part = flat[begin : begin + value.numel()].view(value.shape)
        shared[key] = value if ".lstms." in key else part
        begin += value.numel()
    torch.save(shared, tmp_path / "pytorch_model.bin")
    loaded = published("autoencoder", tmp_path / "pytorch_model.bin", REGIONS, net.config)
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    export.save(tmp_path / "out", family="autoencoder", config=net.config, model=loaded, regions=REGIONS, facts={})
    assert sum(value.nbytes for value in load_file(tmp_path / "out" / "model.safetensors").values()) == 4 * len(flat)
    shared["decoder.encoder.lstms.0.weight_ih_l0"] += 1
    torch.save(shared, tmp_path / "damaged.bin")
    with pytest.raises(CheckpointError, match="holds its weights twice, and the two differ"):
        published("autoencoder", tmp_path / "damaged.bin", REGIONS, net.config)


def test_a_head_is_set_aside_or_used():
    config = Config.published().model_copy(update=SMALL | {"time_span_s": 20.0})
    network = Model(config, REGIONS).classifier(3)
    own = network.state_dict()
    weights = {entry.key: own[entry.name] for entry in layout.entries(network)}
    loaded = layout.read(weights, REGIONS, config)
    assert {fate.became for fate in loaded.load_report if "decoding_head" in fate.key} == {"set aside"}
    torch.testing.assert_close(layout.decoder(weights, REGIONS, config)(batch()), network(batch()))
