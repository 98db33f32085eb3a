"""Reading with the source as the engine does."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from nvisy_connectors.sql.postgres import PostgresConnection, PostgresSource
from nvisy_connectors.sql.postgres.source_params import PostgresSourceParams
from nvisy_dagster.sdk import Bookmark, Change


def source(connection: PostgresConnection, **params: Any) -> PostgresSource:
    """A source of the table `t`."""
    chosen = PostgresSourceParams(**{"table": "t", **params})
    return PostgresSource(chosen, connection, node_id="rows")


async def read(connection: PostgresConnection, cursor: Any = None, **params: Any) -> pa.Table:
    """All records."""
    async with source(connection, **params) as reader:
        batches = [batch.data async for batch in reader.read(cursor)]
    return pa.Table.from_batches(batches)


async def changes(
    connection: PostgresConnection, last: Sequence[pa.RecordBatch] = (), **params: Any
) -> list[Change]:
    """What an incremental run is told that begins with this bookmark."""
    bookmark = Bookmark(last=last, trusted=bool(last))
    async with source(connection, **params) as reader:
        return [change async for change in reader.read_changes(None, bookmark)]


def kept(found: Sequence[Change]) -> list[pa.RecordBatch]:
    """The bookmark that a run leaves, as the next one gets it."""
    return [change.bookmark for change in found if change.bookmark is not None]


def sent(found: Sequence[Change], column: str = "id") -> list[Any]:
    """A column of the records of all steps."""
    batches = [change.batch.data for change in found if change.batch is not None]
    return [value for batch in batches for value in batch.column(column).to_pylist()]
