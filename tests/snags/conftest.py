"""The snags are shown on the tiny study of the stages' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "stages"))

from tiny_study import TinyStudy


@pytest.fixture
def study(tmp_path: Path) -> TinyStudy:
    """A study without people."""
    return TinyStudy(tmp_path)
