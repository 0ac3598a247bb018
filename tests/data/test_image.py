"""Images: read at their depth, fitted without stretching, z-scored over the foreground, cropped within bounds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuropipe.data import image
from neuropipe.errors import InputError


def encoded(picture: Image.Image, kind: str = "PNG", **settings) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_greys_keep_their_depth(dtype):
    values = (np.arange(12).reshape(3, 4) * (20 if dtype == np.uint8 else 3000)).astype(dtype)
    kind = "TIFF" if dtype in (np.int32, np.float32) else "PNG"
    found = image.read(encoded(Image.fromarray(values), kind))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, values)


def test_colours_become_luma_and_alpha_is_dropped(tmp_path: Path):
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    luma = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    (tmp_path / "slice.png").write_bytes(encoded(Image.fromarray(colours)))
    np.testing.assert_allclose(image.read(tmp_path / "slice.png"), luma, atol=0.51)
    palette = Image.fromarray(colours[..., :3]).quantize(8)
    expected = np.asarray(palette.convert("RGB")) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(image.read(encoded(palette)), expected, atol=0.51)


def test_what_is_no_single_finite_image_is_refused(tmp_path: Path):
    (tmp_path / "slice.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"slice\.png cannot be read as an image"):
        image.read(tmp_path / "slice.png")
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)))
    with pytest.raises(InputError, match="cannot be read as an image"):
        image.read(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as an image"):
        image.read(tmp_path / "absent.png")
    pages = [Image.new("L", (4, 4), grey) for grey in (0, 9)]
    with pytest.raises(InputError, match="holds 2 images"):
        image.read(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    with pytest.raises(InputError, match="not finite"):
        image.read(encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"))


@pytest.mark.parametrize("shape", [(20, 20), (20, 50), (7, 9), (200, 150)])
def test_fitting_keeps_the_aspect(shape):
    """A disc stays a disc, and what is filled up is dark."""
    row, column = np.mgrid[:60, :90]
    disc = torch.from_numpy(((row - 29.5) ** 2 + (column - 44.5) ** 2 < 25**2).astype(np.float32))
    found = image.fit(disc + 3, shape) - 3
    assert found.shape == shape and abs(float(found.min())) < 1e-5
    scale = min(shape[0] / 60, shape[1] / 90)
    height, width = ((found.amax(axis) > 0.5).sum() for axis in (1, 0))
    assert abs(height - 50 * scale) <= 1.5 and abs(width - 50 * scale) <= 1.5
    assert float(found.sum()) == pytest.approx(float(disc.sum()) * scale**2, rel=0.05)


def test_fitting_is_that_of_pillow_where_the_aspect_is_right():
    values = np.random.default_rng(0).uniform(0, 1000, (60, 90)).astype(np.float32)
    found = image.fit(torch.from_numpy(values), (20, 30))
    expected = Image.fromarray(values).resize((30, 20), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-4)


def test_zscore_over_the_foreground_does_not_see_how_wide_the_background_is():
    rng = np.random.default_rng(0)
    brain = torch.from_numpy(rng.uniform(100, 200, (2, 1, 10, 10))).float()
    narrow, wide = (torch.nn.functional.pad(brain, [n] * 4) for n in (2, 30))
    found = [image.zscore(x)[:, :, n:-n, n:-n] for x, n in ((narrow, 2), (wide, 30))]
    torch.testing.assert_close(found[0], found[1])
    expected = (brain[0] - brain[0].mean()) / brain[0].std()
    torch.testing.assert_close(found[0][0], expected)
    whole = image.zscore(wide, foreground=False)
    assert whole.mean((1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(whole.std((1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("foreground", [True, False])
def test_zscore_of_constant_and_two_valued_images(foreground):
    mask = torch.zeros(2, 1, 8, 8)
    mask[1, :, 2:5, 2:5] = 4.0
    mask[0] = 77.7
    found = image.zscore(mask, foreground)
    assert not found[0].any()
    assert torch.isfinite(found).all() and 0.5 < found[1].max() - found[1].min() < 10


def test_augmentation_without_anything_is_the_image_and_a_flip_mirrors_columns():
    x = torch.randn(3, 1, 9, 12, generator=generator())
    torch.testing.assert_close(image.augment(x, 0.0, (1, 1), generator()), x)
    torch.testing.assert_close(image.augment(x, 1.0, (1, 1), generator()), x.flip(-1))


def test_crops_lie_inside_and_have_the_area_that_was_asked_for():
    """On an image whose values are its coordinates, a crop shows where it lies."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    x = torch.stack([row, column])[:, None].repeat(100, 1, 1, 1)
    found = image.augment(x, 0.5, (0.25, 0.49), generator())
    edges = (found.amax((1, 2, 3)) - found.amin((1, 2, 3))) / 2
    assert found.abs().max() <= 1
    assert edges.min() > 0.47 and edges.max() < 0.73 and edges.max() - edges.min() > 0.1
    centres = (found.amax((1, 2, 3)) + found.amin((1, 2, 3))) / 2
    assert centres.min() < -0.2 and centres.max() > 0.2
