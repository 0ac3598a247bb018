"""The page in a real browser: no console errors under its own policy, tables sort and filter, nothing overflows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import beside_tables
import pytest
from reported_study import write_study

from neuropipe import config as configuration
from neuropipe.provenance import write_json
from neuropipe.report import page, read

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")]

# Runs inside the page, which has no such script of its own: what the tests want to know goes into <body data-found>.
PROBE = """
const column = (table, n) => [...table.tBodies[0].rows].map((row) => row.cells[n].textContent.trim());
const board = document.querySelector("#task-diagnosis table.sortable");
const buttons = board.querySelectorAll("button.sort");
const found = { before: column(board, 1) };
buttons[1].click();
found.ascending = column(board, 1);
found.sort = buttons[1].closest("th").getAttribute("aria-sort");
buttons[1].click();
found.descending = column(board, 1);
const input = document.querySelector("input.filter");
input.value = "motion sub-007";
input.dispatchEvent(new Event("input"));
found.shown = [...document.getElementById("excluded").tBodies[0].rows].filter((row) => !row.hidden).length;
const light = getComputedStyle(document.body).backgroundColor;
document.getElementById("theme").click();
found.theme = light !== getComputedStyle(document.body).backgroundColor;
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.found = JSON.stringify(found);
"""

# A window is never narrower than this; a phone's page is looked at in a frame of its width.
NARROWEST = 500  # pixels
FRAME = """<!doctype html><body style="margin: 0">
<iframe width="{width}" height="900" style="border: 0" srcdoc="{content}"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {{
  const body = frame.contentDocument.body;
  const copy = () => {{ if (body.dataset.found) document.body.dataset.found = body.dataset.found; }};
  new MutationObserver(copy).observe(body, {{ attributes: true }});
  copy();
}});
</script></body>"""

EXPLORE = """
const drawn = () => new Promise((done) => setTimeout(done, 300));
const stroke = () => getComputedStyle(document.querySelector(".plot .js-line, .plot .point")).stroke;
(async () => {
  const buttons = [...document.querySelectorAll("button.explore")];
  buttons.forEach((button) => button.click());
  await drawn();
  const found = { buttons: buttons.length, light: stroke() };
  found.plots = buttons.map((button) => {
    const figure = button.closest("figure");
    const plot = figure.querySelector(".plot");
    return {
      traces: plot.querySelectorAll(".scatterlayer .trace").length,
      described: plot.getAttribute("aria-label").length,
      replaced: figure.querySelector(".static").hidden && button.getAttribute("aria-pressed") === "true",
    };
  });
  found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.getElementById("theme").click();
  await drawn();
  found.dark = stroke();
  buttons.forEach((button) => button.click());
  await drawn();
  found.left = document.querySelectorAll(".plot, .static[hidden]").length;
  document.body.dataset.found = JSON.stringify(found);
})();
"""


def visit(path: Path, profile: Path, width: int = 1280) -> tuple[str, list[str]]:
    """Return the document after loading and what was written to the console."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    options += [f"--user-data-dir={profile}", f"--window-size={width},900", "--enable-logging=stderr"]
    # Lazy pictures are off without a window, unlike in front of a reader; they are waited for in virtual time.
    options += ["--blink-settings=lazyLoadEnabled=true", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [str(BROWSER), *options, path.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout, [text for text in done.stderr.splitlines() if "CONSOLE" in text]


def probe(content: str, script: str, path: Path, profile: Path, width: int) -> dict[str, Any]:
    """Return what a script finds inside a page, which is written to `path`; its policy then allows this script too."""
    allowed = content.replace("script-src ", f"script-src '{page.csp(script)}' ", 1)
    assert allowed != content
    body, end = allowed.rsplit("</body>", 1)
    probed = f"{body}<script>{script}</script></body>{end}"
    path.write_text(probed if width >= NARROWEST else FRAME.format(width=width, content=escape(probed)))
    document, console = visit(path, profile, width)
    assert console == []
    match = re.search(r'data-found="([^"]*)"', document)
    assert match is not None
    return json.loads(match[1].replace("&quot;", '"'))


@pytest.fixture
def report(tmp_path: Path) -> str:
    """The page of a study that left out more rows than are shown without a filter."""
    config = write_study(tmp_path / "synthetic")
    study = config.parent
    beside_tables.write(study)
    beside_tables.add_test_dataset(study)
    rows = [
        {"stage": "shard", "dataset": "demo", "participant_id": f"sub-{n:03d}", "reason": "motion", "detail": "x"}
        for n in range(40)
    ]
    write_json(study / "receipts/demo/shard-00.json", {"products": [], "excluded": rows})
    return page.render(read.read(configuration.load(config), study), datetime.now(UTC), str(config)).page


def test_it_opens_without_a_console_message_and_its_script_runs(tmp_path: Path, report: str) -> None:
    path = tmp_path / "index.html"
    path.write_text(report)
    document, console = visit(path, tmp_path / "profile")
    assert console == []
    button = re.search(r'<button[^>]*id="theme"[^>]*>', document)
    assert button is not None
    assert "hidden" not in button[0]


@pytest.mark.parametrize("width", [1280, 390])
def test_tables_sort_and_filter_and_nothing_is_wider_than_the_window(tmp_path: Path, report: str, width: int) -> None:
    found = probe(report, PROBE, tmp_path / "probed.html", tmp_path / "profile", width)
    numbers = sorted(found["before"], key=float)
    assert found["before"] != numbers
    assert found["ascending"] == numbers
    assert found["descending"] == numbers[::-1]
    assert found["sort"] == "ascending"
    assert found["shown"] == 1
    assert found["theme"]
    assert found["overflow"] <= 0


@pytest.mark.parametrize("width", [1280, 390])
def test_figures_are_explored_under_the_pages_own_policy(tmp_path: Path, report: str, width: int) -> None:
    found = probe(report, EXPLORE, tmp_path / "probed.html", tmp_path / "profile", width)
    assert found["buttons"] >= 8  # learning curves, maps, a decision curve, the loss
    assert all(plot["traces"] >= 1 for plot in found["plots"])
    assert all(plot["described"] > 20 for plot in found["plots"])
    assert all(plot["replaced"] for plot in found["plots"])
    assert found["light"] != found["dark"]
    assert found["left"] == 0
    assert found["overflow"] <= 0
