"""The literature that a study can cite, from `references.bib`: by key, as words, as a list, as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BIB = Path(__file__).with_name("references.bib")
ENTRY = re.compile(r"^@(?P<kind>\w+)\{(?P<key>[^,\s]+),\n(?P<body>.*?)^\}$", re.M | re.S)
FIELD = re.compile(r"^  (?P<name>\w+) = \{(?P<value>.*)\},$", re.M)
CITATION = re.compile(r"\[(?P<keys>@\w+(?:; @\w+)*)\]")  # as pandoc writes it: [@holm1979; @efron1993]
PLACES = ("journal", "booktitle", "publisher")


@dataclass(frozen=True)
class Reference:
    """One entry of the literature.

    Attributes
    ----------
    key : str
        As it is cited.
    fields : dict of str to str
        BibTeX fields, without the braces that protect capitals.
    bibtex : str
        The entry as it stands in the file.
    """

    key: str
    fields: dict[str, str]
    bibtex: str

    @property
    def families(self) -> list[str]:
        """Family names of the authors, ``others`` included."""
        return [name.split(",")[0].strip() for name in self.fields["author"].split(" and ")]

    @property
    def year(self) -> str:
        """Year, or what stands for none."""
        return self.fields.get("year", "n.d.")

    @property
    def words(self) -> str:
        """Authors and year as they stand in a text: ``Nadeau & Bengio, 2003``."""
        names = self.families
        if len(names) == 2 and "others" not in names:
            return f"{names[0]} & {names[1]}, {self.year}"
        return f"{names[0]}{' et al.' if len(names) > 1 else ''}, {self.year}"

    @property
    def link(self) -> str:
        """Address of the work; empty where it has none."""
        doi = self.fields.get("doi")
        return f"https://doi.org/{doi}" if doi else self.fields.get("url", "")

    @property
    def entry(self) -> str:
        """The work as it stands in a list of references, without its address."""
        names = [name.strip() for name in self.fields["author"].split(" and ")]
        authors = "; ".join(names).replace("; others", " et al.")
        place = next((self.fields[name] for name in PLACES if name in self.fields), "")
        where = " ".join(filter(None, [place, self.fields.get("volume", "")]))
        if pages := self.fields.get("pages"):
            where += f", {pages.replace('--', '–')}"
        return f"{authors} ({self.year}). {self.fields['title']}." + (f" {where}." if where else "")


@cache
def library() -> dict[str, Reference]:
    """Return every entry by its key, in the order of the file."""
    found = {}
    for match in ENTRY.finditer(BIB.read_text(encoding="utf-8")):
        fields = {field["name"]: re.sub(r"[{}]", "", field["value"]) for field in FIELD.finditer(match["body"])}
        found[match["key"]] = Reference(match["key"], fields, match[0])
    return found


def by_doi(text: str) -> list[str]:
    """Return the keys of the works whose DOIs stand in a text, as in the ``citation`` of the catalogue's atlases."""
    keys = {work.fields["doi"]: work.key for work in library().values() if "doi" in work.fields}
    return [keys[doi] for doi in re.findall(r"doi:([^\s;]+)", text) if doi in keys]


def cite(*keys: str) -> str:
    """Return a citation as pandoc reads it: ``[@holm1979; @efron1993]``."""
    return f"[{'; '.join(f'@{key}' for key in keys)}]"


def cited(text: str) -> list[str]:
    """Return the keys that a text cites, each once, in the order of the list of references (by author and year)."""
    keys = {key.removeprefix("@") for match in CITATION.finditer(text) for key in match["keys"].split("; ")}
    return sorted(keys, key=lambda key: (library()[key].families[0].lower(), library()[key].year, key))


def in_words(text: str) -> str:
    """Return a text with citations as authors and years: ``(Holm, 1979; Efron & Tibshirani, 1993)``."""

    def spoken(match: re.Match[str]) -> str:
        keys = match["keys"].split("; ")
        return f"({'; '.join(library()[key.removeprefix('@')].words for key in keys)})"

    return CITATION.sub(spoken, text)


def bibtex(keys: Iterable[str]) -> str:
    """Return the entries of some keys as the text of a BibTeX file."""
    return "\n\n".join(library()[key].bibtex for key in keys) + "\n"
