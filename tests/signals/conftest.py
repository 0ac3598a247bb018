"""A machine on which nothing was ever fetched."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of atlases; TemplateFlow's folder is empty too, wherever it may lie."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NEUROPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    return tmp_path / "cache" / "atlases"
