"""The page of a prediction in a real browser: the planes are drawn, sliders and clicks move them, nothing overflows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_person_page import AGE, BINARY, NOW, person
from test_report_browser import BROWSER, probe, visit

from neuropipe.report.person_page import Picture, render

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")]

# Waits for the viewer, then asks what is drawn before and after each control was used.
PROBE = """
const found = {};
const pixels = (i, x, y) => {
  const canvas = document.getElementById(`plane-${i}`);
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, -x * canvas.width, -y * canvas.height);
  return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const move = (id, value) => {
  const input = document.getElementById(id);
  input.value = value;
  input.dispatchEvent(new Event("input"));
};
const look = () => {
  if (document.getElementById("viewer").dataset.ready !== "yes") return setTimeout(look, 20);
  move("opacity", 0);
  found.axial = [[0.2, 0.2], [0.8, 0.2], [0.2, 0.8]].map(([x, y]) => pixels(2, x, y)[0]);
  move("slider-2", 0);
  found.bottom = pixels(2, 0.8, 0.2)[0];
  found.place = document.getElementById("place-2").textContent;
  found.spoken = document.getElementById("slider-2").getAttribute("aria-valuetext");
  move("opacity", 100);
  found.overlay = pixels(2, 0.8, 0.2);
  const canvas = document.getElementById("plane-2");
  const box = canvas.getBoundingClientRect();
  const at = { clientX: box.left + 0.93 * box.width, clientY: box.top + 0.07 * box.height };
  canvas.dispatchEvent(new PointerEvent("pointerdown", at));
  found.moved = [0, 1].map((i) => document.getElementById(`place-${i}`).textContent);
  found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.body.dataset.found = JSON.stringify(found);
};
look();
"""


def cube() -> Picture:
    """A map that is bright at the right front above: where a mirrored axis would show."""
    base = np.zeros((10, 10, 10))
    base[5:, 5:, 5:] = 1
    base[:5, 5:, 5:] = 0.5
    names = [[f"{axis}{i}" for i in range(10)] for axis in "xyz"]
    return Picture(base, np.ones((5, 5, 5)), "volume", names, (10, 10, 10), "Overlay", "What it is.")


@pytest.mark.parametrize("width", [1280, 500])
def test_planes_are_drawn_the_right_way_round_and_follow_their_controls(tmp_path: Path, width: int) -> None:
    found = probe(render(person(picture=cube()), NOW), PROBE, tmp_path / "p.html", tmp_path / "profile", width)
    left_front, right_front, left_back = found["axial"]
    assert right_front > 250
    assert 120 < left_front < 135
    assert left_back == 0
    assert found["bottom"] == 0
    assert found["place"] == found["spoken"] == "z0"
    assert sum(found["overlay"]) > 600  # the brightest colour of the map
    assert found["moved"] == ["x9", "y9"]
    assert found["overflow"] <= 0


@pytest.mark.parametrize("answer", [BINARY, AGE], ids=["binary", "regression"])
def test_it_keeps_its_own_policy(tmp_path: Path, answer) -> None:
    path = tmp_path / "p.html"
    path.write_text(render(person(answer), NOW))
    document, console = visit(path, tmp_path / "profile")
    assert console == []
    assert 'data-ready="yes"' in document
