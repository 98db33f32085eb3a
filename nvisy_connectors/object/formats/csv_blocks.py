"""Cutting the bytes of CSV files into blocks of whole records."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nvisy_connectors.object.folder import ObjectInfo, Span
from nvisy_connectors.object.formats.csv_dialect import Dialect, byte_order_mark
from nvisy_connectors.object.formats.csv_options import CsvReadOptions
from nvisy_connectors.object.formats.csv_scan import MAX_RECORD_UNITS, TOO_LONG, Indexes, Text

_LF, _CR = 10, 13
_HEADER_BYTES = 64 << 10
"""What the header is looked for in, at first."""


@dataclass(frozen=True)
class Layout:
    """How one file is written down."""

    dialect: Dialect
    names: tuple[str, ...]
    """Its columns, in its order, no name twice."""

    def to_json(self) -> dict[str, object]:
        """What JSON keeps of it."""
        marks = self.dialect
        return {
            "delimiter": marks.delimiter,
            "quote": marks.quote,
            "escape": marks.escape,
            "encoding": marks.encoding,
            "columns": list(self.names),
        }

    @classmethod
    def from_json(cls, told: dict[str, object]) -> "Layout":
        """What JSON kept."""
        marks = {name: value for name, value in told.items() if name != "columns"}
        return cls(Dialect(**marks), tuple(told["columns"]))  # type: ignore[arg-type]

    @cached_property
    def text(self) -> str:
        """The same as text."""
        return json.dumps(self.to_json())


@dataclass(frozen=True)
class CsvBlock:
    """Whole records of one object."""

    info: ObjectInfo
    layout: Layout
    start: int
    """Byte at which the first record begins."""
    line: int
    """Number of the line at which it does."""
    data: bytes
    """The records as they are in the object; empty for one that was too long."""
    ends: Indexes
    """Byte after each record, within the data; all are records but blank lines."""
    line_ends: Indexes
    """Byte after each line."""
    bad: dict[int, str] = field(default_factory=dict[int, str])
    """Records that are none, with why."""
    size: int = 0
    """Bytes of the object that it covers."""
    refused: str | None = None
    """Why nothing of the object can be read."""

    @property
    def end(self) -> int:
        """Byte after the last record."""
        return self.start + self.size

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.line_ends) or 1

    @property
    def is_last(self) -> bool:
        """Whether the object ends here."""
        return self.refused is not None or self.end >= self.info.size

    @cached_property
    def starts(self) -> Indexes:
        """Where each record begins."""
        return np.concatenate([np.zeros(1, np.int64), self.ends])[: len(self.ends)]

    @cached_property
    def filled(self) -> Indexes:
        """The records that are no blank lines."""
        if not self.data:
            return np.arange(len(self.ends))
        codes = self.layout.dialect.codes(self.data)
        first = codes[np.minimum(self.starts // self.layout.dialect.width, len(codes) - 1)]
        return np.flatnonzero((first != _LF) & (first != _CR))

    @property
    def count(self) -> int:
        """How many records there are."""
        return 1 if self.refused is not None else len(self.filled)

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The line at which each record begins, blank ones too."""
        if len(self.ends) == len(self.line_ends):
            return np.arange(self.line, self.line + len(self.ends), dtype=np.int64)
        return self.line + np.searchsorted(self.line_ends, self.starts, "right")

    def record(self, index: int) -> bytes:
        """One record, without its line end."""
        data = self.data[int(self.starts[index]) : int(self.ends[index])]
        if self.layout.dialect.width == 1:
            return data.removesuffix(b"\n").removesuffix(b"\r")
        for mark in "\n\r":
            data = data.removesuffix(mark.encode(self.layout.dialect.encoding))
        return data


class HeaderError(ValueError):
    """The columns of a file cannot be told, or are not those of the others."""


class LongRecordError(ValueError):
    """A record is longer than what can be put together."""

    def __init__(self, info: ObjectInfo, line: int) -> None:
        super().__init__(f"line {line}: {TOO_LONG}")
        self.info = info


class RecordCutter:
    """Cuts consecutive spans after their last whole record; the rest begins the next block.

    Args:
        dialect: Of all files; a byte order mark tells the encoding of its own.
        options: What the source was told.
        wanted: Columns that each file needs to have, all of it if there is no header; `None` for
            those of the first file, and no others.
        resumed: Layout of the file in which a read is resumed, and the number of the line.
        rejects: Whether what is wrong becomes a bad record; else it is an error.
    """

    def __init__(
        self,
        dialect: Dialect,
        options: CsvReadOptions,
        *,
        wanted: Sequence[str] | None,
        resumed: tuple[Layout, int] | None = None,
        rejects: bool = False,
    ) -> None:
        self._dialect = dialect
        self._options = options
        self._wanted = wanted
        self._exact = resumed[0].names if resumed is not None and wanted is None else None
        self._rejects = rejects
        self._resumed = resumed
        self._info: ObjectInfo | None = None
        self._layout: Layout | None = None
        self._start = 0
        self._line = 1
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._needed = 0
        """Bytes without which a block cannot be cut: those that there were, doubled."""
        self._left_out = 0
        """Bytes so far of a record that is too long."""
        self._refused = False

    def feed(self, span: Span, data: bytes) -> list[CsvBlock]:
        """Take the next span; no blocks when it ends no record.

        Raises:
            HeaderError: The header of an object is wrong, and such objects are not rejected.
            LongRecordError: A record exceeds the limit, and such records are not rejected.
        """
        if self._info is not span.info:
            self._begin(span)
        if self._refused:
            return []
        self._rest.append(data)
        self._rest_bytes += len(data)
        if self._rest_bytes < self._needed and not span.is_last:
            return []
        data = b"".join(self._rest) if len(self._rest) > 1 else data
        blocks: list[CsvBlock] = []
        if self._left_out:
            data = self._leave_out(data, blocks, last=span.is_last)
        if self._layout is None and data:
            try:
                data = self._after_header(data, last=span.is_last)
            except HeaderError as error:
                if not self._rejects:
                    raise HeaderError(f"{error}") from error
                blocks.append(self._refuse(str(error)))
                return blocks
        if self._layout is not None and data:
            data = self._cut(data, blocks, last=span.is_last)
        self._rest, self._rest_bytes = [data] if data else [], len(data)
        self._needed = 0 if blocks else 2 * len(data)
        return blocks

    def _begin(self, span: Span) -> None:
        self._info, self._start = span.info, span.start
        resumed = self._resumed if span.start else None
        self._layout, self._line = resumed or (None, 1)
        self._rest, self._rest_bytes, self._needed = [], 0, 0
        self._left_out, self._refused = 0, False

    def _advance(self, size: int, lines: int) -> None:
        self._start += size
        self._line += lines

    # The beginning of an object.

    def _after_header(self, data: bytes, *, last: bool) -> bytes:
        """Settle the layout, and leave out what comes before the records; waits if it must."""
        mark, told = byte_order_mark(data)
        dialect = self._dialect
        if told is not None and (told == "utf-8" or self._options.encoding in {None, "utf-16"}):
            dialect = replace(dialect, encoding=told)
        elif told != dialect.encoding:
            mark = 0
        bare = replace(dialect, quote=None, escape=None)
        width, skip = dialect.width, self._options.skip_lines
        place = mark
        if skip:
            ends = Text(bare.codes(data[mark:]), bare, last=last, fields=None).line_ends
            if len(ends) < skip and not last:
                return data
            place = mark + int(ends[skip - 1]) * width if len(ends) >= skip else len(data)
        found = self._first(data[place:], dialect, last=last)
        if found is None:
            if last:  # nothing but blank lines
                self._layout = Layout(dialect, tuple(self._wanted or ()))
            return b"" if last else data
        start, end, lines, before, fields = found
        try:
            header = data[place + start : place + end].decode(dialect.encoding)
        except UnicodeDecodeError as error:
            raise HeaderError(f"its header is not {dialect.encoding}: {error.reason}") from error
        self._layout = Layout(dialect, self._columns(header, dialect, fields))
        self._check_columns(self._layout.names)
        if self._options.header:
            self._advance(place + end, skip + lines)
            return data[place + end :]
        self._advance(place + start, skip + before)
        return data[place + start :]

    def _first(
        self, data: bytes, dialect: Dialect, *, last: bool
    ) -> tuple[int, int, int, int, int] | None:
        """The first record: where it begins and ends, lines up to its end and begin, its fields."""
        for size in (_HEADER_BYTES, len(data)):
            piece = data[: size // 2 * 2 if size < len(data) else size]
            whole = last and len(piece) == len(data)
            codes = dialect.codes(piece)
            text = Text(codes, dialect, last=whole, fields=None)
            cut = text.records()
            ends = cut.all()
            starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(ends)]
            for index in range(len(ends)):
                if codes[starts[index]] in {_LF, _CR}:
                    continue
                if index in cut.bad:
                    raise HeaderError(f"its first record cannot be read: {cut.bad[index]}")
                start, end = int(starts[index]), int(ends[index])
                lines, before = (
                    int(np.searchsorted(text.line_ends, at, "right")) for at in (end, start)
                )
                fields = text.fields_from(start)
                return start * dialect.width, end * dialect.width, lines, before, fields
            if len(piece) == len(data):
                break
        if len(data) > MAX_RECORD_UNITS:
            raise HeaderError(f"its first record cannot be read: {TOO_LONG}")
        return None

    def _columns(self, record: str, dialect: Dialect, fields: int) -> tuple[str, ...]:
        if not self._options.header:
            return tuple(self._wanted or (f"column_{place}" for place in range(1, fields + 1)))
        from nvisy_connectors.object.formats.csv_parse import fields_of

        try:
            return distinct(fields_of(record.encode(), dialect, fields))
        except ValueError as error:  # of Arrow too
            raise HeaderError(f"its header cannot be read: {error}") from error

    def _check_columns(self, names: tuple[str, ...]) -> None:
        told = ", ".join(names)
        if missing := [name for name in self._wanted or () if name not in names]:
            raise HeaderError(f"it has no column {missing[0]!r}; it has {told}")
        if self._wanted is None and self._exact is None:
            self._exact = names
        if self._exact is None or set(names) == set(self._exact):
            return
        if missing := [name for name in self._exact if name not in names]:
            raise HeaderError(f"it has no column {missing[0]!r}, as other files; it has {told}")
        extra = next(name for name in names if name not in self._exact)
        raise HeaderError(f"it has a column {extra!r} that other files have not")

    def _refuse(self, reason: str) -> CsvBlock:
        assert self._info is not None  # noqa: S101 - `feed` has set it
        self._refused = True
        self._rest, self._rest_bytes = [], 0
        nothing = np.zeros(0, np.int64)
        layout = Layout(self._dialect, ())
        return CsvBlock(self._info, layout, 0, 1, b"", nothing, nothing, refused=reason)

    # Records.

    def _cut(self, data: bytes, blocks: list[CsvBlock], *, last: bool) -> bytes:
        assert self._info is not None  # noqa: S101 - `feed` has set them
        assert self._layout is not None  # noqa: S101
        dialect = self._layout.dialect
        text = Text(dialect.codes(data), dialect, last=last, fields=len(self._layout.names))
        cut = text.records()
        ends = cut.all() * dialect.width
        if not len(ends):
            if len(data) > MAX_RECORD_UNITS * dialect.width:
                if not self._rejects:
                    raise LongRecordError(self._info, self._line)
                self._left_out = len(data)
                return b""
            return data
        if last:
            ends[-1] = len(data)  # half a unit may be left
        size = int(ends[-1])
        line_ends = text.line_ends * dialect.width
        line_ends = line_ends[: np.searchsorted(line_ends, size, "right")]
        if not len(line_ends) or line_ends[-1] < size:
            line_ends = np.append(line_ends, size)
        block = CsvBlock(
            self._info,
            self._layout,
            self._start,
            self._line,
            data[:size] if size < len(data) else data,
            ends,
            line_ends,
            cut.bad,
            size,
        )
        blocks.append(block)
        self._advance(size, block.lines)
        return data[size:]

    def _leave_out(self, data: bytes, blocks: list[CsvBlock], *, last: bool) -> bytes:
        """Drop the rest of a line that is too long."""
        assert self._info is not None  # noqa: S101 - `feed` has set them
        assert self._layout is not None  # noqa: S101
        dialect = self._layout.dialect
        odd = self._left_out % dialect.width
        newlines = np.flatnonzero(dialect.codes(data[odd:]) == _LF)
        end = odd + (int(newlines[0]) + 1) * dialect.width if len(newlines) else len(data)
        self._left_out += end
        if not len(newlines) and not last:
            return b""
        one = np.zeros(1, np.int64)
        block = CsvBlock(
            self._info,
            self._layout,
            self._start,
            self._line,
            b"",
            one,
            one,
            {0: TOO_LONG},
            self._left_out,
        )
        blocks.append(block)
        self._advance(self._left_out, 1)
        self._left_out = 0
        return data[end:]


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, none empty and none twice."""
    found: list[str] = []
    given = {name.strip() for name in names}
    for place, name in enumerate(names, 1):
        base = name.strip() or f"column_{place}"
        chosen, number = base, 2
        while chosen in found or (chosen != name.strip() and chosen in given):
            chosen, number = f"{base}_{number}", number + 1
        found.append(chosen)
    return tuple(found)
