"""The linear baseline: linear, and able to find the weights of an autoregression."""

from __future__ import annotations

from dataclasses import replace

import torch

from neuropipe.data.batch import Batch
from neuropipe.hub.layouts import linear_baseline as layout
from neuropipe.models.linear_baseline import Config, Model
from neuropipe.signals.regions import Regions

REGIONS = Regions.plain("a", 4)


def model(**changes) -> Model:
    torch.manual_seed(0)
    return Model(Config(**{"n_samples": 6} | changes), REGIONS)


def test_an_embedding_is_the_weighted_sum():
    series = torch.randn(3, 6, 4)
    for align in ("end", "start"):
        net = model(align=align)
        expected = torch.einsum("t,btr->br", net.over_time.weight[0], series) + net.over_time.bias
        torch.testing.assert_close(net.embed(Batch.of_series(series)), expected)


def test_short_clips_share_their_end_or_as_released_their_start():
    series = torch.randn(2, 6, 4)
    short = replace(Batch.of_series(series), valid_time=torch.tensor([[True] * 4 + [False] * 2] * 2))
    for align, part in (("end", slice(2, 6)), ("start", slice(0, 4))):
        net = model(align=align)
        expected = torch.einsum("t,btr->br", net.over_time.weight[0, part], series[:, :4]) + net.over_time.bias
        torch.testing.assert_close(net.embed(short), expected)


def test_it_learns_an_autoregression():
    """x[t] = 0.9 x[t-2] + noise: all weight ends at a distance of two samples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 46, 4, generator=generator)
    for t in range(2, 46):
        x[:, t] = 0.9 * x[:, t - 2] + 0.3 * x[:, t]
    net, clips = model(), Batch.of_series(x[:, 40:])
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        net.loss(clips, generator, 0.0)["loss"].backward()
        optimizer.step()
    expected = torch.tensor([0, 0, 0, 0, 0.9, 0])
    torch.testing.assert_close(net.over_time.weight[0].detach(), expected, atol=0.08, rtol=0)


def test_the_classifier_is_linear_and_its_release_loads():
    network = model(align="start").classifier(3)
    a, b = (torch.randn(2, 6, 4) for _ in range(2))
    f = [network(Batch.of_series(x)) for x in (a, b, a + b, torch.zeros_like(a))]
    torch.testing.assert_close(f[0] + f[1], f[2] + f[3])
    own = network.state_dict()
    weights = {entry.key: own[entry.name] for entry in layout.entries(network, {})}
    weights |= {"unembedder.model.0.weight": torch.ones(4, 8)}
    torch.testing.assert_close(layout.read(weights, None, None)(Batch.of_series(a)), f[0])
