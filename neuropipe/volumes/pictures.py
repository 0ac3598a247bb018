"""Pictures of slices: read at their own depth, and fitted into a size without stretching."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from neuropipe.errors import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def read(source: Path | bytes) -> np.ndarray:
    """Return the brightness of an image file, float32 (row, column), at its own depth.

    Colours become luma, palettes are looked up, alpha is dropped; 16- and 32-bit greys keep their values.

    Raises
    ------
    InputError
        The file is no image, holds several, or has values that are not finite.
    """
    image = decoded(source)
    deep = image.mode.startswith(("I", "F"))
    values = np.array(image if deep else image.convert("L"), dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{_name(source)} has pixels that are not finite; expected numbers everywhere.")
    return values


def decoded(source: Path | bytes):
    """Return an image file as a Pillow image; see `read` for what is refused."""
    return _opened(source, decode=True)


def check(path: Path) -> None:
    """Check that a file opens as one picture, by its header alone.

    Raises
    ------
    InputError
        It is no image, or holds several.
    """
    _opened(path, decode=False).close()


def fit(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return `picture` (row, column) at `shape`: scaled without stretching, the rest filled with its minimum.

    Scaling is linear with a filter as wide as a pixel of the result (Pillow's), so that nothing aliases.
    """
    from PIL import Image

    scale = min(new / old for new, old in zip(shape, picture.shape, strict=True))
    rows, columns = (min(new, max(1, round(scale * old))) for new, old in zip(shape, picture.shape, strict=True))
    image = Image.fromarray(np.ascontiguousarray(picture, dtype=np.float32))
    scaled = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))
    out = np.full(shape, scaled.min(), dtype=np.float32)
    top, left = (shape[0] - rows) // 2, (shape[1] - columns) // 2
    out[top : top + rows, left : left + columns] = scaled
    return out


def _opened(source: Path | bytes, decode: bool):
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        if decode:
            image.load()
        n_frames = getattr(image, "n_frames", 1)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise InputError(f"{_name(source)} cannot be read as an image: {error}. Expected PNG, JPEG or TIFF.") from error
    if n_frames > 1:
        image.close()
        raise InputError(f"{_name(source)} holds {n_frames} images; expected one slice per file.")
    return image


def _name(source: Path | bytes) -> str:
    return f"An image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
