"""The library that `jsonl_rows.c` is compiled to when the package is built (`hatch_build.py`)."""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

LIBRARY = Path(__file__).with_name("_jsonl_rows.so")

_NEWLINE = b"\n"[0]


@cache
def library() -> ctypes.CDLL | None:
    """It, unless it could not be compiled."""
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    found.nvisy_read_lines.restype = ctypes.c_int32
    found.nvisy_release.restype = None
    found.nvisy_newlines.restype = ctypes.c_int64
    return found


def newlines(data: bytes | bytearray) -> npt.NDArray[np.int64]:
    """Where the newlines are, ascending."""
    codes, compiled = np.frombuffer(data, np.uint8), library()
    if compiled is None or not len(codes):
        return np.flatnonzero(codes == _NEWLINE)
    address, size = ctypes.c_void_p(codes.ctypes.data), ctypes.c_int64(len(codes))
    places = np.empty(compiled.nvisy_newlines(address, size, None), np.int64)
    compiled.nvisy_newlines(address, size, ctypes.c_void_p(places.ctypes.data))
    return places
