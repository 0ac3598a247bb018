"""`snakemake --report` of a finished study: what is in it, with captions, without a network."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_the_report_holds_pages_cards_and_metrics_with_their_captions(small_study, command):
    command(small_study, "snakemake", "--cores", "2")
    study = small_study / "results" / "demo"
    for product in ("metrics.csv", "report/methods.md", "report/references.bib", "report/models/tiny.md"):
        assert (study / product).stat().st_size > 100, product
    command(small_study, "snakemake", "--report", "report.html")
    content = (small_study / "report.html").read_text()
    for category in ("Study report", "Model cards", "Metrics", "Quality"):
        assert f'"{category}": ' in content, category
    for words in ("The report of the study", "TRIPOD+AI item by item", "Every number of the report", "Quality of demo"):
        assert words in content, words
    for file in (
        "report/index.html",
        "report/methods.md",
        "report/models/tiny.md",
        "metrics.csv",
        "qc/demo/index.html",
    ):
        assert f"results/demo/{file}" in content, file
