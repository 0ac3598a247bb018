"""A model as a plugin of Brainmarks: found in the suite's namespace, fed as the suite feeds, equal to our embedding."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import default_collate

from neuropipe.config import Clean
from neuropipe.data.batch import Batch
from neuropipe.data.clips import clip_starts, zscore
from neuropipe.errors import CheckpointError
from neuropipe.hub import brainmarks, export
from neuropipe.models import load
from neuropipe.signals.clean import clean
from neuropipe.signals.regions import COLUMNS, Regions
from neuropipe.stages import export as stage

CLEAN = Clean(strategy="24P", high_pass=0.01, low_pass=0.1, t_r=2.0)
SIZES = {
    "csm": {"n_samples": 20, "min_samples": 10, "embed_dim": 8, "depth": 1, "num_heads": 2},
    "semantoks": {
        "n_samples": 20, "patch_size": 10, "embed_dim": 8, "depth": 1, "num_heads": 2, "head_hidden_dim": 8,
        "head_dim": 4, "branches": [{"kind": "dense", "out_channels": 8, "kernel_size": 3}],
    },
}  # fmt: skip
# What a plugin needs of the suite: the named tuple of embeddings, and the registry.
SUITE = {
    "base.py": "from collections import namedtuple\n"
    "Embeddings = namedtuple('Embeddings', 'cls_embeds reg_embeds patch_embeds')\n",
    "registry.py": "known = {}\ndef register_model(name):\n    return lambda build: known.setdefault(name, build)\n",
}


def table(*parts: tuple[str, int]) -> Regions:
    """Return the region table of atlases with so many regions each; Schaefer's have a network of seven."""
    rows = [
        {"atlas": atlas, "label": label, "name": f"{atlas}-{label}", "network": f"{atlas[:4]}{label % 7}"}
        for atlas, n in parts
        for label in range(1, n + 1)
    ]
    return Regions(pd.DataFrame(rows).rename_axis("index").reset_index().reindex(columns=COLUMNS))


REGIONS = table(("schaefer400-7n", 400), ("tian-s3", 50), ("buckner7", 7))


def finished(folder, family: str, regions: Regions = REGIONS):
    """Write a small untrained model as `neuropipe pretrain` does, and return its folder."""
    config = load(family).Config.model_validate(SIZES[family])
    facts = {"t_r": 2.0, "clean": CLEAN.model_dump(mode="json"), "recipe": {"n_clips": 4}}
    model = export.build(family, config, regions, 0)
    export.save(folder, family=family, config=config, model=model, regions=regions, facts=facts)
    return folder


def recording(n: int, seed: int = 0) -> dict:
    """Return a recording as the suite hands it over: z-scored, one region without data."""
    bold = torch.randn(n, 457, generator=torch.Generator().manual_seed(seed)).cumsum(0)
    bold = (bold - bold.mean(0)) / bold.std(0)
    bold[:, 7] = 0
    return {"bold": bold, "mean": torch.zeros(1, 457), "std": torch.ones(1, 457), "tr": 1.0}


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Put a suite on the path whose models are a namespace package, and take it off again."""
    for name, text in SUITE.items():
        path = tmp_path / "suite" / "brainmarks" / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "suite"))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "brainmarks"]:
        del sys.modules[name]


@pytest.mark.parametrize("family", SIZES)
def test_the_suite_finds_a_plugin_that_embeds_as_we_do(tmp_path, monkeypatch, suite, family):
    source = finished(tmp_path / "model", family)
    stage.run(brainmarks=source, output=tmp_path / f"My {family}")
    monkeypatch.syspath_prepend(str(tmp_path / f"My {family}" / "src"))
    importlib.import_module(f"brainmarks.models.my_{family}")
    transform, model = importlib.import_module("brainmarks.models.registry").known[f"my_{family}"]()
    assert model.__space__ == "schaefer400_tians3_buckner7"
    assert not any(p.requires_grad for p in model.parameters()) and not model.training

    given = [recording(200), recording(16, seed=1)]
    found = model(default_collate([transform(dict(one)) for one in given]))
    assert found.cls_embeds.shape[:2] == (2, 1) and torch.isfinite(found.cls_embeds).all()
    assert (found.patch_embeds is not None) == (family == "semantoks")

    bold = given[0]["bold"].double().numpy()
    cleaned = clean(bold, 1.0, np.empty((200, 0)), np.zeros(200, bool), CLEAN).series
    assert np.flatnonzero(np.isnan(cleaned).any(axis=0)).tolist() == [7]
    series = zscore(np.nan_to_num(cleaned))
    assert len(series) == 100
    clips = np.stack([series[start : start + 20] for start in clip_starts(100, 20, 4, "regular")])
    batch = Batch.of_series(torch.from_numpy(clips.astype(np.float32)), t_r=2.0)
    batch.valid_region[:, 7] = False
    ours = export.load(source).model.embed(batch).mean(0)
    torch.testing.assert_close(found.cls_embeds[0, 0], ours, rtol=1e-5, atol=1e-6)


def test_a_clip_too_short_for_the_pass_band_is_only_resampled():
    transform = brainmarks.Transform(
        {"t_r": 2.0, "clean": CLEAN.model_dump(mode="json"), "recipe": {"n_clips": None}}, n_samples=20
    )
    found = transform(recording(16))
    assert transform.n_clips == brainmarks.N_CLIPS and found["series"].shape == (8, 20, 457)
    assert found["valid_time"].sum(1).tolist() == [8] * 8  # 15 s at 2 s
    assert not found["valid_region"][7] and found["valid_region"].sum() == 456


@pytest.mark.parametrize(
    "regions",
    [
        Regions.plain("toy", 5),
        table(("tian-s3", 50), ("schaefer400-7n", 400), ("buckner7", 7)),
        table(("schaefer400-7n", 400)),  # the suite's Schaefer regions alone are in the order of 17 networks
    ],
)
def test_regions_that_the_suite_does_not_have_are_refused(tmp_path, regions):
    source = finished(tmp_path / "model", "csm", regions)
    with pytest.raises(CheckpointError, match=r"Brainmarks has no series of .*; it reads .*457"):
        stage.run(brainmarks=source, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_know_how_its_data_were_prepared_is_refused(tmp_path):
    """As of weights that were taken over: the plugin could not prepare the suite's recordings alike."""
    source = finished(tmp_path / "model", "csm")
    about = json.loads((source / "config.json").read_text())
    del about["t_r"], about["clean"]
    (source / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"how its training data were prepared \(clean, t_r\)"):
        stage.run(brainmarks=source, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_order_of_labels_counts(tmp_path):
    turned = Regions(pd.concat([REGIONS.table[399::-1], REGIONS.table[400:]], ignore_index=True))
    with pytest.raises(CheckpointError, match="in the order of their labels"):
        brainmarks.space_of(turned)
