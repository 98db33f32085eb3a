"""Parquet: every row of every file is a row."""

import base64
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats.parquet_decoding import Budget
from nvisy_connectors.object.formats.parquet_file import Group, OpenFile, damage_told, open_file
from nvisy_connectors.object.formats.parquet_schema import (
    FolderColumns,
    Settled,
    check_file,
    declared_columns,
    folder_refused,
    settle,
)
from nvisy_connectors.object.formats.reader import Objects, Reader
from nvisy_connectors.object.formats.records import TORN, kept_row
from nvisy_connectors.object.origins import Origin, check_names, enclose
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import iterate_in_thread
from nvisy_dagster.sdk import Batch, DataError, RejectedRecord

Folders = Mapping[str, pa.Array]


@dataclass
class _Reading:
    """What a read has learned on its way."""

    settled: Settled | None
    fresh: bool
    """Whether it has not come to a row yet. The first ones are read even if nobody wants them: what
    is wrong with the columns is told by who meets them."""


@dataclass(frozen=True)
class _Place:
    """What is read at the moment."""

    info: ObjectInfo
    file: OpenFile
    schema: str
    """All columns of the read, as text."""
    group: Group
    spent: int
    """What the row groups before took."""
    budget: Budget

    def cursor(self, row: int) -> ObjectCursor:
        """Where to go on at a row of the group, or behind it."""
        return ObjectCursor(
            key=self.info.key,
            version=self.info.version,
            offset=row if row < self.file.rows_in_all else None,
            columns=self.schema,
            decoded=self.budget.spent if row >= self.group.end else self.spent,
        )


class ParquetReader(Reader):
    """Row groups are read by ranges, a batch of rows at a time; a position is a row's number.

    Columns, row groups and files that the hint tells to be unwanted are not read.
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
        """Batches within one row group each."""
        reading = _Reading(None, fresh=resume is None)
        if (schema := self.declared(self.params)) is not None:
            reading.settled = Settled.of(schema, self.hint, declared=True)
        elif resume and resume.columns:
            reading.settled = Settled.of(_from_text(resume.columns), self.hint, declared=False)
        folders = FolderColumns(self.params, whole_names=self.folder.whole_names)
        async with aclosing(objects):
            async for info in objects:
                batches = iterate_in_thread(self._batches(info, reading, folders, resume))
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
            told = self._told(info, folders)
            settled = reading.settled
            if settled is None or self._opens(settled, reading) or settled.may_want(told):
                yield from self._file(info, reading, told, resume)
        except DataError as error:
            if not self.rejects:
                raise
            yield self._refused(info, reading, error)

    @staticmethod
    def _opens(settled: Settled, reading: _Reading) -> bool:
        """Whether a file is opened whatever its folders tell."""
        # Only the file tells whether its values can become those of declared columns.
        return reading.fresh or settled.declared

    def _told(self, info: ObjectInfo, folders: FolderColumns) -> Folders:
        try:
            return folders.of(info.key)
        except ValueError as error:
            raise folder_refused(self.folder.uri(info.key), error) from error

    def _file(
        self, info: ObjectInfo, reading: _Reading, told: Folders, resume: ObjectCursor | None
    ) -> Iterator[Batch[ObjectCursor]]:
        uri = self.folder.uri(info.key)
        start, spent = (resume.offset or 0, resume.decoded) if resume else (0, 0)
        with self.folder.open(info) as source, damage_told(uri), open_file(source) as opened:
            found = opened.schema_arrow
            settled = reading.settled
            if settled is None:
                schema = settle(found, told, self.params, uri)
                settled = reading.settled = Settled.of(schema, self.hint, declared=False)
            check_file(settled, found, told, self.params, uri)
            file = OpenFile(source, opened, settled, told, self.params)
            budget, text = Budget(self.params, uri, info.size, spent), _to_text(settled.schema)
            for group in file.groups_from(start):
                if reading.fresh or file.may_want(group):
                    place = _Place(info, file, text, group, budget.spent, budget)
                    over = yield from self._group(place, max(start, group.start), reading)
                    if over:
                        return

    def _group(
        self, place: _Place, row: int, reading: _Reading
    ) -> Generator[Batch[ObjectCursor], None, bool]:
        """Rows of a group from a place on; where it breaks off, its rest with why it does.

        Returns:
            Whether the rest of the file is not to be read.
        """
        unread = row - place.group.start
        try:
            with damage_told(self.folder.uri(place.info.key)):
                for found in place.file.rows(place.group, place.budget):
                    rows = found.slice(min(unread, found.num_rows))
                    unread -= found.num_rows - rows.num_rows
                    while rows.num_rows:
                        piece = rows.slice(0, self.batch_rows)
                        reading.fresh = False
                        yield self._batch(place, row, piece)
                        row += piece.num_rows
                        rows = rows.slice(piece.num_rows)
        except DataError as error:
            if not self.rejects:
                raise
            over = error.tag == "too_large"
            yield self._torn(place, row, error, over=over)
            return over
        return False

    def _batch(self, place: _Place, row: int, rows: pa.RecordBatch) -> Batch[ObjectCursor]:
        mapped = place.file.mapped(rows)
        bad = [
            self._bad_row(place, row + at, rows.slice(at, 1), reason)
            for at, reason in sorted(mapped.refused.items())
        ]
        data = enclose(mapped.rows, [Origin(place.info, mapped.kept + row)], self.folder)
        return Batch(data, place.cursor(row + rows.num_rows), tuple(bad))

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

    def _torn(
        self, place: _Place, row: int, error: DataError, *, over: bool
    ) -> Batch[ObjectCursor]:
        """What cannot be read of a group, or of the file if it is not to be read any further."""
        uri = self.folder.uri(place.info.key)
        end = place.file.rows_in_all if over else place.group.end
        what = "the file" if over else f"row group {place.group.number}"
        reason = f"{error.message}; rows {row} to {end - 1}, the rest of {what}"
        known = {"rows": end - row} | (TORN if over else {})
        bad = RejectedRecord(uri, row, None, reason, error.tag, known)
        nothing = place.file.mapped(place.file.no_rows).rows
        data = enclose(nothing, [Origin(place.info, np.zeros(0, np.int64))], self.folder)
        return Batch(data, place.cursor(end), (bad,))

    def _refused(
        self, info: ObjectInfo, reading: _Reading, error: DataError
    ) -> Batch[ObjectCursor]:
        """A file of which nothing can be read."""
        bad = RejectedRecord(self.folder.uri(info.key), None, None, error.message, error.tag)
        settled = reading.settled
        nothing = pa.RecordBatch.from_pylist([], settled.chosen if settled else pa.schema([]))
        columns = None if settled is None else _to_text(settled.schema)
        cursor = ObjectCursor(key=info.key, version=info.version, columns=columns)
        origins = [Origin(info, np.zeros(0, np.int64))]
        return Batch(enclose(nothing, origins, self.folder), cursor, (bad,))


def _to_text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize()).decode()


def _from_text(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
