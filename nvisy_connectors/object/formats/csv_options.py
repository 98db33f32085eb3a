"""How a CSV file is written down, as a graph says it."""

import codecs
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from nvisy_dagster.sdk import Params

ENCODINGS = (
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    *(f"cp125{number}" for number in range(9)),
    *(f"iso8859-{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
    *("cp437", "cp850", "cp852", "cp866", "koi8-r", "koi8-u", "mac-roman", "ascii"),
    *("cp932", "shift_jis", "gb18030", "gbk", "gb2312", "big5", "cp949", "euc_kr", "euc_jp"),
)
"""Encodings in which quotes and line ends are what they are in ASCII, and the wide ones."""

_SPECIAL = "\r\n\0"


def _one_mark(value: str | None) -> str | None:
    if value is not None and (not value.isascii() or value in _SPECIAL or value.isalnum()):
        raise ValueError("it must be one character of ASCII that is no letter, digit or line end")
    return value


class CsvReadOptions(Params):
    """How CSV files are written down."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """What stands between two fields. Found in the first records by default: a comma, semicolon,
    tab or `|`."""
    quote: str | None = Field(default=None, max_length=1)
    """What stands around a field that holds delimiters or line ends. `""`: quotes mean nothing.
    Found by default: `"` or `'`."""
    escape: str | None = Field(default=None, max_length=1)
    r"""What stands before a quote that belongs to the text, such as `\`; a doubled quote does
    always. `""`: nothing does. Found by default, if `\"` is among the first records: for files that
    Spark wrote say `\`."""
    escape_bare: bool | None = None
    """Whether `escape` is one in fields without quotes too, as Python and MySQL write it. Spark and
    PostgreSQL do not: in what they wrote it is a letter there. Found by default: it is one, unless
    among the first records it stands before what needs none."""
    encoding: str | None = None
    """Such as `utf-8`, `utf-16`, `cp1250` or `iso8859-15`. Found by default: UTF-8 or UTF-16, else
    the script tells, and in Latin letters the accents: `cp1250`, `iso8859-2` (Polish, Czech,
    Hungarian, ...), `cp1254` (Turkish) or `cp1257` (Baltic) where nearly all of them are those of
    one such language, else `cp1252`. A byte order mark is heeded and left out."""
    header: bool = True
    """Whether the first record of each file names the columns. Repeated names get a number; a
    column without a name is called `column_3` or so. Without a header `columns` may name them."""
    skip_lines: int = Field(default=0, ge=0, le=1_000_000)
    """Lines at the beginning of each file that are left out, before the header."""
    null_values: list[str] = Field(default_factory=lambda: [""], max_length=100)
    """Fields that stand for nothing, such as `NULL` and `N/A`. In columns of text they do so only
    without quotes: `""` there is an empty text."""
    decimal_point: Literal[".", ","] = "."
    """What stands before the fraction of a number."""

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _is_a_mark(cls, value: str | None) -> str | None:
        return value if not value else _one_mark(value)

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        return None if value is None else encoding_name(value)

    @model_validator(mode="after")
    def _marks_differ(self) -> Self:
        marks = [mark for mark in (self.delimiter, self.quote, self.escape) if mark]
        if len(set(marks)) < len(marks):
            raise ValueError("`delimiter`, `quote` and `escape` must differ")
        if self.escape and self.quote == "":
            raise ValueError("`escape` needs a `quote`")
        if self.escape_bare is not None and self.escape == "":
            raise ValueError("`escape_bare` needs an `escape`")
        if self.encoding and self.encoding not in _BYTE_SAFE and self.quote not in _LOW_QUOTES:
            raise ValueError(f"with {self.encoding} `quote` must be a quote of ASCII")
        return self


class CsvWriteOptions(Params):
    """How CSV files are to be written down."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """What stands between two fields."""
    header: bool = True
    """Whether the first line of each file names the columns."""
    quoting: Literal["needed", "all"] = "needed"
    """Which fields stand in quotes: those that need them, or all but nulls."""
    null_value: str = Field(default="", max_length=100)
    """What is written for a null, never in quotes. An empty text is written as `""`."""
    line_end: Literal["\n", "\r\n"] = "\n"
    """What ends a line."""
    bom: bool = False
    """Whether a file begins with a byte order mark, by which Excel knows UTF-8."""
    nested: Literal["refuse", "json"] = "refuse"
    """What becomes of lists, structs and vectors: `json` writes them as JSON text."""
    neutralize_formulas: bool = True
    """Whether a text that a spreadsheet would take for a formula, because it begins with `=`, `+`,
    `-`, `@`, a tab or a carriage return, gets an apostrophe before it. Numbers never do."""

    @field_validator("delimiter")
    @classmethod
    def _is_a_mark(cls, value: str) -> str:
        if value in {'"', ".", "-", "+"}:
            raise ValueError(f"{value!r} cannot be the delimiter")
        return _one_mark(value) or value

    @field_validator("null_value")
    @classmethod
    def _null_needs_no_quotes(cls, value: str) -> str:
        if any(mark in value for mark in '"\r\n'):
            raise ValueError("a null is written without quotes: it can hold none, and no line end")
        return value

    @model_validator(mode="after")
    def _null_is_one_field(self) -> Self:
        if self.delimiter in self.null_value:
            raise ValueError("`null_value` must not hold the `delimiter`")
        return self


def encoding_name(name: str) -> str:
    """The one name of an encoding.

    Raises:
        ValueError: It is not known, or cannot be cut into records.
    """
    try:
        found = codecs.lookup(name).name
    except LookupError:
        found = ""
    if found == "utf-8-sig":
        return "utf-8"
    for known in ENCODINGS:
        if codecs.lookup(known).name == found:
            return known
    raise ValueError(f"unknown encoding {name!r}; known are {', '.join(ENCODINGS)}")


_LOW_QUOTES = ("", '"', "'", None)
_BYTE_SAFE = frozenset(ENCODINGS[:-9])
