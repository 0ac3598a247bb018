"""A page as the tests look at it: ids, links, loaded addresses, cells by run, visible text."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "input", "hr", "img"}


class Page(HTMLParser):
    """Reads a whole page; unbalanced tags fail."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.cells: dict[str, list[tuple[str | None, str]]] = {}
        self.words: list[str] = []
        self.unlabelled: list[str] = []
        self._open: list[str] = []
        self._run: str | None = None
        self.feed(content)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = dict(attrs)
        if tag not in VOID:
            self._open.append(tag)
        if have.get("id"):
            self.ids.append(str(have["id"]))
        if tag == "a":
            self.links.append(str(have["href"]))
        self.loaded += [str(have[name]) for name in ("src", "srcset", "data", "poster") if name in have]
        if tag in ("link", "use", "image"):
            self.loaded += [str(have[name]) for name in ("href", "xlink:href") if name in have]
        if tag == "svg" and "viewBox" in have and not have.get("aria-label"):
            self.unlabelled.append(str(attrs))
        if tag == "tr":
            self._run = have.get("data-run")
        if tag == "td" and self._run is not None:
            self.cells.setdefault(self._run, []).append((have.get("data-v"), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes {self._open[-1]}"
        self._open.pop()
        if tag == "tr":
            self._run = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            return
        self.words.append(data)
        if self._run is not None and self._open and self._open[-1] == "td":
            full, shown = self.cells[self._run][-1]
            self.cells[self._run][-1] = (full, shown + data)

    @property
    def text(self) -> str:
        """All visible text with single blanks."""
        return " ".join(" ".join(self.words).split())
