"""The literature: every entry can be used, every word that cites finds its work, and nothing lies there unused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import neuropipe.report
from neuropipe import models
from neuropipe.config import Dataset, Evaluate, Strategy
from neuropipe.report import methods, methods_data, methods_models, methods_preparation, references
from neuropipe.signals.catalogue import CATALOGUE

FOLDER = Path(neuropipe.report.__file__).parent
DOI = re.compile(r"10\.\d{4,9}/\S+")


def test_every_entry_of_the_file_is_read_and_complete() -> None:
    works = references.library()
    assert len(works) == references.BIB.read_text().count("\n@")
    for work in works.values():
        assert {"author", "title"} <= set(work.fields), work.key
        assert "year" in work.fields or "url" in work.fields, work.key
        assert DOI.fullmatch(work.fields.get("doi", "10.1000/x")), work.key
        assert work.bibtex.count("{") == work.bibtex.count("}"), work.key
    dois = [work.fields["doi"] for work in works.values() if "doi" in work.fields]
    assert len(dois) == len(set(dois))


def test_what_is_cited_exists_and_what_exists_is_cited() -> None:
    code = "".join(path.read_text() for path in FOLDER.glob("methods*.py"))
    quoted = set(re.findall(r"""["']([a-z]+\d{4})["']""", code))
    unnumbered = {"neuroclr", "neurossl"}  # released models without a paper
    atlases = {key for entry in CATALOGUE.values() for key in references.by_doi(entry.citation)}
    assert set(references.library()) == quoted | unnumbered | atlases


def test_every_atlas_of_the_catalogue_cites_works_that_are_known() -> None:
    for entry in CATALOGUE.values():
        named = re.findall(r"doi:([^\s;]+)", entry.citation)
        assert named and len(references.by_doi(entry.citation)) == len(named), entry.id


def test_every_family_strategy_kind_and_baseline_has_words() -> None:
    assert set(models.names()) == set(methods_models.FAMILIES)
    assert set(get_args(Strategy)) - {"none"} == set(methods_preparation.REGRESSED)
    assert set(get_args(Dataset.model_fields["kind"].annotation)) == set(methods_data.SOURCES)
    named = set(Evaluate().baselines) | {"fc_partial", "fc_tangent"}
    assert named - {"random_weights"} == set(methods_models.BESIDE_WORDS)
    assert set(methods.PACKAGES.values()) <= set(references.library())


def test_citations_become_words_and_entries() -> None:
    text = f"Corrected {references.cite('holm1979')} and compared {references.cite('nadeau2003', 'delong1988')}."
    assert (
        references.in_words(text) == "Corrected (Holm, 1979) and compared (Nadeau & Bengio, 2003; DeLong et al., 1988)."
    )
    assert references.cited(text) == ["delong1988", "holm1979", "nadeau2003"]
    listed = references.bibtex(references.cited(text))
    assert re.findall(r"^@\w+\{(\w+),", listed, re.M) == ["delong1988", "holm1979", "nadeau2003"]
    entry = references.library()["nadeau2003"]
    assert entry.entry == (
        "Nadeau, Claude; Bengio, Yoshua (2003). Inference for the generalization error. Machine Learning 52, 239–281."
    )
    assert entry.link == "https://doi.org/10.1023/A:1024068626366"
