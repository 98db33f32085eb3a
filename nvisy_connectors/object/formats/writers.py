"""Writing a part of each format to a file of this machine; all of it blocks, for threads."""

import base64
import datetime as dt
import decimal
import json
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nvisy_dagster.sdk import ConfigError, DataError
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES, ID
from nvisy_dagster.sdk.identity import format_uuid

ROW_GROUP_ROWS = 128 * 1024
ROW_GROUP_BYTES = 32 << 20
"""A row group is written at whichever comes first; it is what a part holds in memory."""

DICTIONARY_BYTES = 128 << 10
"""Where a column stops to be told by a dictionary: texts that hardly repeat only lose by one."""


class PartWriter(ABC):
    """One open part.

    Args:
        path: File to make.
        schema: Schema of all batches to come.
    """

    extension: ClassVar[str]
    one_record: ClassVar[bool] = False
    """Whether a part holds exactly one record."""

    @abstractmethod
    def __init__(self, path: Path, schema: pa.Schema) -> None: ...

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Raises:
            DataError: Some rows cannot be written in this format; the others were.
        """

    @abstractmethod
    def size(self) -> int:
        """Bytes so far, roughly."""

    @abstractmethod
    def close(self) -> None:
        """Complete the file; harmless when it is closed."""


class TextWriter(PartWriter):
    """The column `text` of one record."""

    extension = "txt"
    one_record = True

    def __init__(self, path: Path, schema: pa.Schema) -> None:  # noqa: ARG002 - `text` is there
        self._file = path.open("wb")

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the text, nothing for a null."""
        self._file.write((batch.column("text")[0].as_py() or "").encode())

    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BinaryWriter(PartWriter):
    """The column `data` of one record."""

    extension = "bin"
    one_record = True

    def __init__(self, path: Path, schema: pa.Schema) -> None:  # noqa: ARG002 - `data` is there
        self._file = path.open("wb")

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the data, nothing for a null."""
        self._file.write(batch.column("data")[0].as_buffer() or b"")

    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JsonlWriter(PartWriter):
    """One JSON object per line."""

    extension = "jsonl"

    def __init__(self, path: Path, schema: pa.Schema) -> None:  # noqa: ARG002 - rows tell
        self._file = path.open("wb")
        self._encode = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        ).encode

    def write(self, batch: pa.RecordBatch) -> None:
        """Write lines; ids of the envelope become UUIDs, times ISO 8601, binary values Base64."""
        rows = _readable(batch).to_pylist()
        try:
            lines = "".join(f"{self._encode(row)}\n" for row in rows)
        except ValueError:
            self._write_valid(rows)
            return
        self._file.write(lines.encode())

    def _write_valid(self, rows: list[dict[str, Any]]) -> None:
        bad: dict[int, str] = {}
        for place, row in enumerate(rows):
            try:
                self._file.write(f"{self._encode(row)}\n".encode())
            except ValueError:
                bad[place] = "JSON has no NaN and no infinite numbers"
        raise DataError(
            f"{len(bad)} records hold numbers that JSON cannot express",
            rows=bad,
            remedy="replace NaN and infinity in a `map` before, or write `parquet`",
        )

    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ParquetWriter(PartWriter):
    """Row groups compressed with zstd."""

    extension = "parquet"

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        try:
            self._writer = pq.ParquetWriter(
                str(path), schema, compression="zstd", dictionary_pagesize_limit=DICTIONARY_BYTES
            )
        except pa.ArrowNotImplementedError as error:
            raise _unsupported(error) from error

    def write(self, batch: pa.RecordBatch) -> None:
        """Keep rows until they fill a row group."""
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.get_total_buffer_size()
        if self._waiting_rows >= ROW_GROUP_ROWS or self._waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def size(self) -> int:
        """Bytes so far; what waits counts uncompressed."""
        return self._path.stat().st_size + self._waiting_bytes

    def close(self) -> None:
        """Write what waits and the footer."""
        if self._writer.is_open:
            self._flush()
            self._writer.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        try:
            # One more group for the few rows above the limit would help nobody.
            whole = table.num_rows < 2 * ROW_GROUP_ROWS
            self._writer.write_table(table, table.num_rows if whole else ROW_GROUP_ROWS)
        except pa.ArrowNotImplementedError as error:
            raise _unsupported(error) from error


WRITERS: dict[str, type[PartWriter]] = {
    "text": TextWriter,
    "binary": BinaryWriter,
    "jsonl": JsonlWriter,
    "parquet": ParquetWriter,
}


def _unsupported(error: Exception) -> ConfigError:
    return ConfigError(
        f"Parquet cannot hold this schema: {error}",
        remedy="leave the column out with a `map` before, or write `jsonl`",
        tag="schema",
    )


def _readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    arrays = [_column(n, a) for n, a in zip(batch.schema.names, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _column(name: str, array: pa.Array) -> pa.Array:
    if name in ENVELOPE_NAMES and array.type == ID:
        return pa.array([None if v is None else format_uuid(v) for v in array.to_pylist()])
    if name in ENVELOPE_NAMES and pa.types.is_list(array.type) and array.type.value_type == ID:
        return pa.array(
            [[format_uuid(v) for v in values] for values in array.to_pylist()],
            pa.list_(pa.string()),
        )
    if pa.types.is_timestamp(array.type) and array.type.unit == "ns":
        # Python's times have microseconds; as text the last digits survive.
        return pc.call_function("strftime", [array], pc.StrftimeOptions("%Y-%m-%dT%H:%M:%S"))
    return array


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise ConfigError(
        f"JSON has no form for values of {type(value).__name__}",
        remedy="change the column's type with a `map` before, or write `parquet`",
        tag="schema",
    )
