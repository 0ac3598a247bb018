"""Released checkpoints of learning-from-brains' transformers load whole, and every other file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neuropipe import models, recipes
from neuropipe.data.batch import Batch
from neuropipe.errors import CheckpointError
from neuropipe.hub.layouts import learning_from_brains as layout
from neuropipe.hub.layouts import sequence_bert as sequence_layout
from neuropipe.hub.published import embedder, published
from neuropipe.models import csm
from neuropipe.models.embedder import whole
from neuropipe.signals.regions import Regions
from neuropipe.train import recipe

FAMILIES = ("csm", "sequence_bert", "network_bert")
SMALL = {"embed_dim": 8, "depth": 2, "num_heads": 2, "n_positions": 40, "time_span_s": 100.0}
REGIONS = Regions.plain("a", 5)


def config(family: str, **fields):
    kind = models.load(family).Config
    return kind.model_validate(kind.published().model_dump() | SMALL | fields)


def original(family: str) -> nn.Module:
    torch.manual_seed(1)
    return models.load(family).Model(config(family), REGIONS)


def released(module: nn.Module) -> dict[str, Tensor]:
    """Return a state dict as the release writes it, with its constants and the words that nothing uses."""
    own = module.state_dict()
    return {
        entry.key: (entry.place(own[entry.name]) if entry.fact is None else torch.ones_like(entry.fact, device="cpu"))
        for entry in layout.entries(module)
    }


def clips() -> Batch:
    return Batch.of_series(torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_gives_the_model_that_was_saved(family: str, tmp_path: Path) -> None:
    one = original(family)
    torch.save(released(one), tmp_path / "pytorch_model.bin")
    again = published(family, tmp_path / "pytorch_model.bin", REGIONS, config(family))
    torch.testing.assert_close(again.embed(clips()), one.embed(clips()))
    assert embedder(family, tmp_path / "pytorch_model.bin", REGIONS, config(family))[1] is REGIONS


def test_queries_keys_and_values_and_transposed_layers_stand_where_the_release_has_them() -> None:
    weights = released(original("sequence_bert"))
    again = published("sequence_bert", weights, REGIONS, config("sequence_bert"))
    attention = "decoder.transformer.encoder.layer.1.attention.self."
    parts = [weights[f"{attention}{part}.weight"] for part in ("query", "key", "value")]
    assert torch.equal(again.decoder.blocks[1].attn.qkv.weight, torch.cat(parts))
    weights = released(original("csm"))
    again = published("csm", weights, REGIONS, config("csm"))
    assert torch.equal(again.decoder.blocks[0].fc1.weight, weights["decoder.transformer.h.0.mlp.c_fc.weight"].t())


def test_csm_without_a_pooler_loads_and_can_be_embedded_without_its_untrained_class_token() -> None:
    one = original("csm")
    weights = {key: value for key, value in released(one).items() if "pooler" not in key}
    mean = published("csm", weights, REGIONS, config("csm", feature="mean"))
    hidden = one.encode(csm.every_sample(whole(clips())))
    torch.testing.assert_close(mean.embed(clips()), hidden.mean(1))
    fates = {fate.key: fate.became for fate in mean.load_report}
    assert fates["embedder.cls_embed"] == fates["decoder.transformer.wte.weight"] == "dropped"
    with_pooler = published("csm", weights, REGIONS, config("csm"))
    assert {f.key for f in with_pooler.load_report if f.became == "absent"} == {
        "decoder.pooler_layer.0.weight",
        "decoder.pooler_layer.0.bias",
    }


def test_decoding_head_is_kept_or_set_aside() -> None:
    torch.manual_seed(1)
    network = original("sequence_bert").classifier(4)
    weights = released(network)
    decoder = sequence_layout.decoder(weights, REGIONS, config("sequence_bert"))
    torch.testing.assert_close(decoder(clips()), network(clips()))
    encoder = published("sequence_bert", weights, REGIONS, config("sequence_bert"))
    torch.testing.assert_close(encoder.embed(clips()), network.model.embed(clips()))
    assert {f.key for f in encoder.load_report if f.became == "set aside"} == {
        "decoder.decoding_head.0.weight",
        "decoder.decoding_head.0.bias",
    }
    with pytest.raises(CheckpointError, match=r"lacks decoder\.decoding_head\.0\.weight"):
        sequence_layout.decoder(released(network.model), REGIONS, config("sequence_bert"))


def test_what_does_not_fit_is_named() -> None:
    weights = released(original("csm"))
    with pytest.raises(CheckpointError, match="unknown key"):
        published("sequence_bert", weights, REGIONS, config("sequence_bert"))
    with pytest.raises(CheckpointError, match=r"embedder\.msk_embed: expected shape \(1, 1, 6\), found \(1, 1, 5\)"):
        published("csm", weights, Regions.plain("a", 6), config("csm"))
    del weights["decoder.transformer.h.1.attn.c_attn.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 1 key.*h\.1\.attn\.c_attn\.weight"):
        published("csm", weights, REGIONS, config("csm"))


@pytest.mark.parametrize("family", FAMILIES)
def test_recipes_of_released_weights_are_the_published_settings(family: str) -> None:
    path = Path(recipes.__file__).parent / f"{family.replace('_', '-')}-released.yaml"
    settings = models.load(family).Config.published()
    if family == "csm":  # whose class token was never trained
        settings = settings.model_copy(update={"feature": "mean"})
    assert recipe.read(path).model_settings() == settings
