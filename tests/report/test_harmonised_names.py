"""What went through ComBat stands beside itself, and is never taken for the reference or for another model."""

from __future__ import annotations

import pytest

from neuropipe.report.systems import label_of, role_of


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("recipe (ComBat)", "combined"),
        ("recipe + fc (ComBat)", "combined"),
        ("recipe (random weights) (ComBat)", "random"),
        ("fc (ComBat)", "variant"),
        ("voxels (ComBat)", "variant"),
        ("regions (ComBat)", "variant"),
    ],
)
def test_its_role(name, role):
    assert role_of(name) == role


def test_its_label():
    assert label_of("fc (ComBat)", "ridge", "", "binary") == "Functional connectivity, ComBat · ridge"
    random = label_of("recipe (random weights) (ComBat)", "baseline", "2", "binary")
    assert random == "recipe, random weights, ComBat · seed 2"
