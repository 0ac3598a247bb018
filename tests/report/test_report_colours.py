"""The page's colours stand out from their background in both themes, by the formula of WCAG 2.2."""

from __future__ import annotations

import re

import pytest

from neuropipe.report.page import asset

TEXT = ["--ink", "--soft", "--accent", "--good", "--bad"]  # 4.5 : 1
MARKS = ["--model", "--random", "--scratch", "--fc", "--confounds", "--majority"]  # 3 : 1
MARKS += [f"--g{n}" for n in range(8)] + [f"--q{n}" for n in range(5)]


def palette(theme: str) -> dict[str, str]:
    """Return the colours of one theme, by variable."""
    style = asset("style.css")
    start = style.index(":root {" if theme == "light" else ':root[data-theme="dark"]')
    return dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", style[start : style.index("}", start)]))


def luminance(colour: str) -> float:
    """Return the relative luminance of an sRGB colour."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_gives_the_known_ratios() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_and_marks_stand_out(theme: str) -> None:
    colours = palette(theme)
    weak = {name: contrast(colours[name], colours["--card"]) for name in TEXT}
    assert {name: round(ratio, 2) for name, ratio in weak.items() if ratio < 4.5} == {}
    weak = {name: contrast(colours[name], colours["--card"]) for name in MARKS}
    assert {name: round(ratio, 2) for name, ratio in weak.items() if ratio < 3} == {}


def test_the_dark_theme_is_the_same_by_choice_and_by_system() -> None:
    style = asset("style.css")
    by_system = style[style.index("@media (prefers-color-scheme: dark)") :]
    assert dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", by_system[: by_system.index("}")])) == palette("dark")
