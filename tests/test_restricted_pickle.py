"""Pickles of others: arrays come out as numpy wrote them, and whatever could run code does not run."""

from __future__ import annotations

import copyreg
import functools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuropipe.errors import InputError
from neuropipe.restricted_pickle import loads

RNG = np.random.default_rng(0)
BASE = RNG.normal(size=(4, 3, 2)).astype(np.float32)
ARRAYS = {
    "C": BASE,
    "Fortran": np.asfortranarray(BASE),
    "transposed": BASE.transpose(1, 0, 2),
    "strided": BASE[::2, :, ::-1],
    "float16": BASE.astype(np.float16),
    "big endian": BASE.astype(">f8"),
    "integers": np.arange(5, dtype=np.uint8),
    "bool": BASE > 0,
    "text": np.array(["fear", "neut"]),
    "bytes": np.array([b"a", b"bc"]),
    "no axis": np.array(2.5),
    "empty": np.empty((0, 3)),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_out_as_they_went_in(name: str, protocol: int) -> None:
    array = ARRAYS[name]
    if array.size == 0 and protocol < 3:
        pytest.skip("empty bytes are a call of builtins.bytes before protocol 3")
    found = loads(pickle.dumps(array, protocol), "x.pyd")
    assert type(found) is np.ndarray and found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_text_and_containers(protocol: int) -> None:
    shared = np.arange(3.0)
    value = {
        "t_r": np.float32(0.72),
        "label": np.int32(3),
        "names": ["Ä", ("b", None)],
        "n": 5,
        "twice": [shared, shared],
    }
    found = loads(pickle.dumps(value, protocol), "x.pyd")
    assert found["t_r"] == np.float32(0.72) and found["t_r"].dtype == np.float32 and found["label"] == 3
    assert found["names"] == ["Ä", ("b", None)] and found["n"] == 5
    np.testing.assert_array_equal(found["twice"], [shared, shared])


def test_both_names_of_numpys_core() -> None:
    new = pickle.dumps(BASE, 2)
    assert b"numpy._core.multiarray" in new
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(loads(old, "x.pyd"), BASE)


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def evil(tmp_path: Path) -> dict[str, bytes]:
    """Return attacks by name; each that runs leaves a file in `tmp_path`."""
    command = f"touch {tmp_path}/ran"
    tree = f"cos\nsystem\n(S'{command}'\ntR."
    calls = {
        "os.system": Calls(os.system, command),
        "eval": Calls(eval, f"__import__('os').system('{command}')"),
        "numpy.load": Calls(np.load, str(tmp_path / "evil.npy"), None, True),
        "partial": Calls(functools.partial, os.system, command),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "import": Calls(__import__, "os"),
        "copyreg": Calls(copyreg._reconstructor, Path, object, None),
        "inside an array": np.array([Calls(os.system, command)], dtype=object),
        "inside a list": [BASE, {"x": Calls(os.system, command)}],
    }
    found = {
        f"{name} {protocol}": pickle.dumps(call, protocol) for name, call in calls.items() for protocol in (0, 2, 4)
    }
    numpy_modules = "numpy.f2py.capi_maps", "numpy._core.multiarray.os", "numpy.testing._private.utils"
    found |= {m: b"\x80\x04" + short(m) + short("eval") + b"\x93" + short("1") + b"\x85R." for m in numpy_modules}
    return found | {
        "text protocol": tree.encode(),
        "dotted name": b"\x80\x04" + short("numpy") + short("ndarray.__reduce__.__globals__") + b"\x93.",
        "long name": b"\x80\x04X\2\0\0\0osX\6\0\0\0system\x93" + short(command) + b"\x85R.",
        "name from the memo": b"\x80\x04\x8c\2os\x94\x8c\6system\x94h\0h\1\x93" + short(command) + b"\x85R.",
        "INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "NEWOBJ": b"\x80\x04" + short("numpy") + short("ndarray") + b"\x93)\x81.",
        "persistent id": b"\x80\x04" + short("x") + b"Q.",
        "buffer from outside": b"\x80\x05\x97.",
    }


def test_attacks_are_refused_before_they_run(tmp_path: Path) -> None:
    np.save(
        tmp_path / "evil.npy", np.array([Calls(os.system, f"touch {tmp_path}/ran")], dtype=object), allow_pickle=True
    )
    attacks = evil(tmp_path)
    assert len(attacks) > 30
    for name, content in attacks.items():
        with pytest.raises(InputError, match=r"^x\.pyd is not (read|a whole pickle)") as refused:
            loads(content, "x.pyd")
        assert "\n" not in str(refused.value), name
        assert not (tmp_path / "ran").exists(), name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(Calls(os.system, "true"), 4), f"names {os.system.__module__}.system, which could run code"),
        (pickle.dumps(Calls(eval, "1"), 2), "names __builtin__.eval, which could run code"),
        (pickle.dumps(np.array([{}], dtype=object)), "has an array of type 'O8'"),
        (pickle.dumps(np.zeros(2, dtype="f4,i2")), "has an array of type 'V6'"),
        (pickle.dumps(np.dtype("f4")), "holds something that is no data"),
        (pickle.dumps(np.ma.zeros(2)), "numpy.ma"),
        (b"(lp0\n" + b"cnumpy\nndarray\n" + b"}b.", "changes a function"),
    ],
)
def test_the_line_says_what_was_refused(content: bytes, words: str) -> None:
    with pytest.raises(InputError, match="Ask for the data as") as refused:
        loads(content, "x.pyd")
    assert words in str(refused.value)


def test_registered_extensions_are_refused_even_when_cached(tmp_path: Path) -> None:
    """Python keeps objects of extension codes and hands them out without asking for their names again."""
    copyreg.add_extension(os.system.__module__, "system", 0x7F)
    try:
        attack = (
            b"\x80\x02\x82\x7f"
            + b"U"
            + bytes([len(f"touch {tmp_path}/ran")])
            + f"touch {tmp_path}/ran".encode()
            + b"\x85R."
        )
        pickle.loads(attack.replace(b"\x85R.", b"0."))  # fills the cache
        with pytest.raises(InputError, match="uses the instruction EXT1"):
            loads(attack, "x.pyd")
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 0x7F)
    assert not (tmp_path / "ran").exists()


def test_states_that_would_hurt_numpy_are_refused() -> None:
    whole = pickle.dumps(np.arange(6, dtype=np.float32), 4)
    too_long = whole.replace(b"K\x06\x85", b"K\x60\x85")  # 96 values, of which 6 are there
    assert too_long != whole
    with pytest.raises(InputError, match="cannot reshape array of size 6"):
        loads(too_long, "x.pyd")
    with pytest.raises(InputError, match="of type 'O4'"):
        loads(whole.replace(b"f4", b"O4"), "x.pyd")


def test_a_small_pickle_cannot_ask_for_much_memory() -> None:
    with pytest.raises(InputError, match="remembers something at place 2130706432"):
        loads(b"\x80\x02]r\0\0\0\x7f.", "x.pyd")


def test_damage_never_does_more_than_raise() -> None:
    """2000 pickles with bytes changed, taken out or put in: data, or one error of ours."""
    rng = np.random.default_rng(0)
    whole = [pickle.dumps({"a": [BASE, "x"], "b": np.float32(1)}, protocol) for protocol in range(6)]
    outcomes = set()
    for i in range(2000):
        content = bytearray(whole[i % len(whole)])
        for at in rng.integers(len(content) - 5, size=3):
            content[at : at + rng.integers(0, 2)] = rng.bytes(rng.integers(0, 2))
        try:
            loads(bytes(content), "x.pyd")
            outcomes.add("data")
        except InputError:
            outcomes.add("error")
    assert outcomes == {"data", "error"}


def test_damaged_pickles_are_one_line() -> None:
    whole = pickle.dumps(BASE)
    for content in (b"", b"\x80", whole[:-1], whole[:40], b"no pickle", b"]q\x00h\x00a."):
        with pytest.raises(InputError, match=r"x\.pyd is not a whole pickle of numpy arrays") as refused:
            loads(content, "x.pyd")
        assert "\n" not in str(refused.value)
