"""Where fine-tuned networks for slices look: mean slices with the mean attention rollout of each group over them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from neuropipe.report import png
from neuropipe.report.stacks import window
from neuropipe.report.svg import figure, text

WIDTH, GAP, TITLE = 560, 6, 18  # pixels
N_COLOURS = 16
# From nothing to yellow: strong attention hides little of the slice below it.
HEAT = [(255, int(40 + 13 * level), 0, int(170 * level / (N_COLOURS - 1))) for level in range(N_COLOURS)]


@dataclass(frozen=True, eq=False)
class Maps:
    """What one fine-tuned network's ``rollouts.npz`` holds; see `neuropipe.evaluate.rollouts`."""

    system: str
    names: list[str]
    slices: np.ndarray
    maps: np.ndarray


def read(folder: Path) -> list[Maps]:
    """Return the maps of a task's fine-tuned networks, `folder` being ``tasks/<task>/finetune``."""
    found = []
    for path in sorted(folder.glob("*/rollouts.npz")):
        with np.load(path, allow_pickle=False) as stored:
            found.append(
                Maps(
                    path.parent.name.replace("_seed-", ", seed "),
                    stored["names"].tolist(),
                    stored["slices"],
                    stored["maps"],
                )
            )
    return found


def draw(maps: Maps) -> Markup:
    """Return a drawing: one row of slices for each group, all on one scale."""
    n, rows, columns = maps.slices.shape
    edge = (WIDTH - (n - 1) * GAP) / n
    height = edge * rows / columns
    low, high = window(maps.slices)
    greys = np.rint((np.clip(maps.slices, low, high) - low) / ((high - low) or 1) * 255).astype(np.uint8)
    bottom, top = float(maps.maps.min()), float(maps.maps.max())
    levels = np.rint((maps.maps - bottom) / ((top - bottom) or 1) * (N_COLOURS - 1)).astype(np.uint8)
    parts = []
    for group, name in enumerate(maps.names):
        y = group * (TITLE + height + GAP)
        parts.append(text(0, y + TITLE - 5, name, "label", "start"))
        for k in range(n):
            place = (k * (edge + GAP), y + TITLE, edge, height)
            parts.append(_image(png.encode_grey(greys[k]), *place))
            parts.append(_image(png.encode(levels[group, k], HEAT), *place))
    total = len(maps.names) * (TITLE + height + GAP)
    return figure(WIDTH, total, parts, f"Attention rollout of {maps.system}: {' and '.join(maps.names)}")


def _image(content: bytes, x: float, y: float, width: float, height: float) -> Markup:
    return Markup(
        '<image href="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none"/>'
    ).format(png.data_uri(content), x, y, width, height)
