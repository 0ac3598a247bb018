"""Make the one HTML page of a study, a card for every model, and the merged table of what was left out."""

from __future__ import annotations

import argparse
import logging
from datetime import UTC, datetime
from pathlib import Path

from neuropipe import config as configuration
from neuropipe.locks import lock
from neuropipe.paths import write_text
from neuropipe.provenance import describe, sha256, write_json

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe report``."""
    parser.add_argument("--config", type=Path, required=True, help="the study's config.yaml")
    parser.add_argument("--study", type=Path, required=True, help="folder results/<study> with metrics.parquet")
    parser.add_argument("--output", type=Path, required=True, help="the page, e.g. results/<study>/report/index.html")


def run(*, config: Path, study: Path, output: Path) -> None:
    """Write the page, ``models/<recipe>.md`` beside it, and ``excluded.tsv`` in the study's folder.

    Raises
    ------
    InputError
        The study has no ``metrics.parquet``, or a table cannot be read.
    """
    from neuropipe.report import excluded, page, read

    with lock(output.with_name(f".lock-{output.name}")):
        results = read.read(configuration.load(config), study)
        rendered = page.render(results, datetime.now(UTC), str(config))
        write_text(study / "excluded.tsv", excluded.to_tsv(results.excluded))
        for name, card in rendered.cards.items():
            write_text(output.parent / "models" / f"{name}.md", card)
        inputs = {"metrics.parquet": sha256(study / "metrics.parquet"), config.name: sha256(config)}
        write_json(output.with_suffix(".json"), describe("report", inputs=inputs, packages=("pandas", "jinja2")))
        write_text(output, rendered.page)
    log.info("report: %s (%d kB)", output, len(rendered.page.encode()) // 1000)
