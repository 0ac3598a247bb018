"""The list is whole: every number has a row in the documentation and a test, and the rows name tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "snags.md"
N_SNAGS = 33


def named_tests() -> set[str]:
    found: set[str] = set()
    for path in HERE.glob("test_*_snags.py"):
        found |= set(re.findall(r"^def (test_\d\d_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def test_every_snag_has_a_test() -> None:
    assert {int(name[5:7]) for name in named_tests()} == set(range(1, N_SNAGS + 1))


def test_the_documentation_has_a_row_for_every_snag_and_names_its_tests() -> None:
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if re.match(r"\| *\d+ \|", line)]
    numbers = [int(row.split("|")[1]) for row in rows]
    assert numbers == list(range(1, N_SNAGS + 1))
    named = {number: set(re.findall(r"`(test_\w+)`", row)) for number, row in zip(numbers, rows, strict=True)}
    for number, names in named.items():
        assert names and names <= named_tests(), f"row {number}"
        assert {int(name[5:7]) for name in names} == {number}
