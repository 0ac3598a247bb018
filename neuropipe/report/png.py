"""A PNG from an array of palette entries or greys: small, the same bytes every time, the standard library alone."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BITS = 4
COLOUR_BY_PALETTE, GREYSCALE = 3, 0
FILTER_UP = 2  # each byte is the difference from the one above, which smooth pictures pack well


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
    colours = bytes(part for colour in palette for part in colour[:3])
    tables = [(b"PLTE", colours), (b"tRNS", bytes(colour[3] for colour in palette))]
    return _file(width, height, BITS, COLOUR_BY_PALETTE, tables, rows)


def encode_grey(pixels: np.ndarray) -> bytes:
    """Return a PNG of 8 bits per pixel.

    Parameters
    ----------
    pixels : uint8 array (row, column)
        0 is black, 255 white.
    """
    above = np.pad(pixels, ((1, 0), (0, 0)))[:-1]
    rows = np.pad(pixels - above, ((0, 0), (1, 0)), constant_values=FILTER_UP)  # differences wrap, as they should
    return _file(pixels.shape[1], pixels.shape[0], 8, GREYSCALE, [], rows)


def data_uri(content: bytes) -> str:
    """Return a PNG as text that an image element takes."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _file(
    width: int, height: int, bits: int, colour_type: int, tables: list[tuple[bytes, bytes]], rows: np.ndarray
) -> bytes:
    """Return the file of `rows` of bytes, each behind the number of its filter."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *tables, (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(*part) for part in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
