"""Parquet: every row of every file is a row."""

import base64
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, contextmanager
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats.reader import Objects, Reader
from nvisy_connectors.object.origins import Origin, check_names, enclose
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import iterate_in_thread
from nvisy_dagster.sdk import Batch, ConfigError, DataError, RejectedRecord


class ParquetReader(Reader):
    """Row groups are read by ranges, a batch of rows at a time; a position is a row's number."""

    primitive: ClassVar[str] = "row"

    @staticmethod
    def declared(params: ReadParams) -> pa.Schema | None:  # noqa: ARG004 - the files tell
        """Only the files tell."""
        return None

    async def read(
        self, objects: Objects, resume: ObjectCursor | None
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """Batches within one row group each."""
        schema = _from_text(resume.columns) if resume and resume.columns else None
        start = (resume.offset or 0) if resume else 0
        async with aclosing(objects):
            async for info in objects:
                batches = iterate_in_thread(self._batches(info, schema, start))
                async with aclosing(batches):
                    async for batch, settled in batches:
                        schema = settled or schema
                        yield batch
                start = 0

    def _batches(
        self, info: ObjectInfo, schema: pa.Schema | None, start: int
    ) -> Generator[tuple[Batch[ObjectCursor], pa.Schema | None]]:
        uri = self.folder.uri(info.key)
        with self.folder.open(info) as source:
            try:
                with (
                    _told(uri),
                    pq.ParquetFile(source, pre_buffer=not isinstance(source, pa.OSFile)) as file,
                ):
                    schema = self._settle(file.schema_arrow, schema, uri)
                    for row, columns, bad in self._rows(file, schema, start, uri):
                        for batch in self._cut(info, file, row, columns, bad):
                            yield batch, schema
            except DataError as error:
                if not self.rejects:
                    raise
                yield self._refused(info, schema, error), schema

    def _rows(
        self, file: pq.ParquetFile, schema: pa.Schema, start: int, uri: str
    ) -> Iterator[tuple[int, pa.RecordBatch, RejectedRecord | None]]:
        """Rows from a place on; where a row group breaks off, its rest with why it does."""
        row = 0
        for group in range(file.num_row_groups):
            meta = file.metadata.row_group(group)
            end = row + meta.num_rows
            if end <= start:
                row = end
                continue
            row_bytes = max(1, meta.total_byte_size // max(1, meta.num_rows))
            size = max(1, min(self.params.batch_rows, self.params.batch_bytes // row_bytes))
            try:
                with _told(uri):
                    for found in file.iter_batches(size, row_groups=[group], columns=schema.names):
                        columns = found.slice(max(0, start - row))
                        if columns.num_rows:
                            arrays = [columns.column(name) for name in schema.names]
                            rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
                            yield max(row, start), rows, None
                        row += found.num_rows
            except DataError as error:
                if not self.rejects:
                    raise
                reason = f"{error.message}; rows {row} to {end - 1}, the rest of row group {group}"
                bad = RejectedRecord(uri, row, None, reason, error.tag, {"rows": end - row})
                yield end, pa.RecordBatch.from_pylist([], schema), bad
            row = end

    def _cut(
        self,
        info: ObjectInfo,
        file: pq.ParquetFile,
        row: int,
        columns: pa.RecordBatch,
        bad: RejectedRecord | None,
    ) -> Iterator[Batch[ObjectCursor]]:
        if bad is not None:
            yield self._batch(info, file, row, columns, bad)
        start = 0
        while start < columns.num_rows:
            piece = columns.slice(start, self.batch_rows)
            yield self._batch(info, file, row + start, piece, None)
            start += piece.num_rows

    def _batch(
        self,
        info: ObjectInfo,
        file: pq.ParquetFile,
        row: int,
        columns: pa.RecordBatch,
        bad: RejectedRecord | None,
    ) -> Batch[ObjectCursor]:
        end = row + columns.num_rows
        origin = Origin(info, np.arange(row, end, dtype=np.int64))
        cursor = ObjectCursor(
            key=info.key,
            version=info.version,
            offset=end if end < file.metadata.num_rows else None,
            columns=_to_text(columns.schema),
        )
        return Batch(enclose(columns, [origin], self.folder), cursor, (bad,) if bad else ())

    def _refused(
        self, info: ObjectInfo, schema: pa.Schema | None, error: DataError
    ) -> Batch[ObjectCursor]:
        """A file of which nothing can be read."""
        bad = RejectedRecord(self.folder.uri(info.key), None, None, error.message, error.tag)
        nothing = pa.RecordBatch.from_pylist([], schema or pa.schema([]))
        columns = None if schema is None else _to_text(schema)
        cursor = ObjectCursor(key=info.key, version=info.version, columns=columns)
        return Batch(
            enclose(nothing, [Origin(info, np.zeros(0, np.int64))], self.folder), cursor, (bad,)
        )

    def _settle(self, found: pa.Schema, schema: pa.Schema | None, uri: str) -> pa.Schema:
        wanted = self.params.columns
        names = schema.names if schema else list(wanted) if wanted else found.names
        if missing := [name for name in names if name not in found.names]:
            raise ConfigError(
                f"{uri} has no column {missing[0]!r}; it has {', '.join(found.names)}",
                remedy="check `columns` and `glob`: all files of one read need the same columns",
                tag="schema",
            )
        chosen = pa.schema([found.field(name) for name in names]).remove_metadata()
        if schema is None:
            return check_names(chosen, uri)
        if not wanted and (extra := [name for name in found.names if name not in names]):
            raise ConfigError(
                f"{uri} has a column {extra[0]!r} that the first file has not",
                remedy="list in `columns` those to read, or choose like files with `glob`",
                tag="schema",
            )
        for field, own in zip(schema, chosen, strict=True):
            if field.type != own.type or (own.nullable and not field.nullable):
                raise ConfigError(
                    f"column {field.name!r} of {uri} is {_type(own)}, "
                    f"in the first file {_type(field)}",
                    remedy="choose like files with `glob`, or leave it out of `columns`",
                    tag="schema",
                )
        return schema


def _type(field: pa.Field) -> str:
    return f"{field.type}" if field.nullable else f"{field.type} not null"


@contextmanager
def _told(uri: str) -> Generator[None]:
    """Turn what Arrow says of a file that is damaged into an error of the data.

    Raises:
        DataError: It is damaged.
    """
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _unreadable(uri, error) from error
    except OSError as error:
        # Arrow says OSError for broken pages, without a number of the system.
        if error.errno is not None:
            raise
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> DataError:
    return DataError(
        f"{uri} is not a readable Parquet file: {str(error).partition(chr(10))[0]}",
        rows={},
        remedy="leave it out with `glob`, or write it again",
        tag="format",
    )


def _to_text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize()).decode()


def _from_text(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
