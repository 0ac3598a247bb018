"""Rollout maps in the report: what was averaged is what is drawn."""

from __future__ import annotations

import base64
import re
import zlib

import numpy as np

from neuropipe.evaluate.rollouts import Rollouts
from neuropipe.report import rollouts


def pictures(drawing: str) -> list[np.ndarray]:
    """Return the values behind every picture of a drawing, filters undone, as uint8 rows of bytes."""
    found = []
    for content in re.findall(r"data:image/png;base64,([^\"]+)", drawing):
        png = base64.b64decode(content)
        width, height, bits = (int.from_bytes(png[i : i + n], "big") for i, n in ((16, 4), (20, 4), (24, 1)))
        start = png.index(b"IDAT")
        size = int.from_bytes(png[start - 4 : start], "big")
        rows = np.frombuffer(zlib.decompress(png[start + 4 : start + 4 + size]), np.uint8).reshape(height, -1)
        values = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8) if rows[0, 0] == 2 else rows[:, 1:]
        if bits == 4:
            values = np.stack([values >> 4, values & 15], axis=2).reshape(height, -1)[:, :width]
        found.append(values)
    return found


def test_groups_are_drawn_on_one_scale_over_the_mean_slices(tmp_path):
    slices = np.linspace(0, 1, 2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    maps = np.zeros((2, 2, 2, 3), np.float32)
    maps[0, 0, 0, 1], maps[1, 1, 1, 2] = 1.0, 0.5
    folder = tmp_path / "finetune"
    Rollouts(["patient (3 scans)", "not patient (4 scans)"], slices, maps).write(folder / "vit_seed-0" / "rollouts.npz")
    (read,) = rollouts.read(folder)
    assert (read.system, read.names) == ("vit, seed 0", ["patient (3 scans)", "not patient (4 scans)"])
    drawing = str(rollouts.draw(read))
    assert drawing.index("patient (3 scans)") < drawing.index("not patient (4 scans)")
    drawn = pictures(drawing)
    assert len(drawn) == 8  # two groups, two slices, a slice and a map each
    greys, levels = drawn[0::2], np.array([d.tolist() for d in drawn[1::2]])
    assert [g.shape for g in greys] == [(4, 6)] * 4 and (np.diff(greys[0].astype(int).ravel()) >= 0).all()
    assert greys[0][0, 0] == 0 and greys[1][-1, -1] == 255
    assert levels[0, 0, 1] == 15 and levels[3, 1, 2] in (7, 8) and levels.sum() == levels[0, 0, 1] + levels[3, 1, 2]


def test_a_task_without_maps_has_none(tmp_path):
    assert rollouts.read(tmp_path / "finetune") == []
