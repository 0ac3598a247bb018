"""The page in a real browser: no console errors under its own policy, tables sort and filter, nothing overflows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    """Return what a script finds inside a page, which is written to `path` without the policy that forbids scripts."""
    without_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", content)
    path.write_text(without_policy.replace("</body>", f"<script>{script}</script></body>"))
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


@pytest.mark.parametrize("width", [1280, 500])
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
