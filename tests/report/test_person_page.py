"""The page of a person's prediction: its pictures, its words, its size; and the stacks it is made of."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from neuropipe.report import png, stacks
from neuropipe.report.person_page import Answer, Listed, Person, Picture, headline, render, render_index, sentences

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BINARY = Answer(
    "diagnosis", "binary", "patient", raw=0.71, calibrated=0.62, uncertainty=0.05, entropy=0.66, n_passes=20,
    mutual_information=0.01, distance=3.0, limit=9.0, unfamiliar=False, threshold=0.5,
    threshold_source="chosen on validation people", label="patient",
)  # fmt: skip
AGE = Answer("age", "regression", unit="years", value=54.25, uncertainty=2.0, n_passes=20, scale=(45.0, 15.0))


def unpacked(stack: stacks.Stack) -> np.ndarray:
    """Return the slices of a packed stack as Pillow reads its picture."""
    picture = Image.open(io.BytesIO(base64.b64decode(stack.uri.partition(",")[2])))
    assert picture.mode == "L"
    n, rows, columns = stack.shape
    levels = np.asarray(picture)
    place = [(i // stack.columns * rows, i % stack.columns * columns) for i in range(n)]
    return np.stack([levels[y : y + rows, x : x + columns] for y, x in place])


def person(answer: Answer = BINARY, shape: tuple[int, int, int] = (12, 16, 14), **changes) -> Person:
    rng = np.random.default_rng(0)
    picture = Picture(
        rng.random(shape), rng.random((6, 8, 7)), "volume", [[str(i) for i in range(n)] for n in shape], shape,
        "Input times gradient", "What it is.",
    )  # fmt: skip
    return replace(Person("sub-01", ["sub-01.nii.gz"], answer, picture), **changes)


def test_greys_come_back_as_pillow_reads_them():
    levels = np.random.default_rng(0).integers(0, 256, (7, 5), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png.encode_grey(levels)))), levels)


def test_a_stack_keeps_every_voxel_at_its_place():
    values = np.arange(7 * 4 * 3, dtype=float).reshape(7, 4, 3)
    found = unpacked(stacks.pack(values, 10**6, (0.0, 83.0)))
    np.testing.assert_array_equal(found, np.rint(values / 83 * 255))


def test_a_stack_is_shrunk_to_its_budget_and_keeps_its_means():
    values = np.random.default_rng(0).random((5, 96, 80))
    stack = stacks.pack(values, 8000, (0.0, 1.0))
    assert len(base64.b64decode(stack.uri.partition(",")[2])) <= 8000
    assert stack.shape[0] == 5
    np.testing.assert_allclose(unpacked(stack).mean((1, 2)) / 255, values.mean((1, 2)), atol=0.01)


@pytest.mark.parametrize("share", [0.5, 0.37])
def test_shrinking_averages_over_areas(share):
    ramp = np.broadcast_to(np.arange(40.0)[:, None], (2, 40, 30))
    small = stacks.shrink(ramp, share)
    assert small.shape[1:] == (int(40 * share), int(30 * share))
    width = 40 / small.shape[1]
    expected = (np.arange(small.shape[1]) + 0.5) * width - 0.5  # the mean of a ramp over an area is that at its middle
    np.testing.assert_allclose(small[0, :, 0], expected, atol=0.13)


def test_noise_of_the_published_grid_stays_below_3_mb():
    assert len(render(person(shape=(121, 145, 121)), NOW).encode()) < 3_000_000


@pytest.mark.parametrize("answer", [BINARY, AGE], ids=["binary", "regression"])
def test_the_page_loads_nothing_and_says_what_it_is_for(answer):
    page = render(person(answer), NOW)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|index\.html)""", page)
    assert "http" not in page.replace("Content-Security-Policy", "").replace("http-equiv", "")
    assert page.count("For research only") == 2
    assert "not a diagnosis" in page
    assert not re.search(r"high confidence|low confidence|certain\b", page, re.IGNORECASE)


def test_the_viewer_data_cannot_end_its_script_element():
    page = render(person(picture=replace(person().picture, positions=[["</script>"] * 12, [""] * 16, [""] * 14])), NOW)
    data = re.search(r'id="viewer-data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data[1])["positions"][0][0] == "</script>"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (BINARY, "Probability of diagnosis “patient”: 0.62 (calibrated)"),
        (replace(BINARY, calibrated=math.nan), "Probability of diagnosis “patient”: 0.71 (not calibrated)"),
        (AGE, "Predicted age: 54.2 years"),
    ],
)
def test_the_headline_says_one_number(answer, words):
    assert headline(answer) == words


def test_the_label_agrees_with_the_side_of_the_threshold():
    below = replace(BINARY, threshold=0.7, label="control")
    assert "at or above the threshold of 0.50" in sentences(BINARY)[0]
    assert "below the threshold of 0.70" in sentences(below)[0]
    assert "“control”" in sentences(below)[0]


def test_an_unfamiliar_scan_is_warned_of_before_its_numbers():
    page = render(person(replace(BINARY, unfamiliar=True, distance=12.0)), NOW)
    assert page.index("Unfamiliar scan") < page.index("Probability of diagnosis")
    assert "Unfamiliar scan" not in render(person(BINARY), NOW)
    assert "Nothing stored with the network tells" in render(person(replace(BINARY, unfamiliar=None)), NOW)


def test_names_from_outside_are_escaped():
    page = render(person(participant_id="<b>x</b>", files=["<i>.nii"]), NOW)
    assert "<b>x" not in page
    assert "<i>" not in page


def test_the_index_leads_to_the_pages_and_names_what_was_left_out():
    rows = [Listed("sub-01", "sub-01.html", BINARY)]
    page = render_index(rows, [{"path": "x.nii", "reason": "wrong grid", "detail": "expected a, found b"}], NOW)
    assert 'href="sub-01.html"' in page
    assert "wrong grid" in page
    assert "1 person, 1 file left out" in page
