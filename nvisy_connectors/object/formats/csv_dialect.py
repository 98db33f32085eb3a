"""What a CSV file is made of: given by the params, or found in its first records."""

import codecs
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from nvisy_connectors.object.formats.csv_latin import USUAL, latin_encoding
from nvisy_connectors.object.formats.csv_options import CsvReadOptions
from nvisy_connectors.object.formats.line_blocks import BOM

DELIMITERS = (",", ";", "\t", "|")
DIALECT_BYTES = 64 << 10
"""What delimiters and quotes are found in."""

_WIDE = {"utf-16-le": "<u2", "utf-16-be": ">u2"}
_BOMS = {BOM: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_SCRIPTS = {
    "cp1252": "cp1252",
    "cp1251": "cp1251",
    "cp1253": "cp1253",
    "cp932": "cp932",
    "gb18030": "gb18030",
    "big5": "big5",
    "cp949": "cp949",
    "koi8_r": "koi8-r",
    "cp866": "cp866",
    "cp1255": "cp1255",
    "cp1256": "cp1256",
    "euc_jp": "euc_jp",
}
"""What the detector may choose from, by its names; those of Latin letters it cannot tell apart."""
_SINGLE = re.compile(rb"(?:^|[,;\t|])'(?:[^']|'')*+'(?=[,;\t|\r\n]|$)", re.MULTILINE)
_DOUBLE = re.compile(rb'(?:^|[,;\t|])"', re.MULTILINE)
_WORD = re.compile(rb"[A-Za-z\x80-\xff]{3,}")
_ASCII = 0x80
_FEW_LETTERS = 24
_RECORDS = 500
"""Records that are counted."""


@dataclass(frozen=True)
class Dialect:
    """The marks between fields and records, and how they are encoded."""

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    encoding: str = "utf-8"
    escape_bare: bool = True
    """Whether the escape is one outside of quotes, too."""

    @property
    def width(self) -> int:
        """Bytes in which a mark is written."""
        return 2 if self.encoding in _WIDE else 1

    def codes(self, data: bytes) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """The units of some text, without half of one at its end."""
        whole = len(data) // self.width
        return np.frombuffer(data, _WIDE.get(self.encoding, np.uint8), whole)


def byte_order_mark(data: bytes) -> tuple[int, str | None]:
    """Length of the mark at the beginning of a file, and the encoding that it tells."""
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            return len(mark), encoding
    return 0, None


def find_encoding(data: bytes, *, whole: bool) -> str:
    """The encoding of the beginning of a file.

    Args:
        data: The beginning.
        whole: Whether it is all of the file.
    """
    if told := byte_order_mark(data)[1]:
        return told
    codes = np.frombuffer(data, np.uint8, len(data) // 2 * 2)
    even, odd = (np.count_nonzero(codes[start::2] == 0) for start in (0, 1))
    if max(even, odd) > len(codes) // 5 and min(even, odd) * 8 < max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError:
        return _legacy(data if whole else data.rpartition(b"\n")[0] or data)
    return "utf-8"


def is_surely_utf8(data: bytes, *, whole: bool) -> bool:
    """Whether the beginning of a file has letters beyond ASCII, in what can hardly be another.

    Args:
        data: The beginning.
        whole: Whether it is all of the file.
    """
    if data.isascii():
        return False
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError:
        return False
    return not text.isascii()  # the first byte of a letter alone may be a letter of another


def _legacy(data: bytes) -> str:
    lines = [line for line in re.split(rb"[\r\n]+", data) if not line.isascii()]
    foreign = [line for line in lines if not _is_utf8(line)]
    if len(foreign) * 2 <= len(lines):
        return "utf-8"  # some lines of it are broken
    # Words of Latin letters have few accents; where most letters are foreign, so is the script.
    words = [word for word in _WORD.findall(b"\n".join(foreign)) if not word.isascii()]
    letters = sum(map(len, words))
    accents = sum(byte >= _ASCII for word in words for byte in word)
    if letters < _FEW_LETTERS or accents * 2 < letters:
        return latin_encoding(b"".join(words))
    from charset_normalizer import from_bytes

    best = from_bytes(b"\n".join(foreign[:2000]), cp_isolation=[*_SCRIPTS]).best()
    return _SCRIPTS.get(best.encoding, USUAL) if best is not None else USUAL


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def settle(data: bytes, options: CsvReadOptions, *, whole: bool) -> Dialect:
    """What the beginning of a file is made of, as far as the options do not tell.

    Args:
        data: The beginning, without a byte order mark and lines that are left out.
        options: What is known.
        whole: Whether it is all of the file.
    """
    encoding = options.encoding or find_encoding(data, whole=whole)
    if encoding == "utf-16":
        encoding = byte_order_mark(data)[1] or "utf-16-le"
    data = data[byte_order_mark(data)[0] :]
    whole = whole and len(data) <= DIALECT_BYTES
    data = data[:DIALECT_BYTES]
    narrow = data.decode(encoding, "replace").encode("ascii", "replace")
    quotes = [_find_quote(narrow)] if options.quote is None else [options.quote]
    escapes = [options.escape or ""]
    if options.escape is None and quotes[0] and f"\\{quotes[0]}".encode() in narrow:
        escapes = ["", "\\"]
    delimiters = [options.delimiter] if options.delimiter else DELIMITERS
    choices = [
        Dialect(delimiter, quote or None, escape or None, encoding, bare)
        for quote, escape, delimiter in product(quotes, escapes, delimiters)
        for bare in _bare(narrow, delimiter, quote, escape, options)
    ]
    if len(choices) == 1:
        return choices[0]
    data = _after_lines(data, options.skip_lines, choices[0])
    # Of equals, the first: `max` keeps it.
    return max(choices, key=lambda choice: _score(data, choice, options, whole=whole))


def _bare(
    narrow: bytes, delimiter: str, quote: str, escape: str, options: CsvReadOptions
) -> Sequence[bool]:
    """Whether the escape may be one outside of quotes, the likelier first."""
    if not escape or options.escape_bare is not None:
        return (options.escape_bare is not False,)
    from nvisy_connectors.object.formats.csv_marks import bare_escapes, runs

    # Who escapes everywhere doubles it wherever nothing else needs it.
    needed = f"{delimiter}{quote}{escape}\r\n".encode()
    begins, ends = runs(bare_escapes(narrow, Dialect(delimiter, quote or None, escape)))
    odd = ends[(ends - begins) % 2 == 1].tolist()
    needless = any(narrow[end] not in needed for end in odd if end < len(narrow))
    return (not needless, needless)


def _find_quote(narrow: bytes) -> str:
    singles = len(_SINGLE.findall(narrow)) if b"'" in narrow else 0
    if singles * 4 <= narrow.count(b"\n"):
        return '"'
    return "'" if singles > len(_DOUBLE.findall(narrow)) else '"'


def _after_lines(data: bytes, count: int, dialect: Dialect) -> bytes:
    from nvisy_connectors.object.formats.csv_scan import Text

    if not count:
        return data
    bare = Dialect(dialect.delimiter, None, None, dialect.encoding)
    ends = Text(bare.codes(data), bare, last=True, fields=None).line_ends
    return data[int(ends[count - 1]) * dialect.width :] if len(ends) >= count else b""


def _score(
    data: bytes, dialect: Dialect, options: CsvReadOptions, *, whole: bool
) -> tuple[bool, bool, float, int]:
    """How well the records of a sample fit together."""
    from nvisy_connectors.object.formats.csv_scan import Text

    text = Text(dialect.codes(data), dialect, last=whole, fields=None)
    cut = text.records()
    ends = cut.all()[:_RECORDS]
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
    found = [
        None if index in cut.bad else fields
        for index, fields in enumerate(text.fields_of(ends))
        if dialect.codes(data)[starts[index]] not in {10, 13}  # a blank line
    ]
    counted = Counter(fields for fields in found if fields is not None)
    if not counted:
        return False, False, 0.0, 0
    usual, times = counted.most_common(1)[0]
    begins = not options.header or found[0] == usual
    return usual > 1, begins, round(times / len(found), 2), usual
