"""The methods paragraphs of a paper: what this study did, in sentences that follow its config and its tables.

A citation stands in the text as pandoc reads it (``[@holm1979]``), so that ``methods.md`` and the BibTeX file beside
it become a document in any style of references; the page shows the same text with authors and years.
"""

from __future__ import annotations

from dataclasses import dataclass

from neuropipe.report import (
    lineage,
    methods_data,
    methods_models,
    methods_preparation,
    methods_statistics,
    references,
)
from neuropipe.report.methods_data import joined
from neuropipe.report.read import Results

PACKAGES = {  # whose papers ask to be cited
    "numpy": "harris2020",
    "scipy": "virtanen2020",
    "pandas": "mckinney2010",
    "scikit-learn": "pedregosa2011",
    "torch": "paszke2019",
}
NAMES = {"python": "Python", "numpy": "NumPy", "scipy": "SciPy", "torch": "PyTorch"}


@dataclass(frozen=True)
class Methods:
    """What was done.

    Attributes
    ----------
    sections : list of (str, list of str)
        Heading and paragraphs, with citations as keys.
    """

    sections: list[tuple[str, list[str]]]

    @property
    def keys(self) -> list[str]:
        """Keys of every work that is cited, in the order of the list."""
        return references.cited(" ".join(text for _, paragraphs in self.sections for text in paragraphs))

    @property
    def spoken(self) -> list[tuple[str, list[str]]]:
        """Heading and paragraphs, with citations as authors and years."""
        return [(title, [references.in_words(text) for text in paragraphs]) for title, paragraphs in self.sections]

    @property
    def works(self) -> list[tuple[str, str]]:
        """Entry and DOI (or address) of every work that is cited."""
        works = [references.library()[key] for key in self.keys]
        return [(work.entry, work.link.replace("https://doi.org/", "doi:").removeprefix("https://")) for work in works]

    def markdown(self, study: str) -> str:
        """Return ``methods.md``: ``pandoc --citeproc methods.md -o methods.docx`` makes a document of it."""
        head = f"---\ntitle: Methods of the study {study}\nbibliography: references.bib\n---\n"
        body = "".join(f"\n## {title}\n\n" + "\n\n".join(texts) + "\n" for title, texts in self.sections)
        return f"{head}{body}\n## References\n"

    def bibtex(self) -> str:
        """Return ``references.bib``: what is cited, and nothing else."""
        return references.bibtex(self.keys)


def write(results: Results) -> Methods:
    """Return the methods of a study; a paragraph with nothing to say is left out."""
    sections = [
        ("Participants and data", methods_data.people(results)),
        ("Preparation of the data", _paragraph(methods_preparation.preparation(results))),
        ("Partitions", _paragraph(methods_data.partitions(results))),
        ("Models", methods_models.training(results)),
        ("Prediction", _paragraph(methods_models.prediction(results))),
        ("Statistics", _paragraph(methods_statistics.statistics(results))),
        ("Software", _software(results)),
    ]
    return Methods([(title, paragraphs) for title, paragraphs in sections if paragraphs])


def _paragraph(sentences: list[str]) -> list[str]:
    """Return sentences as one paragraph; none where there are none."""
    return [" ".join(sentences)] if sentences else []


def _software(results: Results) -> list[str]:
    """Return which versions took part, as the sidecars of the products recorded them."""
    versions = dict(lineage.stages(results.study)[1])
    neuropipe = versions.pop("neuropipe", None)
    said = [f"All steps were carried out with neuropipe{f' {neuropipe}' if neuropipe else ''}"]
    if (results.study.root / "benchmarks").is_dir():  # which only the workflow writes
        said[0] += f", run by Snakemake {references.cite('molder2021')}"
    if versions:
        named = [
            f"{NAMES.get(name, name)} {version}" + (f" {references.cite(PACKAGES[name])}" if name in PACKAGES else "")
            for name, version in versions.items()
        ]
        said[0] += f", on {joined(named)}"
    said[0] += "."
    if results.trainings:
        said.append(f"Models are reported by the items of TRIPOD+AI {references.cite('collins2024')}.")
    return [" ".join(said)]
