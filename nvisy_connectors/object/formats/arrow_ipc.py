"""Arrow IPC: every row of every file or stream is a row."""

import base64
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats.arrow_stream import ArrowStream, damage_told
from nvisy_connectors.object.formats.parquet_decoding import Budget, pieces
from nvisy_connectors.object.formats.parquet_schema import (
    FolderColumns,
    Settled,
    check_file,
    declared_columns,
    folder_refused,
    settle,
)
from nvisy_connectors.object.formats.parquet_types import map_columns
from nvisy_connectors.object.formats.read_ahead import ReadAhead
from nvisy_connectors.object.formats.reader import Objects, Reader
from nvisy_connectors.object.formats.records import TORN, kept_row
from nvisy_connectors.object.origins import Origin, check_names, enclose
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import iterate_in_thread
from nvisy_dagster.sdk import Batch, DataError, RejectedRecord

PIECE_BATCHES = 4
"""Size of a piece of rows, in batches: a record batch of a file may be as large as it likes."""


@dataclass
class _Reading:
    """The columns of the read, once they are known."""

    settled: Settled | None = None


@dataclass(frozen=True)
class _Place:
    """What is read at the moment."""

    info: ObjectInfo
    settled: Settled
    folders: Mapping[str, pa.Array]
    budget: Budget

    def cursor(self, row: int | None, spent: int) -> ObjectCursor:
        """Where to go on at a row; with `None` behind the file."""
        return ObjectCursor(
            key=self.info.key,
            version=self.info.version,
            offset=row,
            columns=_to_text(self.settled.schema),
            decoded=spent,
        )


class ArrowReader(Reader):
    """Read from the beginning to the end, a record batch at a time; a position is a row's number.

    Columns that the hint tells to be unwanted are not decoded.
    """

    primitive: ClassVar[str] = "row"

    @staticmethod
    def declared(params: ReadParams) -> pa.Schema | None:
        """The columns if their types are declared; else only the files tell."""
        schema = declared_columns(params)
        return None if schema is None else check_names(schema, "`columns`")

    async def read(
        self, objects: Objects, resume: ObjectCursor | None
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """Batches within one record batch of a file each."""
        reading = _Reading()
        if (schema := self.declared(self.params)) is not None:
            reading.settled = Settled.of(schema, self.hint, declared=True)
        elif resume and resume.columns:
            data = pa.py_buffer(base64.b64decode(resume.columns))
            reading.settled = Settled.of(pa.ipc.read_schema(data), self.hint, declared=False)
        folders = FolderColumns(self.params, whole_names=self.folder.whole_names)
        async with aclosing(objects):
            async for info in objects:
                # What comes from the store is read ahead; to decode it takes no time.
                rows = self._batches(info, reading, folders, resume)
                batches = iterate_in_thread(rows, ahead=False)
                async with aclosing(batches):
                    async for batch in batches:
                        yield batch
                resume = None

    def _batches(
        self,
        info: ObjectInfo,
        reading: _Reading,
        folders: FolderColumns,
        resume: ObjectCursor | None,
    ) -> Generator[Batch[ObjectCursor]]:
        try:
            yield from self._file(info, reading, folders, resume)
        except DataError as error:
            if not self.rejects:
                raise
            yield self._refused(info, reading, error)

    def _file(
        self,
        info: ObjectInfo,
        reading: _Reading,
        folders: FolderColumns,
        resume: ObjectCursor | None,
    ) -> Iterator[Batch[ObjectCursor]]:
        uri = self.folder.uri(info.key)
        start, spent = (resume.offset or 0, resume.decoded) if resume else (0, 0)
        budget = Budget(self.params, uri, info.size, spent)
        try:
            told = folders.of(info.key)
        except ValueError as error:
            raise folder_refused(uri, error) from error
        with ReadAhead(partial(self.folder.read_on, info), info.size) as ahead, damage_told(uri):
            stream = ArrowStream(ahead, info.size, budget, uri)
            settled = reading.settled
            if settled is None:
                schema = settle(stream.schema, told, self.params, uri)
                settled = reading.settled = Settled.of(schema, self.hint, declared=False)
            check_file(settled, stream.schema, told, self.params, uri)
            place = _Place(info, settled, told, budget)
            yield from self._rows(place, stream, start)

    def _rows(
        self, place: _Place, stream: ArrowStream, start: int
    ) -> Iterator[Batch[ObjectCursor]]:
        row, is_last = start, False
        try:
            with damage_told(self.folder.uri(place.info.key)):
                for rows, spent, is_last in self._pieces(place, stream, start):
                    end = row + rows.num_rows
                    cursor = place.cursor(None, 0) if is_last else place.cursor(end, spent)
                    yield self._batch(place, row, rows, cursor)
                    row = end
        except DataError as error:
            if not self.rejects or not row:
                raise
            yield self._torn(place, row, error)
            return
        if row and not is_last:
            yield Batch(self._nothing(place.info, place.settled), place.cursor(None, 0))

    def _pieces(
        self, place: _Place, stream: ArrowStream, start: int
    ) -> Iterator[tuple[pa.RecordBatch, int, bool]]:
        """Rows from a place on, in pieces.

        Each with what was counted before its record batch, and with whether nothing follows; if
        that is not known before more is read, no piece is the last.
        """
        names = set(place.settled.chosen.names) - place.folders.keys()
        wanted = pa.schema([field for field in stream.schema if field.name in names])
        most = PIECE_BATCHES * self.params.batch_bytes
        for first, spent, rows in stream.batches(wanted, start):
            rest = rows.slice(max(0, start - first))
            left = rest.num_rows
            for piece in pieces(rest, wanted, most, place.budget) if len(wanted) else [rest]:
                if piece.nbytes < piece.num_rows:  # of nulls, say
                    place.budget.spend(piece.num_rows)
                at = 0
                while at < piece.num_rows:
                    some = piece.slice(at, self.batch_rows)
                    left -= some.num_rows
                    yield some, spent, not left and stream.at_end()
                    at += some.num_rows

    def _batch(
        self, place: _Place, row: int, rows: pa.RecordBatch, cursor: ObjectCursor
    ) -> Batch[ObjectCursor]:
        count = rows.num_rows
        arrays = dict(zip(rows.schema.names, rows.columns, strict=True))
        arrays |= {name: pa.repeat(told[0], count) for name, told in place.folders.items()}
        mapped = map_columns(arrays, count, place.settled.chosen)
        bad = [
            self._bad_row(place, row + at, rows.slice(at, 1), reason)
            for at, reason in sorted(mapped.refused.items())
        ]
        data = enclose(mapped.rows, [Origin(place.info, mapped.kept + row)], self.folder)
        return Batch(data, cursor, tuple(bad))

    def _bad_row(
        self, place: _Place, row: int, values: pa.RecordBatch, reason: str
    ) -> RejectedRecord:
        uri = self.folder.uri(place.info.key)
        if not self.rejects:
            raise DataError(
                f"{uri}: row {row}: {reason}",
                rows={},
                remedy='declare another type in `columns`, or set "on_error" to "dead_letter"',
                tag="validation",
            )
        return RejectedRecord(uri, row, kept_row(values), f"row {row}: {reason}")

    def _torn(self, place: _Place, row: int, error: DataError) -> Batch[ObjectCursor]:
        """What cannot be read of a file."""
        uri = self.folder.uri(place.info.key)
        reason = f"{error.message}; row {row} and all behind it"
        bad = RejectedRecord(uri, row, None, reason, error.tag, TORN)
        return Batch(self._nothing(place.info, place.settled), place.cursor(None, 0), (bad,))

    def _refused(
        self, info: ObjectInfo, reading: _Reading, error: DataError
    ) -> Batch[ObjectCursor]:
        """A file of which nothing can be read."""
        bad = RejectedRecord(self.folder.uri(info.key), None, None, error.message, error.tag)
        columns = None if reading.settled is None else _to_text(reading.settled.schema)
        cursor = ObjectCursor(key=info.key, version=info.version, columns=columns)
        return Batch(self._nothing(info, reading.settled), cursor, (bad,))

    def _nothing(self, info: ObjectInfo, settled: Settled | None) -> pa.RecordBatch:
        nothing = pa.RecordBatch.from_pylist([], settled.chosen if settled else pa.schema([]))
        return enclose(nothing, [Origin(info, np.zeros(0, np.int64))], self.folder)


def _to_text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize()).decode()
