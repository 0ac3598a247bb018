"""Scales, ticks and escaping of the small drawing helpers."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from neuropipe.report import svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (17.3, 66.1, [20, 30, 40, 50, 60]),
        (0.0002, 0.001, [0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert svg.round_ticks(low, high) == pytest.approx(expected)


def test_a_scale_is_linear_and_holds_what_lies_outside() -> None:
    scale = svg.Scale(10, 20, 300, 100)
    assert [scale(v) for v in (10, 15, 20, 99, -99)] == [300, 200, 100, 100, 300]


def test_a_range_without_width_or_without_values_can_still_be_drawn() -> None:
    low, high = svg.padded([3.0, 3.0])
    assert low < 3 < high
    assert svg.padded([math.nan]) == (0.0, 1.0)


def test_numbers_carry_a_true_minus_and_stay_short() -> None:
    assert [svg.number(v) for v in (-0.5, 0, 1200, 25000)] == ["−0.5", "0", "1200", "25k"]


def test_what_is_drawn_is_well_formed_and_escaped() -> None:
    hostile = '"><script>alert(1)</script>&'
    marks = [
        svg.circle(1, 2, 3, "mark", hostile),
        svg.text(0, 0, hostile),
        svg.polyline([(0, 0), (1, 1)], "x", hostile),
    ]
    drawn = svg.figure(10, 10, marks, hostile)
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label") == hostile
    assert [element.text for element in root.iter("title")] == [hostile, hostile]
    assert not list(root.iter("script"))


def test_many_dots_are_one_path_of_ten_bytes_each() -> None:
    points = [(i % 300, i // 300) for i in range(3000)]
    drawn = svg.dots(points, "s-model")
    assert drawn.count("M") == 3000
    assert len(drawn) < 3000 * 12
