"""The record batches of one Arrow IPC file or stream, of the columns that are wanted."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.formats.arrow_messages import DamagedError, Message, MessageReader
from nvisy_connectors.object.formats.parquet_decoding import Budget, has_view
from nvisy_connectors.object.formats.read_ahead import ReadAhead
from nvisy_dagster.sdk import ConfigError, DataError

_OFFSET = 4
"""Bytes that a text takes besides its letters."""


class ArrowStream:
    """Reads from the beginning to the end, and decodes what is wanted.

    Args:
        source: The open object.
        size: Its bytes.
        budget: What it may hold.
        uri: Its address.

    Raises:
        DamagedError: It is none, or is damaged.
    """

    def __init__(self, source: ReadAhead, size: int, budget: Budget, uri: str) -> None:
        self._messages = MessageReader(source, size)
        self._budget = budget
        first = self._messages.read()
        if first is None:
            raise DamagedError("it is empty")
        self._head = first
        self._found = pa.ipc.read_schema(pa.py_buffer(b"".join(first.pieces)))
        if not self._found.names:
            raise DamagedError("it has no columns")
        self.schema = pa.schema([_plain(field) for field in self._found])
        self._uri = uri

    def at_end(self) -> bool:
        """Whether no record batch follows, and the end is whole."""
        return self._messages.at_end()

    def batches(self, wanted: pa.Schema, start: int) -> Iterator[tuple[int, int, pa.RecordBatch]]:
        """Record batches that reach behind a row, each with its first row and what came before it.

        Args:
            wanted: Columns, of the file's `schema`.
            start: A row.

        Raises:
            ConfigError: A column has a type that cannot be read.
            DataError: They take more than they may.
            DamagedError: One is damaged.
        """
        for field in wanted:
            if not _is_read(field.type):
                raise ConfigError(
                    f"column {field.name!r} of {self._uri} is of type {field.type}, which cannot "
                    "be read",
                    remedy="write it as another type, or name the columns to read in `columns`",
                    tag="schema",
                )
        feed = _Feed(self._head, self._messages, self._budget, start)
        places = [self._found.names.index(name) for name in wanted.names]
        options = pa.ipc.IpcReadOptions(included_fields=places or None)
        with pa.ipc.open_stream(pa.PythonFile(feed, mode="r"), options=options) as reader:
            while True:
                spent = self._budget.spent
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
                # What a damaged message says may point anywhere.
                batch.validate(full=True)
                columns = [self._written_out(batch.column(name)) for name in wanted.names]
                rows = (
                    pa.RecordBatch.from_arrays(columns, schema=_numbered(wanted, columns))
                    if columns
                    else batch
                )
                yield feed.first_row, spent, rows

    def _written_out(self, values: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(values.type) and has_view(values.type):
            words = self._written_out(values.dictionary)
            return pa.DictionaryArray.from_arrays(values.indices, words)
        if not has_view(values.type):
            return values
        views = np.frombuffer(cast("Any", values.buffers()[1]), np.int32).reshape(-1, 4)
        if values.null_count:
            # What stands in the place of nulls is not validated, and is followed all the same.
            views = views.copy()
            views[values.offset : values.offset + len(values)][np.asarray(values.is_null())] = 0
            kept = values.buffers()
            buffers = [kept[0], pa.py_buffer(views), *kept[2:]]
            values = pa.Array.from_buffers(values.type, len(values), buffers, offset=values.offset)
        lengths = views[values.offset : values.offset + len(values), 0]
        self._budget.check(int(lengths.astype(np.int64).sum()) + _OFFSET * len(values))
        return values.cast(pa.string() if pa.types.is_string_view(values.type) else pa.binary())


class _Feed:
    """A file of the messages that are to be decoded, for Arrow to read from."""

    def __init__(self, head: Message, rest: MessageReader, budget: Budget, start: int) -> None:
        self._waiting = list(head.pieces)
        self._data = memoryview(b"")
        self._rest = rest
        self._budget = budget
        self._start = start
        self._row = 0
        self.first_row = 0
        """Of the last record batch that was handed out."""
        self.closed = False

    def read(self, size: int = -1) -> bytes | memoryview:
        """The next bytes, of one message at most; they are not copied."""
        while not self._data:
            if self._waiting:
                self._data = memoryview(self._waiting.pop(0))
                continue
            message = self._rest.read(unwanted_rows=max(0, self._start - self._row))
            if message is None:
                return b""
            self._take(message)
        size = len(self._data) if size < 0 else size
        data, self._data = self._data[:size], self._data[size:]
        return data

    def _take(self, message: Message) -> None:
        if message.is_rows:
            self.first_row, self._row = self._row, self._row + message.rows
        if message.pieces:
            # Rows of columns without bytes take some all the same.
            self._budget.check(max(message.decoded_bytes, message.rows))
        self._waiting = list(message.pieces)

    def close(self) -> None:
        """Told by Arrow."""
        self.closed = True

    def readable(self) -> bool:
        """It is."""
        return True


def _numbered(wanted: pa.Schema, columns: list[pa.Array]) -> pa.Schema:
    """The schema of columns some of which are still told by number."""
    return pa.schema([
        field.with_type(column.type) for field, column in zip(wanted, columns, strict=True)
    ])


def _plain(field: pa.Field) -> pa.Field:
    """A column as it is read: texts written out."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_binary_view(kind):
        kind = pa.binary()
    return pa.field(field.name, kind, field.nullable)


def _is_read(kind: pa.DataType) -> bool:
    """Whether values of a type, as they are read, can go on."""
    refused = (pa.types.is_dictionary, pa.types.is_run_end_encoded, pa.types.is_union)
    if has_view(kind) or any(one(kind) for one in refused):
        return False
    return all(_is_read(kind.field(place).type) for place in range(kind.num_fields))


_DAMAGE = (
    DamagedError,
    UnicodeDecodeError,  # in the name of a column
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    pa.ArrowKeyError,
    pa.ArrowIndexError,
)


@contextmanager
def damage_told(uri: str) -> Generator[None]:
    """Turn what is said of a file that is damaged into an error of the data.

    Raises:
        DataError: It is damaged.
    """
    try:
        yield
    except _DAMAGE as error:
        raise _unreadable(uri, error) from error
    except OSError as error:
        # Arrow says OSError for broken buffers, without a number of the system.
        if error.errno is not None:
            raise
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> DataError:
    return DataError(
        f"{uri} is not a readable Arrow file: {str(error).partition(chr(10))[0]}",
        rows={},
        remedy="leave it out with `glob`, or write it again",
        tag="format",
    )
