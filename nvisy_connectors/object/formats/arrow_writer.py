"""Parts of Arrow IPC."""

import pyarrow as pa

from nvisy_connectors.object.formats.arrow_options import ArrowWriteOptions
from nvisy_connectors.object.formats.part_writer import PartWriter, Target, written
from nvisy_connectors.object.params import WriteParams

BATCH_ROWS = 64 * 1024
BATCH_BYTES = 8 << 20
"""A record batch is written at whichever comes first; it is what a part holds in memory."""
LARGE_BYTES = 1 << 20
"""So large a batch is written as it comes: joining it with others would copy it."""


class ArrowWriter(PartWriter):
    """Record batches, one after the other, and a footer that tells where they are."""

    extension = "arrow"

    def __init__(self, file: Target, schema: pa.Schema, params: WriteParams) -> None:
        codec = (params.arrow or ArrowWriteOptions()).compression
        options = pa.ipc.IpcWriteOptions(
            compression=None if codec == "none" else codec,
            use_threads=False,
        )
        self._file = written(file)
        # A file has one list of words per column, and batches may come with others.
        self._schema = pa.schema([_written_out(field) for field in schema])
        self._writer = pa.ipc.new_file(self._file, self._schema, options=options)
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Keep rows until they fill a record batch."""
        large = batch.nbytes >= LARGE_BYTES  # a slice may lie in larger buffers
        if large:
            self.flush()
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.get_total_buffer_size()
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES or large:
            self.flush()

    @property
    def waiting_bytes(self) -> int:
        """What waits to fill a record batch."""
        return self._bytes

    def flush(self) -> None:
        """Make record batches of what waits."""
        if self._waiting:
            table = pa.Table.from_batches(self._waiting).cast(self._schema).combine_chunks()
            self._waiting, self._rows, self._bytes = [], 0, 0
            self._writer.write_table(table, BATCH_ROWS)

    def size(self) -> int:
        """Bytes so far; what waits counts uncompressed."""
        return self._file.tell() + self._bytes

    def close(self) -> None:
        """Write what waits and the footer."""
        if not self._file.closed:
            self.flush()
            self._writer.close()
            self._file.close()


def _written_out(field: pa.Field) -> pa.Field:
    kind = field.type
    return field.with_type(kind.value_type) if pa.types.is_dictionary(kind) else field
