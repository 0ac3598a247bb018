"""The quality page of maps in a real browser: no console message, sheets load when looked at, one filter for both."""

from __future__ import annotations

from pathlib import Path

import pytest
from anatomy_quality_study import LEFT_OUT, NOISY, SHIFTED, make_page, name, write
from test_report_browser import BROWSER, probe, visit

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")]

N_MAPS = 200  # four sheets; a browser loads what is about to be scrolled into view, but not the last
# Runs inside the page, which has no such script of its own: what the tests want to know goes into <body data-found>.
PROBE = """
const found = {};
const shownCells = () => [...document.querySelectorAll("#contact .cell")].filter((cell) => !cell.hidden);
const id = (cell) => cell.querySelector(".name").textContent;
const images = [...document.querySelectorAll("#contact img")];
const finish = () => {
  found.lazy = images.every((image) => image.loading === "lazy");
  found.loaded = [...new Set(images.filter((image) => image.naturalWidth).map((image) => image.getAttribute("src")))];
  const frame = images[0].parentElement.getBoundingClientRect();
  found.aspect = frame.width / frame.height;
  found.width = images[0].naturalWidth;
  // The part of the sheet that a cell shows starts at its place.
  found.places = images.slice(0, 3).map((image) => {
    const own = image.getBoundingClientRect(), frame = image.parentElement.getBoundingClientRect();
    return Math.round((frame.top - own.top) / frame.height * 100) / 100;
  });
  found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const row = table.tBodies[0].rows[55];
  found.linked = document.querySelector(row.querySelector("a").getAttribute("href") + " .name").textContent;
  found.row = row.cells[0].textContent;
  document.querySelector('.chip[data-words="left out"]').click();
  found.leftOut = shownCells().map(id);
  found.leftOutRows = rows().map((row) => row.cells[0].textContent);
  document.querySelector('.chip[data-words="outlier"]').click();
  found.outliers = shownCells().map(id);
  document.querySelector('.chip[data-words=""]').click();
  found.all = shownCells().length;
  document.body.dataset.found = JSON.stringify(found);
};
images[0].scrollIntoView();
setTimeout(finish, 2000);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(write(tmp_path_factory.mktemp("made"), N_MAPS))


def test_it_opens_under_its_own_policy_without_a_console_message(tmp_path: Path, page: Path) -> None:
    document, console = visit(page, tmp_path / "profile")
    assert console == []
    assert f"{N_MAPS + 1} of {N_MAPS + 1} runs" in document


@pytest.mark.parametrize("width", [1280, 500])
def test_one_filter_for_sheet_and_table_and_every_cell_shows_its_strip(tmp_path: Path, page: Path, width: int) -> None:
    found = probe(page.read_text(), PROBE, page.with_name("probed.html"), tmp_path / "profile", width)
    assert found["lazy"] and "sheets/000.png" in found["loaded"] and "sheets/003.png" not in found["loaded"]
    assert found["width"] == 24 + 24 + 29
    assert found["aspect"] == pytest.approx((24 + 24 + 29) / 29, rel=0.02)
    assert found["places"] == pytest.approx([0, 1, 2], abs=0.02)
    assert found["overflow"] <= 0
    assert found["linked"] == found["row"]
    assert found["leftOut"] == found["leftOutRows"] == [name(LEFT_OUT), "sub-9999"]
    assert {name(SHIFTED), name(NOISY)} <= set(found["outliers"]) and name(LEFT_OUT) not in found["outliers"]
    assert found["all"] == N_MAPS + 1
