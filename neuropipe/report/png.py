"""A PNG from an array of palette entries: small, the same bytes every time, and nothing but the standard library."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BITS = 4
COLOUR_BY_PALETTE = 3


def encode(levels: np.ndarray, palette: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Return a PNG of 4 bits per pixel.

    Parameters
    ----------
    levels : uint8 array (row, column)
        Entries of the palette.
    palette : sequence of (red, green, blue, alpha)
        At most 16 colours, 0 to 255.
    """
    height, width = levels.shape
    even = np.pad(levels, ((0, 0), (0, width % 2)))
    packed = (even[:, 0::2] << BITS) | even[:, 1::2]  # two pixels a byte, the left one in the high bits
    rows = np.pad(packed, ((0, 0), (1, 0)))  # each row starts with its filter: none
    header = struct.pack(">IIBBBBB", width, height, BITS, COLOUR_BY_PALETTE, 0, 0, 0)
    colours = bytes(part for colour in palette for part in colour[:3])
    parts = [(b"IHDR", header), (b"PLTE", colours), (b"tRNS", bytes(colour[3] for colour in palette))]
    parts += [(b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(*part) for part in parts)


def data_uri(content: bytes) -> str:
    """Return a PNG as text that an image element takes."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
