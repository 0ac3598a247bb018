"""docs/models.md and docs/training.md say exactly what published settings change, and which parts families have."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from neuropipe import models
from neuropipe.signals.regions import Regions

TRAINING = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
DESCRIBED = re.findall(r"^\| \[`(\w+)`\]\(\.\./neuropipe/models/\1\.py\) \|", PAGE, flags=re.MULTILINE)


def corrected(name: str) -> set[str]:
    """Return the fields in the table of a family's section; a section may be of several families."""
    sections = re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    text = next(text for title, text in sections if name in title.split(", "))
    return set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))


def test_the_page_has_families_and_no_other():
    assert DESCRIBED and set(DESCRIBED) <= set(models.names())


@pytest.mark.parametrize("name", DESCRIBED)
def test_what_a_release_does_otherwise_is_told_of_every_family(name):
    family = models.load(name).Config
    ours, theirs = family().model_dump(), family.published().model_dump()
    assert corrected(name) == {field for field in ours if ours[field] != theirs[field]}


def test_the_parts_that_can_be_frozen_are_those_of_the_models():
    lines = re.findall(
        r"^\| (`[a-z_`, ]+) \| (`[^|;]+)[|;]", TRAINING.partition("| family | parts |")[2], flags=re.MULTILINE
    )
    told = {name: re.findall(r"`(\w+)`", parts) for names, parts in lines for name in re.findall(r"`(\w+)`", names)}
    regions = Regions.plain("demo", 64).with_networks(np.arange(64) % 7)
    held = {name: models.load(name) for name in DESCRIBED}
    built = {name: family.Model(family.Config(), regions) for name, family in held.items()}
    found = {name: list(model.parts()) for name, model in built.items() if hasattr(model, "parts")}
    assert {name: told.get(name) for name in found} == found
