"""Make a study's HTML page, methods, model cards and list of what was left out; or lay studies side by side."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from neuropipe import config as configuration
from neuropipe.errors import InputError
from neuropipe.locks import lock
from neuropipe.paths import write_text
from neuropipe.provenance import describe, sha256, write_json

log = logging.getLogger("neuropipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``neuropipe report``."""
    parser.add_argument("studies", type=Path, nargs="*", help="folders results/<study> to lay side by side")
    parser.add_argument("--config", type=Path, help="of one study: its config.yaml")
    parser.add_argument("--study", type=Path, help="of one study: folder results/<study> with metrics.parquet")
    parser.add_argument(
        "--output",
        type=Path,
        help="the page; of one study results/<study>/report/index.html, of several compare_<study>_<study>.html",
    )


def run(
    *,
    studies: Sequence[Path] = (),
    config: Path | None = None,
    study: Path | None = None,
    output: Path | None = None,
) -> None:
    """Write a study's page, or the comparison of several `studies` with ``<output>.tsv`` beside it.

    Of one study, ``methods.md`` with ``references.bib`` and ``models/<recipe>.md`` are written beside the page, and
    ``excluded.tsv`` in the study's folder.

    Raises
    ------
    InputError
        A study has no ``metrics.parquet``, or a table cannot be read; or both kinds of report are asked for at once.
    """
    if studies:
        if config is not None or study is not None:
            raise InputError("Studies to compare need neither --config nor --study; give their folders alone.")
        _compare(list(studies), output)
    elif config is None or study is None:
        raise InputError("A report needs --config and --study of one study, or the folders of several to compare.")
    else:
        _report(config, study, output or study / "report" / "index.html")


def _compare(folders: list[Path], output: Path | None) -> None:
    """Lay studies side by side."""
    from neuropipe.evaluate import across
    from neuropipe.report import compare

    studies = across.read(folders)
    names = "_".join(folder.resolve().name for folder in folders)
    output = output or folders[0].resolve().parent / f"compare_{names}.html"
    draws, seed = (studies[0].settings.get(key, default) for key, default in (("bootstrap", 10000), ("seed", 0)))
    metrics = {one.name: one.metrics for one in studies}
    differences = across.differences(studies, int(draws), int(seed))
    rendered = compare.render(metrics, across.protocol(studies), differences, datetime.now(UTC))
    beside = compare.side_by_side(metrics).to_csv(sep="\t", index=False, lineterminator="\n")
    write_text(output.with_suffix(".tsv"), beside)
    write_text(output, rendered)
    log.info("report: %s and %s", output, output.with_suffix(".tsv"))


def _report(config: Path, study: Path, output: Path) -> None:
    """Write the page of one study."""
    from neuropipe.report import excluded, page, read

    with lock(output.with_name(f".lock-{output.name}")):
        results = read.read(configuration.load(config), study)
        rendered = page.render(results, datetime.now(UTC), str(config))
        write_text(study / "excluded.tsv", excluded.to_tsv(results.excluded))
        for name, card in rendered.cards.items():
            write_text(output.parent / "models" / f"{name}.md", card)
        write_text(output.with_name("methods.md"), rendered.methods.markdown(results.config.study))
        write_text(output.with_name("references.bib"), rendered.methods.bibtex())
        inputs = {"metrics.parquet": sha256(study / "metrics.parquet"), config.name: sha256(config)}
        write_json(output.with_suffix(".json"), describe("report", inputs=inputs, packages=("pandas", "jinja2")))
        write_text(output, rendered.page)
    log.info("report: %s (%d kB)", output, len(rendered.page.encode()) // 1000)
