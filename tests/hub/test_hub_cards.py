"""A card joined to a repository's README: one front matter, how to load first, then what the model is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from neuropipe.errors import InputError
from neuropipe.hub import cards, huggingface
from neuropipe.stages import export

README = "---\nlibrary_name: transformers\ntags: [fmri, time-series]\n---\n# name\n\nLoad it so.\n"
HEAD = "library_name: neuropipe\ntags: [neuroimaging, fmri]\nmodel-index: [{name: a}]"
CARD = f"---\n{HEAD}\n---\n# a\n\n| x |\n|---|\n---\nend\n"


def test_one_front_matter_holds_both() -> None:
    text = cards.join(README, CARD)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "tags": ["fmri", "time-series", "neuroimaging"],
        "model-index": [{"name": "a"}],
    }
    assert body == "# name\n\nLoad it so.\n\n# a\n\n| x |\n|---|\n---\nend\n"


def test_texts_without_a_head_stay_as_they_are() -> None:
    assert cards.join("how\n", "what\n").endswith("how\n\nwhat\n")


def test_a_card_that_is_not_there_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neuropipe report"):
        cards.read(tmp_path / "a.md")


def test_export_joins_the_card_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(source: Path, output: Path) -> None:
        output.mkdir()
        (output / "README.md").write_text(README)

    monkeypatch.setattr(huggingface, "write", write)
    (tmp_path / "a.md").write_text(CARD)
    export.run(huggingface=tmp_path, card=tmp_path / "a.md", output=tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == cards.join(README, CARD)
    with pytest.raises(InputError, match=r"no\.md"):  # before anything is written
        export.run(huggingface=tmp_path, card=tmp_path / "no.md", output=tmp_path / "second")
    assert not (tmp_path / "second").exists()
