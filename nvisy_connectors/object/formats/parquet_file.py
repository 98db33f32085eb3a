"""One Parquet file that is being read: its row groups, and the rows of those."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from nvisy_connectors.object.formats.parquet_decoding import (
    Budget,
    GroupSize,
    pieces,
    repeated_columns,
)
from nvisy_connectors.object.formats.parquet_pruning import Bounds, bounds_of_chunk
from nvisy_connectors.object.formats.parquet_schema import Settled, fallible
from nvisy_connectors.object.formats.parquet_types import Mapped, map_columns, written_out
from nvisy_connectors.object.params import ReadParams
from nvisy_dagster.sdk import DataError
from nvisy_dagster.sdk.push_down import folded

PIECE_BATCHES = 4
"""Size of a piece of rows, in batches: what is read takes more room than in the file."""


@dataclass(frozen=True)
class Group:
    """A row group."""

    number: int
    start: int
    """Its first row in the file."""
    end: int
    """The first row behind it."""


class OpenFile:
    """Rows of a file, as far as they are wanted.

    Args:
        source: The open object.
        file: The same, its footer read.
        settled: The columns of the read.
        folders: What the object's folders tell.
        params: What the source was told.
    """

    def __init__(
        self,
        source: pa.NativeFile,
        file: pq.ParquetFile,
        settled: Settled,
        folders: Mapping[str, pa.Array],
        params: ReadParams,
    ) -> None:
        self.metadata = file.metadata
        self._settled = settled
        self._folders = folders
        self._params = params
        found = file.schema_arrow
        self._found = frozenset(found.names)
        doubtful = fallible(settled, found, folders)
        self._prunes = settled.hint.where is not None and not doubtful
        # What cannot become a record is told, whoever wants the column.
        chosen = {*settled.chosen.names, *doubtful}
        self._wanted = pa.schema([one for one in settled.schema if one.name in chosen])
        names = [name for name in self._wanted.names if name in found.names]
        own = [found.field(found.names.index(name)) for name in names if name not in folders]
        plain = [one.with_type(written_out(one.type)) for one in own]
        self._own = pa.schema(plain).remove_metadata()
        repeated = repeated_columns(self.metadata, found)
        self._file = (
            open_file(source, metadata=self.metadata, repeated=repeated) if repeated else file
        )

    @property
    def no_rows(self) -> pa.RecordBatch:
        """Rows as they are in the file, and none."""
        return pa.RecordBatch.from_pylist([], self._own)

    @property
    def rows_in_all(self) -> int:
        """Rows of the file."""
        return self.metadata.num_rows

    def groups_from(self, start: int) -> Iterator[Group]:
        """Row groups that reach behind a row."""
        row = 0
        for number in range(self.metadata.num_row_groups):
            end = row + self.metadata.row_group(number).num_rows
            if end > start:
                yield Group(number, row, end)
            row = end

    def may_want(self, group: Group) -> bool:
        """Whether some row of a row group may be wanted."""
        return not self._prunes or self._settled.may_want(
            self._folders, lambda name: self._bounds(group.number, name)
        )

    def rows(self, group: Group, budget: Budget) -> Iterator[pa.RecordBatch]:
        """Rows of a row group, in bounded pieces.

        Raises:
            DataError: They take more than the object may.
        """
        size = GroupSize.of(self.metadata, group.number, self._own.names)
        budget.check(size.least_bytes)
        most = PIECE_BATCHES * self._params.batch_bytes
        found = self._file.iter_batches(
            size.batch_rows(self._params), row_groups=[group.number], columns=self._own.names
        )
        for rows in found:
            if len(self._own):
                yield from pieces(rows.select(self._own.names), self._own, most, budget)
            else:
                yield rows

    def mapped(self, rows: pa.RecordBatch) -> Mapped:
        """The columns of the read, of some rows as they are in the file."""
        count = rows.num_rows
        arrays = dict(zip(self._own.names, rows.columns, strict=True))
        arrays |= {name: pa.repeat(told[0], count) for name, told in self._folders.items()}
        made = map_columns(arrays, count, self._wanted)
        if self._wanted.names == self._settled.chosen.names:
            return made
        return replace(made, rows=made.rows.select(self._settled.chosen.names))

    def _bounds(self, group: int, name: str) -> Bounds:
        """What is known of a column that is no folder's, by its name without regard to case."""
        field = next(one for one in self._settled.schema if folded(one.name) == name)
        if field.name not in self._found:
            return Bounds(nulls=True, values=False)
        schema = self.metadata.schema
        places = [
            place
            for place in range(self.metadata.num_columns)
            if schema.column(place).path == field.name
        ]
        if len(places) != 1:
            return Bounds()
        return bounds_of_chunk(self.metadata, group, places[0], field.type)


def open_file(
    source: pa.NativeFile,
    *,
    metadata: pq.FileMetaData | None = None,
    repeated: list[str] | None = None,
) -> pq.ParquetFile:
    """Read the footer, unless it is known; ranges are read at once where each is a request."""
    remote = not isinstance(source, pa.OSFile)
    return pq.ParquetFile(
        source,
        metadata=metadata,
        read_dictionary=repeated,
        pre_buffer=remote,
        # In nanoseconds the years before 1678 and after 2262 would become others without a word.
        coerce_int96_timestamp_unit="us",
    )


@contextmanager
def damage_told(uri: str) -> Generator[None]:
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
