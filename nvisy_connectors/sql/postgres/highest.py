"""The highest value of a cursor column, and whether all rows up to it are visible."""

import time
from typing import TYPE_CHECKING, Any

import anyio

from nvisy_connectors.sql.postgres.reading import ReadColumn
from nvisy_connectors.sql.postgres.source_params import PostgresSourceParams
from nvisy_connectors.sql.postgres.watermark import Seen

if TYPE_CHECKING:
    from psycopg import AsyncConnection

SETTLE_SECONDS = 5.0
"""How long to wait for the transactions that were writing when the highest value was looked up."""
_PAUSE_SECONDS = 0.05

# Other users' sessions show no times to a user without the role `pg_read_all_stats`.
_NOW = """
SELECT CAST(EXTRACT(epoch FROM clock_timestamp()) * 1000000 AS bigint),
       CAST(EXTRACT(epoch FROM least(
           (SELECT min(xact_start) FROM pg_catalog.pg_stat_activity
            WHERE pid <> pg_catalog.pg_backend_pid() AND datname = current_database()),
           (SELECT min(prepared) FROM pg_catalog.pg_prepared_xacts
            WHERE database = current_database())
       )) * 1000000 AS bigint)
"""
# Who writes a row holds this lock from before it draws a number until it ends.
_WRITERS = """
SELECT coalesce(array_agg(DISTINCT virtualtransaction), '{{}}')
FROM pg_catalog.pg_locks
WHERE locktype = 'relation' AND granted AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND relation IN (SELECT CAST({0} AS regclass)
                   UNION ALL SELECT relid FROM pg_catalog.pg_partition_tree(CAST({0} AS regclass)))
"""
_IS_TOLD = """
SELECT NOT pg_catalog.pg_is_in_recovery() AND relkind IN ('r', 'p')
FROM pg_catalog.pg_class WHERE oid = CAST({} AS regclass)
"""


async def find_highest(
    connection: "AsyncConnection[Any]",
    params: PostgresSourceParams,
    column: ReadColumn,
    *,
    settle: bool,
) -> Seen:
    """What is there when a run begins.

    Args:
        connection: A session.
        params: What the source was told.
        column: The cursor column.
        settle: Whether to wait for who is writing now, so that no row below the highest value
            becomes visible later.
    """
    from psycopg import sql

    now, oldest = await _row(connection, sql.SQL(_NOW))
    (highest,) = await _row(connection, _highest(params, column))
    settled = settle and highest is not None and await _settled(connection, params)
    return Seen(now=now, oldest=oldest, highest=highest, settled=settled)


async def _settled(connection: "AsyncConnection[Any]", params: PostgresSourceParams) -> bool:
    from psycopg import sql

    table = sql.Literal(sql.Identifier(params.schema, params.table).as_string(connection))
    (is_told,) = await _row(connection, sql.SQL(_IS_TOLD).format(table))
    if not is_told:
        return False
    writers = sql.SQL(_WRITERS).format(table)
    (found,) = await _row(connection, writers)
    waiting = set(found)
    deadline = time.monotonic() + SETTLE_SECONDS
    while waiting and time.monotonic() < deadline:
        await anyio.sleep(_PAUSE_SECONDS)
        (found,) = await _row(connection, writers)
        waiting &= set(found)
    return not waiting


def _highest(params: PostgresSourceParams, column: ReadColumn) -> Any:  # noqa: ANN401 - a query
    from psycopg import sql

    name = sql.Identifier(column.name)
    table = sql.Identifier(params.schema, params.table)
    if column.whole_number:
        return sql.SQL("SELECT CAST(max({}) AS bigint) FROM {}").format(name, table)
    value = "CAST(EXTRACT(epoch FROM max({0})) * 1000000 AS bigint)"
    if column.decoder == "date":
        value = "CAST(max({0}) - DATE '1970-01-01' AS bigint)"
    # An infinite time is behind all others, and no place to go on from.
    query = sql.SQL("SELECT {0} FROM {1} WHERE {2} < 'infinity'")
    return query.format(sql.SQL(value).format(name), table, name)


async def _row(connection: "AsyncConnection[Any]", query: Any) -> Any:  # noqa: ANN401
    cursor = await connection.execute(query)
    return await cursor.fetchone()
