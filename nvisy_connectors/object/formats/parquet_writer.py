"""Parts of Parquet."""

import pyarrow as pa
import pyarrow.parquet as pq

from nvisy_connectors.object.formats.parquet_options import ROW_GROUP_ROWS, ParquetWriteOptions
from nvisy_connectors.object.formats.part_writer import PartWriter, Target, written
from nvisy_connectors.object.params import WriteParams
from nvisy_dagster.sdk import ConfigError

DICTIONARY_BYTES = 128 << 10
"""Where a column stops to be told by a dictionary: texts that hardly repeat only lose by one."""


class ParquetWriter(PartWriter):
    """Row groups with statistics."""

    extension = "parquet"

    @staticmethod
    def check(schema: pa.Schema, params: WriteParams) -> None:  # noqa: ARG004 - one of several
        """Refuse types that Parquet has not, such as decimals of a scale below zero."""
        if _refusal(schema) is None:
            return
        for field in schema:
            if error := _refusal(pa.schema([field])):
                raise ConfigError(
                    f"Parquet cannot hold column {field.name!r}, which is {field.type}: {error}",
                    remedy='make another type of it with "convert", leave it out with a `map` '
                    "before, or write `arrow`",
                    tag="schema",
                ) from error

    def __init__(self, file: Target, schema: pa.Schema, params: WriteParams) -> None:
        self._options = params.parquet or ParquetWriteOptions()
        self._file = written(file)
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        try:
            self._writer = pq.ParquetWriter(
                self._file,
                schema,
                compression=self._options.compression,
                dictionary_pagesize_limit=DICTIONARY_BYTES,
                write_statistics=True,
            )
        except pa.ArrowNotImplementedError as error:
            self._file.close()
            raise _unsupported(error) from error

    def write(self, batch: pa.RecordBatch) -> None:
        """Keep rows until they fill a row group."""
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.get_total_buffer_size()
        most = self._options.row_group_rows or ROW_GROUP_ROWS
        if self._waiting_rows >= most or self._waiting_bytes >= self._options.row_group_bytes:
            self._flush(whole=False)

    @property
    def waiting_bytes(self) -> int:
        """What waits to fill a row group."""
        return self._waiting_bytes

    def flush(self) -> None:
        """Make a row group of what waits."""
        self._flush(whole=True)

    def size(self) -> int:
        """Bytes so far; what waits counts uncompressed."""
        return self._file.tell() + self._waiting_bytes

    def close(self) -> None:
        """Write what waits and the footer."""
        if self._writer.is_open:
            self._flush(whole=True)
            self._writer.close()
            self._file.close()

    def _flush(self, *, whole: bool) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, self._schema)
        rows = self._group_rows(table.nbytes)
        left = 0 if whole or self._options.row_group_rows is None else table.num_rows % rows
        rest = table.slice(table.num_rows - left).to_batches() if left else []
        self._waiting, self._waiting_rows = rest, left
        self._waiting_bytes = sum(batch.nbytes for batch in rest)
        try:
            self._writer.write_table(table.slice(0, table.num_rows - left), rows)
        except pa.ArrowNotImplementedError as error:
            raise _unsupported(error) from error

    def _group_rows(self, size: int) -> int:
        """Rows of the groups to be made of what waits, which has so many bytes."""
        options = self._options
        if options.row_group_rows is None and self._waiting_rows < 2 * ROW_GROUP_ROWS:
            most = self._waiting_rows  # one more group for the few rows above would help nobody
        else:
            most = min(options.row_group_rows or ROW_GROUP_ROWS, self._waiting_rows)
        if size < 2 * options.row_group_bytes:
            return most
        return max(1, min(most, self._waiting_rows * options.row_group_bytes // size))


def _refusal(schema: pa.Schema) -> Exception | None:
    try:
        pq.ParquetWriter(pa.BufferOutputStream(), schema).close()
    except (pa.ArrowException, OSError) as error:  # nothing is written: it is no other OSError
        return error
    return None


def _unsupported(error: Exception) -> ConfigError:
    return ConfigError(
        f"Parquet cannot hold this schema: {error}",
        remedy="leave the column out with a `map` before, or write `jsonl`",
        tag="schema",
    )
