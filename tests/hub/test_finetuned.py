"""A network for a task on disk: what is read back says the same of everyone, in any number of threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import entropy

from neuropipe.data.batch import Batch
from neuropipe.errors import CheckpointError
from neuropipe.hub import familiarity, finetuned
from neuropipe.models import multiscale_vit, semantoks, yaware
from neuropipe.models.network import Reading, read
from neuropipe.signals.regions import Regions

CONFIGS = {
    "multiscale_vit": multiscale_vit.Config(
        img_size=(16, 16), patch_size=(4, 4), embed_dim=16, depth=4, num_heads=2, covariance_dim=4,
        covariance_features=8, decoder_dim=8, decoder_depth=1, decoder_num_heads=2,
    ),
    "yaware": yaware.Config(growth_rate=4, block_config=(1, 1), n_init_features=4, bn_size=2),
    "semantoks": semantoks.Config(
        spatial_unit="brain", n_samples=40, patch_size=10, embed_dim=16, depth=1, num_heads=2,
        branches=({"kind": "dense", "out_channels": 16},), mask_probability=0.0, head_hidden_dim=16, head_dim=8,
    ),
}  # fmt: skip


def person(family: str, seed: int, n_rows: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    if family == "multiscale_vit":
        return Batch.of_images(torch.randn(n_rows, 1, 16, 16, generator=generator))
    if family == "yaware":
        return Batch.of_volumes(torch.randn(n_rows, 1, 12, 13, 14, generator=generator))
    return Batch.of_series(torch.randn(n_rows, 40, 9, generator=generator))


def write(folder, family: str, kind: str = "binary"):
    regions = Regions.plain("toy", 9) if family == "semantoks" else None
    network = finetuned.build(family, CONFIGS[family], regions, drop_rate=0.3, seed=1).eval()
    features = np.stack([read(network, [person(family, k)], 0).features for k in range(12)])
    facts = {
        "content": {"multiscale_vit": "image", "yaware": "volume", "semantoks": "series"}[family],
        "task": {"name": "t", "target": "t", "kind": kind, "positive": None},
        "calibration": {"temperature": 0.5, "bias": 0.3} if kind == "binary" else None,
        "scaling": None if kind == "binary" else {"mean": 50.0, "sd": 10.0},
        "n_passes": 6,
        "n_clips": 3,
        "drop_rate": 0.3,
    }
    known = familiarity.fit(features[:8], features[8:])
    finetuned.save(
        folder, family=family, config=CONFIGS[family], network=network, familiarity=known, regions=regions, facts=facts
    )
    return finetuned.Finetuned(network, facts | {"family": family}, known)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_what_is_read_back_says_the_same(tmp_path, family, kind):
    before, after = write(tmp_path, family, kind), finetuned.load(tmp_path)
    assert after.spec == CONFIGS[family].reads().__class__(
        **(vars(CONFIGS[family].reads()) | {"n_views": 1, "n_copies": 1})
    )
    for seed in range(3):
        recordings = [person(family, seed), person(family, seed + 10)]
        np.testing.assert_equal(vars(after.predict(recordings)), vars(before.predict(recordings)))
    assert after.predict([person(family, 0)]).std > 0
    assert after.predict([person(family, 0)], seed=1).std != after.predict([person(family, 0)], seed=2).std


@pytest.mark.parametrize("family", CONFIGS)
def test_a_head_that_is_not_the_familys_own_is_read_back_too(tmp_path, family):
    regions = Regions.plain("toy", 9) if family == "semantoks" else None
    write(tmp_path, family)
    shape = {"hidden_dim": 5, "norm": "batch"}
    network = finetuned.build(family, CONFIGS[family], regions, drop_rate=0.3, **shape, seed=2).eval()
    features = np.stack([read(network, [person(family, k)], 0).features for k in range(12)])
    facts = finetuned.load(tmp_path).about | {"head": shape}
    del facts["family"], facts["model"]
    known = familiarity.fit(features[:8], features[8:])
    finetuned.save(
        tmp_path,
        family=family,
        config=CONFIGS[family],
        network=network,
        familiarity=known,
        regions=regions,
        facts=facts,
    )
    expected = read(network, [person(family, 50)], 0).value
    assert read(finetuned.load(tmp_path).network, [person(family, 50)], 0).value == expected != 0


@pytest.mark.parametrize("family", CONFIGS)
def test_eight_threads_say_what_one_says(tmp_path, family):
    write(tmp_path, family)
    saved = finetuned.load(tmp_path)
    people = [[person(family, seed)] for seed in range(8)] * 3
    alone = [saved.predict(recordings) for recordings in people]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(saved.predict, people))
    assert together == alone


def test_a_decision_is_calibrated_in_every_pass_and_its_uncertainty_is_scipys():
    known = familiarity.fit(np.random.default_rng(0).standard_normal((20, 2)), np.ones((5, 2)))
    passes = np.array([0.2, -1.0, 2.0, 0.7])
    reading = Reading(0.4, passes, np.array([30.0, 0.0]))
    found = finetuned.decide(reading, {"temperature": 2.0, "bias": 0.1}, None, known)
    p = expit(passes / 2 + 0.1)
    both = np.stack([p, 1 - p])
    assert found.logit == pytest.approx(0.3) and found.value == pytest.approx(expit(0.3))
    assert found.raw == pytest.approx(expit(0.4)) and found.std == pytest.approx(p.std())
    assert found.entropy == pytest.approx(entropy(both.mean(1)))
    assert found.mutual_information == pytest.approx(entropy(both.mean(1)) - entropy(both).mean())
    assert found.is_far
    number = finetuned.decide(reading, None, {"mean": 50.0, "sd": 10.0}, known)
    assert number.value == pytest.approx(54) and number.std == pytest.approx(10 * passes.std())
    assert np.isnan([number.logit, number.raw, number.entropy, number.mutual_information]).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_outputs_overflow_nowhere(sign):
    known = familiarity.fit(np.random.default_rng(0).standard_normal((20, 2)), np.ones((5, 2)))
    reading = Reading(1e5 * sign, np.full(3, 1e5 * sign), np.zeros(2))
    with np.errstate(all="raise"):
        found = finetuned.decide(reading, {"temperature": 1.0, "bias": 0.0}, None, known)
    assert found.value == (sign > 0) and found.entropy == 0 and found.mutual_information == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("config", "has no config.json: it is not a finished network"),
        ("pretrained", "lacks calibration, n_passes, scaling, task"),
        ("weights", "does not fit yaware"),
        ("familiarity", "familiarity.npz cannot be read"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path, damage, message):
    write(tmp_path, "yaware")
    if damage == "config":
        (tmp_path / "config.json").unlink()
    elif damage == "pretrained":
        (tmp_path / "config.json").write_text(json.dumps({"family": "yaware", "model": {}}))
    elif damage == "weights":
        (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:500])
    else:
        (tmp_path / "familiarity.npz").unlink()
    with pytest.raises(CheckpointError, match=message):
        finetuned.load(tmp_path)
