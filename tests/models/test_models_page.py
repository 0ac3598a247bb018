"""docs/models.md says of every family what it is, and exactly what its published settings change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuropipe import models

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
