"""An exported model in transformers, in a process that cannot import this package, says what it says here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from neuropipe.data.batch import Batch
from neuropipe.errors import CheckpointError
from neuropipe.hub import export, familiarity, finetuned, huggingface
from neuropipe.hub.layouts import neuroclr as layout
from neuropipe.hub.published import published
from neuropipe.models.network import read
from neuropipe.models.neuroclr import Classifier, Config, Model
from neuropipe.signals.regions import Regions
from neuropipe.stages import import_weights

HEAD = {"base_filters": 8, "kernel_size": 5, "groups": 2, "n_block": 3, "downsample_gap": 2, "increasefilter_gap": 2}
CONFIG = Config.model_validate(
    Config.published().model_dump() | {"n_samples": 32, "head_hidden_dim": 12, "head_dim": 6, "head": HEAD}
)
REGIONS = Regions.plain("toy", 5)
GIVEN = {
    "one": torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(1)),
    "all": torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(2)),
    "labels": torch.tensor([0, 1, 1]),
}
SCRIPT = """
import sys, torch
from transformers import AutoModel, AutoModelForSequenceClassification

given = torch.load("given.pt", weights_only=True)
for folder in sys.argv[1:]:
    encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
    classifier = AutoModelForSequenceClassification.from_pretrained(
        folder, subfolder="classification", trust_remote_code=True
    )
    assert type(encoder).__name__ == "NeuroCLRModel" and not classifier.training
    trained = [name for name, p in classifier.named_parameters() if p.requires_grad]
    with torch.no_grad():
        one, all_ = encoder(given["one"]), classifier(given["all"], labels=given["labels"])
    assert torch.equal(one["h"], one[0]) and torch.equal(one.z, one[1])
    classifier.train()
    assert classifier.head.training and not classifier.encoder.training
    classifier(given["all"], labels=given["labels"]).loss.backward()
    assert all(p.grad is None for p in classifier.encoder.parameters())
    result = {"h": one.h, "z": one.z, "logits": all_.logits, "loss": all_.loss, "trained": trained}
    torch.save(result | {"names": list(classifier.config.id2label.values())}, folder + "/result.pt")
assert not any(name.partition(".")[0] == "neuropipe" for name in sys.modules)
"""


def make_model(seed: int = 0) -> Model:
    """Return a model whose batch norm has seen series."""
    torch.manual_seed(seed)
    model = Model(CONFIG, REGIONS)
    model.loss(Batch.of_series(torch.randn(6, 32, 5)), torch.Generator().manual_seed(0), 0.0)
    return model.eval()


def pretrained(folder: Path, **changes) -> Path:
    config = CONFIG.model_copy(update=changes)
    model = make_model() if not changes else Model(config, REGIONS)
    export.save(folder, family="neuroclr", config=config, model=model, regions=REGIONS, facts={})
    return folder


def tuned(folder: Path, kind: str, hidden_dim: int | None = None) -> finetuned.Finetuned:
    """Write and read a network for a task."""
    network = finetuned.build("neuroclr", CONFIG, REGIONS, hidden_dim=hidden_dim, seed=3).eval()
    people = [Batch.of_series(torch.randn(2, 32, 5)) for _ in range(6)]
    features = np.stack([read(network, [person], 0).features for person in people])
    facts = {
        "content": "series",
        "task": {"name": "t", "target": "diagnosis", "kind": kind, "positive": "patient"},
        "calibration": {"temperature": 0.5, "bias": 0.3} if kind == "binary" else None,
        "scaling": None if kind == "binary" else {"mean": 50.0, "sd": 10.0},
        "n_passes": 0,
        "drop_rate": None,
        "head": {"hidden_dim": hidden_dim, "norm": None},
    }
    known = familiarity.fit(features[:4], features[4:])
    finetuned.save(
        folder, family="neuroclr", config=CONFIG, network=network, familiarity=known, regions=REGIONS, facts=facts
    )
    return finetuned.load(folder)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, Path]:
    """Repositories of a pretrained model and of a fine-tuned network, each with what transformers makes of it.

    They are loaded in one fresh process, without a network and without this package.
    """
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    root = tmp_path_factory.mktemp("repositories")
    pretrained(root / "model")
    tuned(root / "network", "binary")
    repositories = {name: root / f"{name}-exported" for name in ("model", "network")}
    for name, repository in repositories.items():
        huggingface.write(root / name, repository)
    torch.save(GIVEN, root / "given.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, *map(str, repositories.values())]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return repositories


def result(repository: Path) -> dict:
    return torch.load(repository / "result.pt", weights_only=True)


def test_a_finetuned_network_says_the_same_in_transformers(loaded):
    found, saved = result(loaded["network"]), finetuned.load(loaded["network"].with_name("network"))
    with torch.no_grad():
        ours = saved.network.classifier.encoder(GIVEN["one"])
    torch.testing.assert_close(found["h"], ours.h, rtol=0, atol=2e-6)
    torch.testing.assert_close(found["z"], ours.z, rtol=0, atol=2e-6)
    people = [Batch.of_series(GIVEN["all"][i : i + 1].mT) for i in range(3)]
    expected = torch.tensor([saved.predict([person]).value for person in people])
    torch.testing.assert_close(found["logits"].softmax(1)[:, 1], expected, rtol=0, atol=2e-6)
    log_loss = -torch.stack([1 - expected, expected])[GIVEN["labels"], torch.arange(3)].log().mean()
    torch.testing.assert_close(found["loss"], log_loss, rtol=0, atol=1e-5)
    assert found["names"] == ["not patient", "patient"]
    assert found["trained"] and all(name.startswith("head.") for name in found["trained"])


def test_a_pretrained_model_gives_a_classifier_whose_head_is_still_to_be_trained(loaded):
    found, own = result(loaded["model"]), make_model().encoder
    with torch.no_grad():
        ours = own(GIVEN["one"])
    torch.testing.assert_close(found["h"], ours.h, rtol=0, atol=2e-6)
    torch.testing.assert_close(found["z"], ours.z, rtol=0, atol=2e-6)
    assert torch.isfinite(found["logits"]).all() and found["logits"].shape == (3, 2)
    held = load_file(loaded["model"] / "classification" / "model.safetensors")
    assert set(held) == {f"encoder.{name}" for name in own.state_dict()}
    assert "not trained" in (loaded["model"] / "README.md").read_text()


def test_the_layout_is_that_of_the_release_and_its_code_stands_alone(tmp_path):
    huggingface.write(pretrained(tmp_path / "model"), tmp_path / "repository")
    root = tmp_path / "repository"
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()) == [
        "README.md", "classification/config.json", "classification/model.safetensors", "config.json",
        "configuration_neuroclr.py", "model.safetensors", "modeling_neuroclr.py", "regions.tsv", "resnet1d.py",
    ]  # fmt: skip
    for path in root.glob("*.py"):
        assert "neuropipe" not in path.read_text()
    about = json.loads((root / "config.json").read_text())
    assert about["auto_map"]["AutoModel"] == "modeling_neuroclr.NeuroCLRModel"
    assert {"TSlength": 32, "nhead": 2, "nlayer": 2, "projector_out2": 6, "n_rois": 5}.items() <= about.items()
    assert "projector.1.running_var" in load_file(root / "model.safetensors")


def test_what_was_exported_is_read_back(tmp_path):
    model = make_model()
    huggingface.write(pretrained(tmp_path / "model"), tmp_path / "repository")
    back = published("neuroclr", tmp_path / "repository", REGIONS)
    assert isinstance(back, Model) and back.config.n_samples == 32
    state = back.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    saved = tuned(tmp_path / "network", "regression")
    huggingface.write(tmp_path / "network", tmp_path / "other")
    classifier = published("neuroclr", tmp_path / "other" / "classification")
    assert isinstance(classifier, Classifier) and classifier.config.head == CONFIG.head
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        value = saved.predict([Batch.of_series(x[:1].mT)]).value
        torch.testing.assert_close(classifier(x).logits[0].item(), value, rtol=1e-5, atol=1e-4)


def test_other_models_have_no_place_in_the_layout(tmp_path):
    native = Model(Config(embed_dim=8, n_samples=32), REGIONS)
    export.save(tmp_path / "native", family="neuroclr", config=native.config, model=native, regions=REGIONS, facts={})
    with pytest.raises(CheckpointError, match="variant native"):
        huggingface.write(tmp_path / "native", tmp_path / "repository")
    (tmp_path / "native" / "config.json").write_text(json.dumps({"family": "semantoks"}))
    with pytest.raises(CheckpointError, match="family semantoks"):
        huggingface.write(tmp_path / "native", tmp_path / "repository")
    tuned(tmp_path / "deep", "binary", hidden_dim=4)
    with pytest.raises(CheckpointError, match="last layers are not the released head's"):
        huggingface.write(tmp_path / "deep", tmp_path / "repository")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        huggingface.write(tmp_path / "nothing", tmp_path / "repository")


# ------------------------------------------------------------------ released checkpoints


@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder.", "net.backbone."])
def test_any_prefix_is_taken_off(prefix):
    own = make_model().encoder.state_dict()
    back = published("neuroclr", {prefix + name: value for name, value in own.items()}, REGIONS, CONFIG)
    assert all(torch.equal(value, own[name]) for name, value in back.encoder.state_dict().items())
    assert len(back.load_report) == len(own) and not any(fate.became == "absent" for fate in back.load_report)


def test_a_classifier_needs_no_projector_and_its_head_may_have_any_prefix():
    torch.manual_seed(1)
    module = Classifier(CONFIG, 5, 3)
    own = {
        f"encoder.{name}": value
        for name, value in module.encoder.state_dict().items()
        if not name.startswith("projector")
    } | {f"classifier.{name}": value for name, value in module.head.state_dict().items()}
    back = published("neuroclr", own, config=CONFIG)
    x = torch.randn(2, 5, 32)
    assert torch.equal(back(x).logits, module.eval()(x).logits)


def test_keys_that_do_not_fit_are_refused():
    own = dict(make_model().encoder.state_dict())
    with pytest.raises(CheckpointError, match=r"unknown key.*frequency_encoder"):
        published("neuroclr", own | {"frequency_encoder.weight": torch.zeros(1)}, REGIONS, CONFIG)
    with pytest.raises(CheckpointError, match=r"are the same part"):
        published("neuroclr", own | {"copy.projector.0.bias": own["projector.0.bias"]}, REGIONS, CONFIG)
    with pytest.raises(CheckpointError, match=r"expected shape \(96, 32\), found \(3, 3\)"):
        wrong = {"transformer_encoder.layers.0.self_attn.in_proj_weight": torch.zeros(3, 3)}
        published("neuroclr", own | wrong, REGIONS, CONFIG)
    del own["projector.3.bias"]
    with pytest.raises(CheckpointError, match=r"lacks 1 key\(s\): projector.3.bias"):
        published("neuroclr", own, REGIONS, CONFIG)


def test_the_settings_beside_a_checkpoint_are_read_and_checked(tmp_path):
    save_file(dict(make_model().encoder.state_dict()), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected shape"):  # of the published sizes
        published("neuroclr", tmp_path, REGIONS)
    released = layout.to_released(CONFIG) | {"model_type": "neuroclr"}
    assert layout.from_released(released) == CONFIG
    (tmp_path / "config.json").write_text(json.dumps(released))
    assert published("neuroclr", tmp_path, REGIONS).config == CONFIG
    (tmp_path / "config.json").write_text(json.dumps(released | {"pooling": "max"}))
    with pytest.raises(CheckpointError, match="pooling"):
        published("neuroclr", tmp_path, REGIONS)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="expected model_type neuroclr, found 'bert'"):
        published("neuroclr", tmp_path, REGIONS)


def test_a_name_of_the_hub_means_the_root_and_brings_its_settings(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--lab--neuroclr"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    huggingface.write(pretrained(tmp_path / "model"), repository / "snapshots" / commit)
    back = published("neuroclr", "hf:lab/neuroclr", REGIONS)
    assert back.config == CONFIG.model_copy(update={"augmentation": back.config.augmentation})


@pytest.mark.parametrize("part", [".", "classification"])
def test_import_takes_the_encoder_of_either_folder(tmp_path, part):
    tuned(tmp_path / "network", "binary")
    huggingface.write(tmp_path / "network", tmp_path / "repository")
    import_weights.take(str(tmp_path / "repository" / part), "neuroclr", tmp_path / "imported", regions=REGIONS)
    saved = export.load(tmp_path / "imported")
    own = finetuned.load(tmp_path / "network").network.classifier.encoder
    clips = Batch.of_series(GIVEN["all"].mT)
    with torch.no_grad():
        torch.testing.assert_close(saved.model.embed(clips), own.regions(GIVEN["all"]).mean(1))
    became = pd.read_csv(tmp_path / "imported" / "keys.tsv", sep="\t").set_index("key")["became"]
    released = load_file(tmp_path / "repository" / part / "model.safetensors")
    assert set(became.index) == set(released) and not (became == "absent").any()
    assert all((became[key] == "set aside") == key.startswith("head.") for key in released)
