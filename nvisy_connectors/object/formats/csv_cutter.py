"""Cutting the bytes of CSV files into blocks of whole records."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nvisy_connectors.object.folder import ObjectInfo, Span, Torn
from nvisy_connectors.object.formats.csv_blocks import CsvBlock, Layout
from nvisy_connectors.object.formats.csv_dialect import Dialect, byte_order_mark, is_surely_utf8
from nvisy_connectors.object.formats.csv_options import CsvReadOptions
from nvisy_connectors.object.formats.csv_scan import MAX_RECORD_UNITS, TOO_LONG, Text

_LF, _CR = 10, 13
_HEADER_BYTES = 64 << 10
"""What the header is looked for in, at first."""


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

        Where an object is torn, what is left of its last record is a block without data.

        Raises:
            HeaderError: The header of an object is wrong, and such objects are not rejected.
            LongRecordError: A record exceeds the limit, and such records are not rejected.
        """
        if span.torn is None:
            return self._feed(span, data, last=span.is_last)
        blocks = self._feed(span, data, last=False)
        return blocks if self._refused else [*blocks, self._torn(span, span.torn)]

    def _feed(self, span: Span, data: bytes, *, last: bool) -> list[CsvBlock]:
        if self._info is not span.info:
            self._begin(span)
        if self._refused:
            return []
        self._rest.append(data)
        self._rest_bytes += len(data)
        if self._rest_bytes < self._needed and not span.is_last:  # torn spans are last, too
            return []
        data = b"".join(self._rest) if len(self._rest) > 1 else data
        blocks: list[CsvBlock] = []
        if self._left_out:
            data = self._leave_out(data, blocks, last=last)
        if self._layout is None and data:
            try:
                data = self._after_header(data, last=last)
            except HeaderError as error:
                if not self._rejects:
                    raise HeaderError(f"{error}") from error
                blocks.append(self._refuse(str(error)))
                return blocks
        if self._layout is not None and data:
            data = self._cut(data, blocks, last=last)
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
        found_out = told is None and self._options.encoding is None and dialect.width == 1
        if found_out and is_surely_utf8(data, whole=last):  # whatever the first file is in
            dialect = replace(dialect, encoding="utf-8")
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

    def _refuse(self, reason: str, tag: str = "schema") -> CsvBlock:
        assert self._info is not None  # noqa: S101 - `feed` has set it
        self._refused = True
        self._rest, self._rest_bytes = [], 0
        nothing = np.zeros(0, np.int64)
        layout = Layout(self._dialect, ())
        return CsvBlock(
            self._info, layout, 0, 1, b"", nothing, nothing, refused=reason, refused_tag=tag
        )

    def _torn(self, span: Span, torn: Torn) -> CsvBlock:
        self._rest, self._rest_bytes = [], 0
        if self._layout is None:
            if not self._rejects:
                raise HeaderError(torn.reason)
            return self._refuse(torn.reason, torn.tag)
        one = np.zeros(1, np.int64)
        size = span.end - self._start
        return CsvBlock(
            span.info,
            self._layout,
            self._start,
            self._line,
            b"",
            one,
            one,
            {0: torn.reason},
            size,
            torn=torn,
        )

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
