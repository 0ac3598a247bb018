"""The quality page in a real browser: no console message, it sorts and filters, a picture loads on demand."""

from __future__ import annotations

from pathlib import Path

import pytest
from quality_study import CUT, make_page, plain_regions, write
from test_report_browser import BROWSER, probe, visit

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")]

# Runs inside the page, which has no such script of its own: what the tests want to know goes into <body data-found>.
PROBE = """
const found = {};
const at = (name) => titles.findIndex((title) => title.startsWith(name));
const shown = (n) => rows().map((row) => row.cells[n].dataset.v ?? row.cells[n].textContent);
found.loaded = performance.getEntriesByType("resource").filter((one) => one.name.endsWith(".svg")).length;
table.tHead.rows[0].cells[at("FD mean")].querySelector("button").click();
found.sorted = shown(at("FD mean"));
document.querySelector('.chip[data-words="left out"]').click();
found.leftOut = shown(0);
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const link = rows().map((row) => row.querySelector("button.run")).find((one) => one?.textContent.includes("0004"));
link.click();
found.open = dialog.open;
found.title = document.getElementById("picture-h").textContent;
found.state = document.getElementById("picture-state").textContent;
image.addEventListener("load", () => {
  found.width = image.naturalWidth;
  dialog.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  found.previous = document.getElementById("picture-h").textContent;
  document.getElementById("close").click();
  found.closed = !dialog.open;
  filter.value = "kept basel";
  filter.dispatchEvent(new Event("input"));
  galleryButton.click();
  found.cards = gallery.querySelectorAll("img[loading=lazy]").length;
  found.kept = rows().length;
  document.body.dataset.found = JSON.stringify(found);
}, { once: true });
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(write(tmp_path_factory.mktemp("made"), 14, plain_regions(), exclude={"max_missing_regions": 3}))


def test_it_opens_without_a_console_message_and_its_script_runs(tmp_path: Path, page: Path) -> None:
    document, console = visit(page, tmp_path / "profile")
    assert console == []
    assert "15 of 15 runs" in document


@pytest.mark.parametrize("width", [1280, 500])
def test_it_sorts_filters_and_loads_a_picture_on_demand(tmp_path: Path, page: Path, width: int) -> None:
    found = probe(page.read_text(), PROBE, page.with_name("probed.html"), tmp_path / "profile", width)
    assert found["loaded"] == 0, "pictures load only when somebody looks"
    known = [float(value) for value in found["sorted"] if value]
    assert known == sorted(known) and len(known) == 14 and found["sorted"][-1] == "", "what is unknown stays last"
    assert sorted(found["leftOut"]) == ["sub-0002_task-rest", f"sub-000{CUT}_task-rest", "sub-9999_task-rest"]
    assert (
        found["open"]
        and found["title"] == f"sub-000{CUT}_task-rest"
        and "exclude.max_missing_regions" in found["state"]
    )
    assert found["width"] == 720
    assert found["previous"] != found["title"] or found["leftOut"][0] == found["title"]
    assert found["closed"] and found["cards"] == found["kept"] > 0
    assert found["overflow"] <= 0


def test_its_own_policy_lets_the_picture_through(tmp_path: Path, page: Path) -> None:
    """The page itself, nothing taken out: its picture is shown under its own policy."""
    style = '<img id="picture-img" alt="">'
    content = page.read_text()
    assert style in content
    probed = page.with_name("shown.html")
    probed.write_text(content.replace(style, '<img id="picture-img" alt="" src="runs/sub-0000_task-rest.svg">'))
    document, console = visit(probed, tmp_path / "profile")
    assert console == [] and "runs/sub-0000_task-rest.svg" in document
