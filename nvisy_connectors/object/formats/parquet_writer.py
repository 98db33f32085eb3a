"""Parts of Parquet."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nvisy_connectors.object.formats.part_writer import PartWriter
from nvisy_connectors.object.params import WriteParams
from nvisy_dagster.sdk import ConfigError

ROW_GROUP_ROWS = 128 * 1024
ROW_GROUP_BYTES = 32 << 20
"""A row group is written at whichever comes first; it is what a part holds in memory."""

DICTIONARY_BYTES = 128 << 10
"""Where a column stops to be told by a dictionary: texts that hardly repeat only lose by one."""


class ParquetWriter(PartWriter):
    """Row groups compressed with zstd."""

    extension = "parquet"

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        params: WriteParams,  # noqa: ARG002 - none is of use
    ) -> None:
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


def _unsupported(error: Exception) -> ConfigError:
    return ConfigError(
        f"Parquet cannot hold this schema: {error}",
        remedy="leave the column out with a `map` before, or write `jsonl`",
        tag="schema",
    )
