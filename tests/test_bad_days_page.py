"""docs/bad-days.md promises tests; every one that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "bad-days.md"


def test_every_test_that_the_page_names_is_there() -> None:
    text = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert len(named) > 15
    assert not [name for name in named if f"def {name}(" not in text]


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert rows and not [row for row in rows if "`test_" not in row.split("|")[-2]]
