"""Pickles of numpy arrays, read without running them.

A pickle is a small program: it names functions of Python's modules and calls them. Files of others
(the ``.pyd`` members of learning-from-brains) hold nothing but arrays, numbers and text, and nothing
else is admitted here. Two locks stand one behind the other:

- before anything runs, the program's instructions are listed; those that arrays and plain containers
  do not need (objects of classes, registered extensions, references to the outside) are refused;
- the few names that arrays need do not lead to numpy's functions but to stand-ins of this module,
  which check what they are given and build the array themselves, so that a crafted state never
  reaches numpy's own code. Every other name is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from neuropipe.errors import InputError

INSTRUCTIONS = frozenset(
    """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
    FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT
    SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL
    STACK_GLOBAL REDUCE BUILD""".split()  # noqa: SIM905 - 55 quoted words would hide what they are
)
NUMBER_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU]\d{1,4}")
NUMPY_CORES = ("numpy.core", "numpy._core")  # numpy 1 and numpy 2
ADMITTED = "only numpy arrays, numbers, text and plain containers are"


def loads(content: bytes, what: str) -> Any:
    """Return the arrays, numbers, text and plain containers of a pickle.

    Parameters
    ----------
    content : bytes
        The pickle, of any protocol, as written with numpy 1 or 2.
    what : str
        What it is, for messages.

    Raises
    ------
    InputError
        The pickle is damaged, or asks for anything else.
    """
    try:
        for instruction, argument, _ in pickletools.genops(content):
            if instruction.name not in INSTRUCTIONS:
                raise _Refused(f"uses the instruction {instruction.name}")
            if "PUT" in instruction.name and argument > len(content):  # memory is taken for all places before it
                raise _Refused(f"remembers something at place {argument}")
        return _plain(_Unpickler(io.BytesIO(content), encoding="latin1").load(), {})
    except _Refused as reason:
        raise InputError(
            f"{what} is not read: its pickle {reason}; {ADMITTED} admitted. Ask for the data as .npy."
        ) from (reason)
    except Exception as error:  # a crafted or damaged pickle may raise anything at all
        words = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what} is not a whole pickle of numpy arrays: {words}; copy or make it again.") from error


class _Refused(Exception):
    """Part of a sentence: what the pickle does that is not admitted."""


class _StandIn:
    """Something a pickle may call; its state cannot be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("changes a function")


class _Type:
    """A numpy type in the making."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not NUMBER_TYPE.fullmatch(name):
            raise _Refused(f"has an array of type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Sequence[Any]) -> None:
        """Take the byte order; types with fields or sub-arrays are refused."""
        _, order, *structure = state[:5]
        if order not in ("<", ">", "=", "|") or structure != [None, None, None]:
            raise _Refused("has an array of a structured type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """A numpy array in the making."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray | None = None) -> None:
        self.values = values

    def __setstate__(self, state: Sequence[Any]) -> None:
        """Take version, shape, type, whether columns come first, and values."""
        _, shape, kind, is_fortran, content = state
        self.values = _array(content, kind, shape, "F" if is_fortran else "C")


def _array(content: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    if isinstance(content, str):  # written by Python 2
        content = content.encode("latin1")
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
        raise _Refused("has an array of Python objects")
    return np.frombuffer(bytes(content), kind.dtype).reshape(shape, order=order)


def _scalar(kind: Any, content: Any) -> np.generic:
    return _array(content, kind, (), "C")[()]


def _from_buffer(content: Any, kind: Any, shape: Any, order: str, axis_order: Any = None) -> _Array:
    values = _array(content, kind, shape, "C" if order == "K" else order)
    return _Array(values if order != "K" or axis_order is None else values.transpose(axis_order))


def _encode(text: str, encoding: str = "") -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise _Refused(f"encodes text as {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        array_class = _StandIn(lambda *_: _Array())  # named by _reconstruct, and not called itself

        def reconstruct(wanted: Any, *_: Any) -> _Array:
            if wanted is not array_class:
                raise _Refused("builds something that is no plain array")
            return _Array()

        self._names = {
            "numpy.ndarray": array_class,
            "numpy.dtype": _StandIn(_Type),
            "_codecs.encode": _StandIn(_encode),  # how protocols 0 to 2 write bytes
        }
        for core in NUMPY_CORES:
            self._names |= {
                f"{core}.multiarray._reconstruct": _StandIn(reconstruct),
                f"{core}.multiarray.scalar": _StandIn(_scalar),
                f"{core}.numeric._frombuffer": _StandIn(_from_buffer),
            }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[f"{module}.{name}"]
        except KeyError:
            raise _Refused(f"names {module}.{name}, which could run code") from None


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Return `value` with its arrays finished; `seen` keeps what occurs twice from being walked twice."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Array):
        if value.values is None:
            raise _Refused("has an array without values")
        found: Any = value.values
    elif isinstance(value, dict):
        found = {_plain(key, seen): _plain(entry, seen) for key, entry in value.items()}
    elif isinstance(value, list | tuple | set | frozenset):
        found = type(value)(_plain(entry, seen) for entry in value)
    elif value is None or isinstance(value, bool | int | float | str | bytes | bytearray | np.generic):
        return value
    else:
        raise _Refused("holds something that is no data")
    seen[id(value)] = found
    return found
