"""Where the marks of CSV files are: quotes, escapes, delimiters and line ends."""

import re

import numpy as np
import numpy.typing as npt

from nvisy_connectors.object.formats.csv_dialect import Dialect

Indexes = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_LF, _CR = 10, 13
_PIECE = 1 << 20


def find(codes: Codes, wanted: int) -> Indexes:
    """Where a unit is, piece by piece so that what is compared stays in the cache."""
    places = [
        np.flatnonzero(codes[start : start + _PIECE] == wanted) + start
        for start in range(0, len(codes), _PIECE)
    ]
    return np.concatenate(places) if places else np.zeros(0, np.int64)


def runs(places: Indexes) -> tuple[Indexes, Indexes]:
    """Where each run of places that follow each other begins and ends, the end exclusive."""
    if not len(places):
        return places, places
    begins = np.flatnonzero(np.diff(places, prepend=places[0] - 2) != 1)
    return places[begins], places[np.append(begins[1:], len(places)) - 1] + 1


def unescaped(codes: Codes, places: Indexes, escape: str | None) -> Indexes:
    """Those of some places before which no escape counts: one that is itself escaped does not."""
    if not escape or not len(places):
        return places
    begins, ends = runs(find(codes, ord(escape)))
    if not len(begins):
        return places
    run = np.minimum(np.searchsorted(ends, places), len(ends) - 1)
    return places[(ends[run] != places) | ((ends[run] - begins[run]) % 2 == 0)]


def bare_escapes(data: bytes, dialect: Dialect) -> Indexes:
    """Where escapes are outside of quotes, in records in UTF-8."""
    codes = np.frombuffer(data, np.uint8)
    escapes = find(codes, ord(dialect.escape or "\0"))
    if not dialect.quote or not len(escapes):
        return escapes
    quotes = unescaped(codes, find(codes, ord(dialect.quote)), dialect.escape)
    if _in_pairs(codes, quotes, dialect):
        return escapes[np.searchsorted(quotes, escapes) % 2 == 0]
    bare = [np.arange(*found.span(1)) for found in _fields(dialect).finditer(data) if found[1]]
    return np.concatenate([np.zeros(0, np.int64), *bare])


def _in_pairs(codes: Codes, quotes: Indexes, dialect: Dialect) -> bool:
    """Whether every other quote opens a field, or a doubled quote, and the next one closes it."""
    if len(quotes) % 2:
        return False
    is_seam = np.zeros(256, np.bool_)
    is_seam[[ord(dialect.delimiter), ord(dialect.quote or "\0"), _LF, _CR]] = True
    before = is_seam[codes[np.maximum(quotes[::2] - 1, 0)]] | (quotes[::2] == 0)
    after = is_seam[codes[np.minimum(quotes[1::2] + 1, len(codes) - 1)]]
    return bool(before.all() and (after | (quotes[1::2] == len(codes) - 1)).all())


def _fields(dialect: Dialect) -> re.Pattern[bytes]:
    """Matches a whole field in quotes, or a run of escapes outside of one, as its group."""
    delimiter, quote, escape = (
        re.escape((mark or "").encode())
        for mark in (dialect.delimiter, dialect.quote, dialect.escape)
    )
    return re.compile(
        rb"(?:\A|(?<=[D\r\n]))Q(?:[^QE]++|E.|QQ)*+|((?:E)++)"
        .replace(b"Q", quote)
        .replace(b"D", delimiter)
        .replace(b"E", escape),
        re.DOTALL,
    )
