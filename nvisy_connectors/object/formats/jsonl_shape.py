"""What the rows of a read look like: lines that look otherwise may be bad.

A line's marks are cheap to take from a whole block at once: of each of its fields the name and the
kind of its value (with the length of a number), how many fields there are, and how it ends. Which
marks are those of rows is learned while reading. All of it is only a suspicion: names are hashed
by their last letters, and what is within texts is not told from what is outside of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nvisy_connectors.object.formats.line_table import Indexes, LineTable

LESSONS = 128
"""Lines that are judged at once to learn from them."""
MOST_LESSONS = 1024
MOST_SUSPECTS = 16
"""Among so many lines one may be suspicious: with more of them, looks tell too little."""

_WORD = 8
_MARGIN = 32
"""Bytes at both ends of a block around which not all that is looked at may be there."""
_PIECE = 1 << 20
"""Bytes that are looked at together: what is computed of them stays in the processor's cache."""
_QUOTE, _COLON, _SPACE, _PLUS = b'": +'
_EACH = 0x0101010101010101
_ONE = np.uint64(1)
_HIGHS, _MINUS = np.uint64(0x80 * _EACH), np.uint64(0x80)
_ZEROS, _NOT_DIGITS = np.uint64(ord("0") * _EACH), np.uint64((0x80 - 10) * _EACH)
_MIXER = np.uint16(0x9E37)
_NAME_LETTERS = 4, 3, 2
"""How far before the colon the letters are by which a name is known, its last three."""

_KIND_BITS, _NAME_BITS, _COUNT_BITS, _END_BITS = 6, 12, 12, 12
_COUNTS = 1 << (_KIND_BITS + _NAME_BITS)
_ENDS = _COUNTS + (1 << _COUNT_BITS)
_MARKS = _ENDS + (1 << _END_BITS)

_NUMBER, _LIST = 2, 6
_LONG, _DECIMAL, _LISTS, _INTEGER = 7, 8, 9, 16
_GOES_ON = _INTEGER + _WORD
"""Of eight letters: all are digits."""
_DOT, _EXPONENT = 1, 2
_LONGEST = 19
"""Digits of the shortest integers that 64 bits may not hold."""

Codes = npt.NDArray[np.uint8]
Marks = npt.NDArray[np.uint32]
Words = npt.NDArray[np.uint64]


def _table(groups: dict[bytes, int]) -> Codes:
    table = np.zeros(256, np.uint8)
    for letters, code in groups.items():
        table[list(letters)] = code
    return table


_DIGITS = b"0123456789"
_LETTERS = bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("A"), ord("Z") + 1))
_KINDS = _table({b'"': 1, _DIGITS + b"-": _NUMBER, b"tf": 3, b"n": 4, b"{": 5, b"[": _LIST})
_IN_NUMBERS = _table({_DIGITS: 1})
_STOPS = _table({b".": _DOT, b"eE": _EXPONENT})
_LAST = _table({_LETTERS: 1, _DIGITS: 2, b"}": 3, b'"': 4, b"]": 5, b" \r": 6})


@dataclass(frozen=True)
class _Looks:
    """The marks of all lines of a block."""

    values: Marks
    bounds: Indexes
    """Where the values of each line begin, and after the last line where they end."""
    counts: Marks
    ends: Marks
    partial: npt.NDArray[np.bool_]
    """Lines not all of which was looked at: they must be confirmed, and teach nothing."""

    def of(self, index: int) -> Marks:
        """The marks of one line."""
        some = self.values[self.bounds[index] : self.bounds[index + 1]]
        return np.append(some, [self.counts[index], self.ends[index]])


class Shapes:
    """The marks of rows, as far as they were seen; threads may share it."""

    def __init__(self) -> None:
        self._known = np.zeros(_MARKS, np.bool_)
        self._lessons = 0

    def alike(self, lines: LineTable, wanted: Indexes, confirm: Callable[[int], bool]) -> Indexes:
        """Those of some lines that look like rows, or are found to be rows.

        Args:
            lines: The lines of a block.
            wanted: Which of them.
            confirm: Whether a line that is suspected is a row after all.
        """
        looks = _look(lines) if len(wanted) and self._lessons < MOST_LESSONS else None
        if looks is None:
            return wanted
        fits = np.ones(lines.count, np.bool_)
        waiting = np.zeros(lines.count, np.bool_)
        waiting[wanted] = True
        while True:
            suspects = np.flatnonzero(self._strange(looks) & waiting)
            few = len(suspects) <= len(wanted) // MOST_SUSPECTS
            chosen = suspects if few else suspects[:: 1 + len(suspects) // LESSONS]
            waiting[chosen] = False
            for index in chosen:
                fits[index] = confirm(int(index))
                if fits[index] and not looks.partial[index]:
                    self._known[looks.of(int(index))] = True
            if few:
                break
            self._lessons += len(chosen)
            if self._lessons >= MOST_LESSONS:
                break
        return wanted[fits[wanted]]

    def _strange(self, looks: _Looks) -> npt.NDArray[np.bool_]:
        strange = looks.partial | ~(self._known[looks.counts] & self._known[looks.ends])
        places = np.flatnonzero(~self._known[looks.values])
        strange[np.searchsorted(looks.bounds, places, side="right") - 1] = True
        return strange


def _look(lines: LineTable) -> _Looks | None:
    data = lines.block.data
    last = len(data) - _MARGIN
    parts = [
        _values(data, start, min(start + _PIECE, last)) for start in range(_MARGIN, last, _PIECE)
    ]
    if not parts:
        return None
    places, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    bounds = np.searchsorted(places, lines.starts)
    counts = np.minimum(np.diff(bounds), (1 << _COUNT_BITS) - 1)
    partial = (lines.starts[:-1] < _MARGIN) | (lines.starts[1:] > last)
    counts = _COUNTS + counts.astype(np.uint32)
    return _Looks(values, bounds, counts, _ends(data, lines), partial)


def _values(data: bytearray, start: int, end: int) -> tuple[Indexes, Marks]:
    """Where the colons after names are in a piece of the data, and the marks of these fields."""
    codes = np.frombuffer(data, np.uint8)
    named = codes[start:end] == _COLON
    named &= codes[start - 1 : end - 1] == _QUOTE
    places = np.flatnonzero(named)
    # Letters are taken one by one: that is faster than a word which begins anywhere.
    name = np.zeros(len(places), np.uint16)
    for back in _NAME_LETTERS:
        name *= _MIXER
        name += codes[start - back :].take(places)
    name *= _MIXER
    name >>= np.uint16(16 - _NAME_BITS)
    marks = name.astype(np.uint32)
    marks <<= np.uint32(_KIND_BITS)
    marks |= _kinds(data, places, start)
    places += start
    return places, marks


def _words(data: bytearray, kind: str) -> npt.NDArray[Any]:
    """The number that begins at each byte."""
    size = np.dtype(kind).itemsize
    return np.ndarray((len(data) - size + 1,), kind, data, 0, (1,))


def _kinds(data: bytearray, colons: Indexes, start: int) -> Codes:
    """What each value begins with; of a list also its first value; of a number its length.

    Args:
        data: The block.
        colons: Where the colons before the values are, from `start` on.
        start: Where the piece of the data begins.
    """
    codes = np.frombuffer(data, np.uint8)
    spaced = len(colons) > 0 and codes[start + colons[-1] + 1] == _SPACE
    first = start + (2 if spaced else 1)
    kinds = _KINDS.take(codes[first:].take(colons))
    numbers = np.flatnonzero(kinds == _NUMBER)
    kinds[numbers] = _number_kinds(data, colons.take(numbers) + first)
    lists = np.flatnonzero(kinds == _LIST)
    kinds[lists] = _LISTS + _KINDS.take(codes[first + 1 :].take(colons.take(lists)))
    return kinds


def _number_kinds(data: bytearray, places: Indexes) -> Codes:
    kinds = _eight(data, places, _HIGHS & ~_MINUS)
    # Of one with a point the rest tells little: a large exponent, which few have.
    rest = np.flatnonzero(kinds == _GOES_ON)
    for step in range(1, 3):
        if not len(rest):
            break
        found = _eight(data, places[rest] + step * _WORD, _HIGHS)
        more = found == _GOES_ON
        found[found >= _INTEGER] += step * _WORD
        kinds[rest] = found
        rest = rest[more]
    kinds[rest] = _LONG
    kinds[kinds >= _INTEGER + _LONGEST] = _LONG
    return kinds


def _eight(data: bytearray, places: Indexes, seen: np.uint64) -> Codes:
    """What the eight letters at each place tell of a number.

    Args:
        data: The block.
        places: Where they begin.
        seen: The high bits of the letters that may be something else than a digit.
    """
    words = _words(data, "<u8")[places]
    # A high bit for each letter that is no digit; after one beyond ASCII they may be wrong.
    digits = words ^ _ZEROS
    others = ((digits + _NOT_DIGITS) | digits) & seen
    length, stops = _stop(words, others)
    kinds = length + np.uint8(_INTEGER)
    kinds[stops != 0] = _DECIMAL
    dots = np.flatnonzero(stops == _DOT)
    if len(dots):
        others = others[dots]
        more, after = _stop(words[dots], others & (others - _ONE))
        length[dots] = more
        stops[dots] = after
    scaled = np.flatnonzero(stops == _EXPONENT)
    kinds[scaled] = _exponents(data, places[scaled] + length[scaled])
    return kinds


def _stop(words: Words, others: Words) -> tuple[Codes, Codes]:
    """How many letters come before the first of the others, and the kind of that."""
    length = cast("Codes", np.bitwise_count(~others & (others - _ONE)) >> 3)
    return length, _STOPS.take((words >> (length << 3)).astype(np.uint8))


def _exponents(data: bytearray, places: Indexes) -> Codes:
    """Of exponents that begin at the places: `_LONG` if they have three digits and no minus."""
    codes = np.frombuffer(data, np.uint8)
    last = len(codes) - 1
    places = np.minimum(places + 1, last)
    places = np.minimum(places + (codes[places] == _PLUS), last)
    digits = [_IN_NUMBERS[codes[np.minimum(places + step, last)]] for step in range(3)]
    return np.where(np.logical_and.reduce(digits), _LONG, _DECIMAL).astype(np.uint8)


def _ends(data: bytearray, lines: LineTable) -> Marks:
    """The kinds of the last letters of each line."""
    codes = np.frombuffer(data, np.uint8)
    found = np.zeros(lines.count, np.uint32)
    ends = lines.starts[1:] - (codes[lines.starts[1:] - 1] == b"\n"[0])
    for back in range(1, 1 + _END_BITS // 3):
        found <<= np.uint32(3)
        found |= _LAST[codes[np.maximum(ends - back, 0)]]
    found += np.uint32(_ENDS)
    return found
