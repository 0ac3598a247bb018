"""Names of checkpoints on the Hugging Face hub, resolved in a local cache without a network."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neuropipe.errors import CheckpointError
from neuropipe.hub import names
from neuropipe.hub.layouts import yaware as layout
from neuropipe.hub.published import published
from neuropipe.models.yaware import Config, Model

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = Config(growth_rate=4, block_config=(2, 1), n_init_features=8, bn_size=2, head_hidden_dim=16, head_dim=8)


@pytest.fixture
def cached(tmp_path, monkeypatch) -> Path:
    """The folder of the one snapshot of ``someone/weights`` in a cache of the hub, which cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--weights"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    return repository / "snapshots" / COMMIT


def test_a_cached_checkpoint_loads_by_its_name(cached):
    model = Model(CONFIG)
    own = model.state_dict()
    weights = {e.key: torch.rand(own[e.name].shape) for e in layout.entries(model) if not e.name.endswith("tracked")}
    save_file(weights, cached / "model.safetensors")
    found = published("yaware", "hf:someone/weights", config=CONFIG)
    assert torch.equal(found.state_dict()["backbone.conv0.weight"], weights["features.conv0.weight"])
    assert names.locate(f"hf:someone/weights@{COMMIT}:model.safetensors") == cached / "model.safetensors"


def test_the_only_weights_are_found_and_safetensors_preferred(cached):
    for name in ("README.md", "epoch_30.pth"):
        (cached / name).write_bytes(b"x")
    assert names.locate("hf:someone/weights") == cached / "epoch_30.pth"
    (cached / "model.safetensors").write_bytes(b"x")
    assert names.locate("hf:someone/weights@main") == cached / "model.safetensors"
    (cached / "other.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"2 files of weights: model.safetensors, other.safetensors; name one as"):
        names.locate("hf:someone/weights")
    (cached / "sub").mkdir()
    (cached / "sub" / "best.pt").write_bytes(b"x")
    assert names.locate("hf:someone/weights:sub/best.pt") == cached / "sub" / "best.pt"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:someone/weights:lost.pth", "neither in the cache of the Hugging Face hub nor can it be fetched"),
        ("hf:someone/else", "hf:someone/else is neither in the cache"),
        ("hf:someone/weights@v2", "neither in the cache"),
        ("hf:someone/weights", "no file of weights.*found nothing"),
        ("hf:weights", r"Expected hf:owner/name\[@revision\]\[:file\], found 'hf:weights'"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(cached, name, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        names.locate(name)
    assert "\n" not in str(caught.value)


def test_without_the_client_the_remedy_is_named(monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest):
        if name == "huggingface_hub":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CheckpointError, match=r"pip install 'neuropipe\[hub\]'"):
        names.locate("hf:someone/weights")


def test_a_path_stays_a_path():
    assert names.locate("models/best.pt") == Path("models/best.pt")
