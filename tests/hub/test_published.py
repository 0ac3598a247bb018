"""The door for released checkpoints: strict, explained, and nothing but tensors is unpickled."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from neuropipe.data.batch import Batch
from neuropipe.errors import CheckpointError, ConfigError
from neuropipe.hub import published
from neuropipe.hub.layouts import semantoks as layout
from neuropipe.models.semantoks import Branch, Config, Model
from neuropipe.signals.atlases import regions_of_series
from neuropipe.signals.regions import Regions

FIELDS = {
    "n_samples": 30,
    "patch_size": 10,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "branches": (Branch(kind="dense", out_channels=4), Branch(kind="sgconv", out_channels=4, kernel_size=2)),
    "head_hidden_dim": 8,
    "head_dim": 4,
}
CONFIG = Config(**{**dict(Config.published()), **FIELDS})
FIRST_KERNEL = "encoder.network_tokenizers.cortex.0.branches.1.slconv.kernel_list.0"


def regions() -> Regions:
    tables = [Regions.plain("cortex", 6).with_networks(np.array([0, 0, 1, 1, 1, 1])), Regions.plain("deep", 3)]
    table = tables[0].table
    rows = tables[1].table.assign(index=[6, 7, 8])
    return Regions(table.reindex(range(9)).combine_first(rows.set_index("index", drop=False)).astype(rows.dtypes))


def original() -> Model:
    torch.manual_seed(0)
    model = Model(CONFIG, regions())
    with torch.no_grad():  # kernels were trained away from their frozen norm; the teacher is another network
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def released(model: Model) -> dict[str, Tensor]:
    """Return a state dict as the release writes it, dead weights included."""
    own = model.state_dict()
    state = {}
    for entry in layout.entries(model, ["cortex", "deep"]):
        dead = entry.use == "dead"
        value = entry.fact if entry.use == "fact" else own[entry.name]
        state[entry.key] = torch.full_like(value, 99) if dead else value.clone()
    return state


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return released(original())


def load(source) -> Model:
    return published.published("semantoks", source, regions(), CONFIG)


def batch() -> Batch:
    return Batch.of_series(torch.randn(3, 30, 9, generator=torch.Generator().manual_seed(1)))


def test_keys_are_those_of_the_release(weights: dict[str, Tensor]) -> None:
    """Names that the specification gives, dead sets of later atlases and shared heads among them."""
    for key in (
        f"student_{FIRST_KERNEL}",
        "student_encoder.network_tokenizers.deep.2.branches.0.weight",
        "teacher_encoder.network_tokenizers.cortex.1.branches.1.slconv.kernel_norm_initialized",
        "teacher_encoder.inter_network_transformer.temporal_pos_embedding",
        "teacher_encoder.inter_network_transformer.transformer_blocks.0.mlp.3.weight",
        "student_encoder.inter_network_transformer.norm.bias",
        "student_mask_predictor.mlp.2.bias",
    ):
        assert key in weights


@pytest.mark.parametrize("form", ["mapping", "pth", "wrapped", "parallel", "safetensors"])
def test_every_form_gives_the_same_model(form: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    if form == "mapping":
        source = weights
    elif form == "safetensors":
        source = tmp_path / "checkpoint.safetensors"
        save_file(weights, source)
    else:
        source = path
        state = {f"module.{key}": value for key, value in weights.items()} if form == "parallel" else weights
        nested = {"epoch": 99, "model_state_dict": state, "config": {"a": [1, "b"]}, "loss": 0.5}
        torch.save(state if form == "pth" else nested, path)
    model = load(source)
    expected = original()
    assert torch.equal(model.embed(batch()), expected.embed(batch()))  # the teacher's
    assert torch.equal(model.student.encoder(batch().series), expected.student.encoder(batch().series))
    assert not torch.equal(model.student.encoder(batch().series), model.teacher.encoder(batch().series))
    assert not model.training


def test_dead_weights_are_dropped_with_a_count(weights: dict[str, Tensor], caplog: pytest.LogCaptureFixture) -> None:
    dead = [key for key in weights if ".deep." in key or ".inter_network_transformer.norm." in key]
    dead = [key for key in dead if "initialized" not in key]
    with caplog.at_level(logging.INFO, "neuropipe"):
        load(weights)
    assert f"Dropped {len(dead)} tensors ({sum(weights[key].numel() for key in dead)} numbers)" in caplog.text
    for key in dead:
        del weights[key]
    assert torch.equal(load(weights).embed(batch()), original().embed(batch()))


def test_unknown_key_is_refused_by_name(weights: dict[str, Tensor]) -> None:
    weights["student_encoder.surprise"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"1 unknown key.*student_encoder\.surprise"):
        load(weights)


def test_missing_key_is_refused_by_name(weights: dict[str, Tensor]) -> None:
    del weights["teacher_encoder.norm.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 1 key.*teacher_encoder\.norm\.weight"):
        load(weights)


def test_another_grouping_of_regions_is_refused(weights: dict[str, Tensor]) -> None:
    other = Regions(regions().table.assign(network=["a", "a", "a", "b", "b", "b", "", "", ""]))
    with pytest.raises(CheckpointError, match=r"network_tokenizers\.cortex\.0.*expected shape .*another grouping"):
        published.published("semantoks", weights, other, CONFIG)


def test_position_table_is_verified_not_trusted(weights: dict[str, Tensor]) -> None:
    weights["teacher_encoder.inter_network_transformer.temporal_pos_embedding"][1, 0] += 1e-3
    with pytest.raises(CheckpointError, match="position table"):
        load(weights)


def test_shared_head_must_be_shared(weights: dict[str, Tensor]) -> None:
    weights["student_mask_predictor.mlp.0.bias"] += 1
    with pytest.raises(CheckpointError, match=r"student_mask_predictor\.mlp\.0\.bias should equal"):
        load(weights)


def test_separate_mask_head_is_read() -> None:
    config = Config(**{**dict(CONFIG), "separate_mask_head": True})
    model = Model(config, regions())
    found = published.published("semantoks", released(model), regions(), config)
    assert torch.equal(found.student.mask_head.layers[0].weight, model.student.mask_head.layers[0].weight)


def test_kernel_norm_is_kept_where_its_flag_is_set_and_made_where_not(weights: dict[str, Tensor]) -> None:
    key = "student_encoder.network_tokenizers.cortex.0.branches.1.slconv.kernel_norm"
    weights[key] = torch.full_like(weights[key], 7.0)
    conv = load(weights).student.encoder.tokenizers[0].branches[1].conv
    assert (conv.kernel_norm == 7).all()
    weights[f"{key}_initialized"] = torch.tensor(False)
    model = load(weights)
    conv, other = (model.student.encoder.tokenizers[i].branches[1].conv for i in (0, 1))
    torch.testing.assert_close(conv.kernel().norm(dim=-1), torch.ones(conv.skip.shape))
    assert not torch.allclose(other.kernel().norm(dim=-1), torch.ones(other.skip.shape))


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_but_tensors_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model_state_dict": Evil()}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)
    path.write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(CheckpointError):
        load(path)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_and_absent_files_are_named(suffix: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"checkpoint{suffix}"
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        load(path)
    (save_file if suffix == ".safetensors" else torch.save)(weights, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{path.name} cannot be read"):
        load(path)


def test_a_state_dict_of_something_else_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no tensors"):
        load({"epoch": 3})
    with pytest.raises(ConfigError, match="No released checkpoint is known"):
        published.published("no_such_family", {})


def test_released_regions_are_the_papers() -> None:
    """Sizes of the nine networks from the specification; 457 regions."""
    found = layout.released_regions()
    assert len(found) == 457 and found.atlases == ["schaefer400-7n", "tian-s3", "buckner7"]
    ids = layout.networks_of(found, Config.published())
    assert np.bincount(ids).tolist() == [61, 77, 46, 47, 26, 52, 91, 50, 7]
    layout.check_order(found, Config.published())


@pytest.mark.realdata
def test_published_atlas_has_the_released_order(published_data: Path) -> None:
    """Schaefer's, Tian's and Buckner's own tables, merged as the models expect them."""
    table = published_data / "atlases" / "tpl-MNI152NLin6Asym_atlas-Schaefer400Tian3Buckner7_dseg.tsv"
    found = regions_of_series(None, str(table))
    layout.check_order(found, Config.published())
    assert found.order_hash == layout.released_regions().order_hash


@pytest.mark.parametrize("order", ["17 networks", "hemispheres swapped", "atlases swapped"])
def test_another_region_order_is_refused(order: str) -> None:
    table = layout.released_regions().table
    if order == "17 networks":
        names = [f"net-{i % 17}" for i in range(400)] + [""] * 57
        other = table.assign(network=names)
    elif order == "hemispheres swapped":
        rows = np.r_[200:400, 0:200, 400:457]
        other = table.iloc[rows].assign(index=range(457))
    else:
        other = table.iloc[np.r_[400:450, 0:400, 450:457]].assign(index=range(457))
    with pytest.raises(CheckpointError, match="7-network order"):
        published.published("semantoks", {}, Regions(other))


def test_the_order_that_was_found_is_named() -> None:
    """Told by the atlas's id, or by the names of the regions."""
    released = layout.released_regions().table
    cortex = released["atlas"] == "schaefer400-7n"
    by_id = released.assign(network=[f"net-{i % 17}" for i in range(457)]).replace("schaefer400-7n", "schaefer400-17n")
    by_name = by_id.assign(atlas=released["atlas"], name=released["name"].mask(cortex, "17Networks_LH_VisCent_ExStr_1"))
    for other in (by_id, by_name):
        with pytest.raises(
            CheckpointError, match=r"need Schaefer's .* 7-network order .*found .* in the 17-network order"
        ):
            layout.check_order(Regions(other), Config.published())


def test_builds_of_another_space_have_the_released_names() -> None:
    """The regions are the same in the same order, wherever the template lies."""
    released = layout.released_regions()
    other = released.table.assign(atlas=released.table["atlas"].replace({"tian-s3": "tian-s3-2009c"}))
    assert layout.slots(Regions(other)) == layout.slots(released) != released.atlases
