"""``neuropipe semantoks-probe``: a planted class through the published protocol, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
from judged_study import participants, write_study

from neuropipe.errors import InputError
from neuropipe.hub import export
from neuropipe.models.semantoks import Branch, Config
from neuropipe.paths import Study
from neuropipe.provenance import read_json
from neuropipe.shards.read import Shards
from neuropipe.stages import semantoks_probe

SMALL = {"n_samples": 60, "patch_size": 20, "embed_dim": 8, "depth": 1, "num_heads": 2, "spatial_unit": "brain"}
CONFIG = Config(**SMALL, branches=(Branch(kind="dense", out_channels=8),), mask_probability=0.0)


@pytest.fixture
def given(tmp_path):
    """A model with random weights, and shards of sixty people, one without a diagnosis."""
    people = participants(np.random.default_rng(0))
    people.loc[5, "diagnosis"] = np.nan
    write_study(tmp_path, people=people)
    shards = Study(tmp_path).shards("toy")
    regions = Shards(shards).regions
    model = export.build("semantoks", CONFIG, regions, seed=0)
    folder = tmp_path / "model"
    folder.mkdir()
    export.save(folder, family="semantoks", config=CONFIG, model=model, regions=regions, facts={})
    return {"model": folder, "shards": shards, "output": tmp_path / "probe.json", "clips": 2}


def test_every_repetition_is_written_and_means_are_printed(given):
    printed = semantoks_probe.run(**given, column="diagnosis", positive="patient", repetitions=2)
    made = read_json(given["output"])
    assert made["n_people"] == 59 and len(made["repetitions"]) == 2
    mean = np.mean([row["ensembled_balanced_accuracy"] for row in made["repetitions"]])
    (line,) = (text for text in printed.lines if text.startswith("ensembled_balanced_accuracy"))
    assert f"{mean:.3f}" in line
    numbers = semantoks_probe.run(**given, column="age", repetitions=1)
    assert any(text.startswith("ensembled_mae") for text in numbers.lines)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"column": "iq"}, "No participants column 'iq' in toy; found site, diagnosis"),
        ({"column": "diagnosis", "positive": "depressed"}, "one of them 'depressed'; found 1"),
        ({"column": "sex"}, "needs two different values to tell apart; found 0"),
    ],
)
def test_columns_that_say_nothing_are_refused(given, asked, message):
    with pytest.raises(InputError, match=message):
        semantoks_probe.run(**given, **asked)
