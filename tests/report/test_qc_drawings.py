"""What the quality page draws: pictures that others read, dots where regions are, words that fit the numbers."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from neuropipe.report import brain, png, qc, qc_figures, qc_picture
from neuropipe.signals.traces import Traces


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 250)])
def test_a_png_is_read_back_pixel_by_pixel(shape: tuple[int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 16, shape, dtype=np.uint8)
    content = png.encode(levels, qc_picture.GREYS)
    assert content == png.encode(levels, qc_picture.GREYS)
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert image.size == shape[::-1]
        found = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(found, np.array(qc_picture.GREYS, dtype=np.uint8)[levels])


def table(networks: list[str], sides: list[str]) -> pd.DataFrame:
    n = len(networks)
    names = [f"region-{i}" for i in range(n)]
    return pd.DataFrame(
        {"name": names, "atlas": "toy", "network": networks, "hemisphere": sides} | dict.fromkeys("xyz", 0.0)
    )


def traces(n_volumes: int = 100, n_regions: int = 4) -> Traces:
    rng = np.random.default_rng(0)
    fd = rng.gamma(2, 0.1, n_volumes).astype(np.float32)
    fd[0] = np.nan
    levels = rng.integers(1, 16, (n_regions, n_volumes), dtype=np.uint8)
    ones = np.ones(n_regions, np.float32)
    return Traces(2.0, np.isin(np.arange(n_volumes), [10, 11, 50]), fd, 3 * fd, fd, levels, levels, ones, 50 * ones)


def test_rows_of_a_carpet_are_ordered_by_network_and_side() -> None:
    layout = qc_picture.Layout.of(table(["Vis", "Default", "Vis", "Default"], ["R", "L", "L", "R"]), 0.5, 0.5)
    assert layout.order.tolist() == [2, 0, 1, 3]
    assert layout.networks == [("Vis", 0.0, 0.5), ("Default", 0.5, 1.0)]


def test_the_picture_of_a_run_says_what_is_known() -> None:
    layout = qc_picture.Layout.of(table(["Vis"] * 4, ["L"] * 4), 0.5, 0.5)
    drawn = qc_picture.draw(traces(), layout)
    root = ET.fromstring(drawn)
    texts = [part.text for part in root.iter() if part.tag.endswith("text")]
    for words in ("FD", "DVARS", "Before cleaning", "After cleaning", "Coverage of the regions", "200"):
        assert words in texts, words
    bands = [part for part in root.iter() if part.get("class") == "censored"]
    assert len(bands) == 4, "two stretches of censored volumes behind each of two traces"
    seconds = (qc_picture.RIGHT - qc_picture.LEFT) / 200
    assert float(bands[0].get("x")) == pytest.approx(qc_picture.LEFT + 20 * seconds, abs=0.1)
    assert float(bands[0].get("width")) == pytest.approx(4 * seconds, abs=0.1)
    assert drawn == qc_picture.draw(traces(), layout)


def test_more_regions_than_rows_are_averaged_without_the_missing() -> None:
    levels = np.full((qc_picture.MAX_ROWS * 2, 3), 8, dtype=np.uint8)
    levels[::2, 0] = 0  # missing
    levels[::2, 1] = 12
    found = qc_picture._shrunk(levels)
    assert found.shape == (qc_picture.MAX_ROWS, 3)
    assert set(found[:, 0]) == {8} and set(found[:, 1]) == {10} and set(found[:, 2]) == {8}


def test_regions_lie_where_their_centres_are() -> None:
    """Left is on the left from the front and from above; the nose points to the left from the side; up is up."""
    centres = np.array([[-50.0, 60, 70], [50.0, -80, -40], [np.nan, 0, 0]])
    drawn = "".join(brain.glass(centres, ["a", "b", "a"], ["left front top", "right back low", "nowhere"]))
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*><title>([^<]*)', drawn)
    assert {title for _, _, title in found} == {"left front top", "right back low"}
    one, other = ([(float(x), float(y)) for x, y, title in found if title == words] for words in
                  ("left front top", "right back low"))  # fmt: skip
    for view in range(3):
        assert one[view][0] < other[view][0]
        assert one[view][1] < other[view][1]
    assert all(0 < x < brain.WIDTH and 0 < y < brain.HEIGHT for x, y in one + other)


@pytest.mark.parametrize("value", [0.96, 0.8, 0.6, 0.4, np.nan])
def test_coverage_has_a_class_and_a_key(value: float) -> None:
    css = qc_picture.coverage_class(value, 0.5)
    words = dict(qc_picture.coverage_key(0.5))[css]
    expected = {0.96: "95 % and more", 0.8: "75 to 95 %", 0.6: "below 75 %", 0.4: "missing (below 50 %)"}
    assert words == expected.get(value, "missing (below 50 %)")


def test_figures_of_the_group_say_their_numbers() -> None:
    rng = np.random.default_rng(0)
    distance = rng.uniform(10, 150, 5000)
    r = 0.4 - 0.004 * distance + 0.05 * rng.normal(size=5000)
    drawn = str(qc_figures.distance_dependence(r, distance))
    near, far = map(float, re.search(r"from (-?[\d.]+) for near to (-?[\d.]+) for far", drawn).groups())
    assert near == pytest.approx(0.35, abs=0.05) and far == pytest.approx(-0.19, abs=0.05)
    assert len(drawn) < 80_000
    assert "median 0.0" in qc_figures.histogram(r, 100)
    drawn = str(qc_figures.before_after(np.array([1.0, 2.0, np.nan]), np.array([0.5, 1.5, 1.0]), "DVARS (%)"))
    assert "2 runs: median 1.5 before, 1 after" in drawn


@pytest.mark.parametrize(
    ("rho", "words"),
    [(-0.4, "stronger between near regions"), (0.3, "stronger between far"), (0.02, "none to speak of")],
)
def test_qc_fc_in_words(rho: float, words: str) -> None:
    found = {"n_people": 120, "n_edges": 104196, "median_abs_r": 0.153, "expected_median_abs_r": 0.062}
    found |= {"share_significant": 0.31, "share_significant_uncorrected": 0.45, "distance_rho": rho}
    first, second, third = qc._qc_fc_sentences(found)
    assert "120 people" in first and "0.153" in first and "0.062" in first
    assert "31.0\N{NO-BREAK SPACE}% of 104,196 edges" in second and "45.0\N{NO-BREAK SPACE}%" in second
    assert words in third
    assert "needs at least 10 people" in qc._qc_fc_sentences({"n_people": 4})[0]
