"""A session that only reads, and the rows of a query as the server sends them.

psycopg's own `copy` awaits every row. Here rows are taken from libpq's buffer as long as there are
any, several times as many in a second; the waiting is the event loop's all the same.
"""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from nvisy_connectors.sql.postgres.connection import PostgresConnection

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.pq.abc import PGconn, PGresult

_HEAD_BYTES = 19
_TRAILER = b"\xff\xff"
_CANCEL_SECONDS = 2.0

# What a text looks like must not depend on how the server is set up: keys are made of some.
_SETTINGS = """
SELECT set_config('default_transaction_read_only', 'on', false),
       set_config('TimeZone', 'UTC', false),
       set_config('DateStyle', 'ISO', false),
       set_config('IntervalStyle', 'iso_8601', false),
       set_config('bytea_output', 'hex', false),
       set_config('extra_float_digits', '1', false)
"""


@dataclass
class Rows:
    """Neighbouring rows in the binary format, one behind the other."""

    data: bytearray = field(default_factory=bytearray)
    """Of each row the number of its columns, and its values."""
    sizes: list[int] = field(default_factory=list[int])
    """Bytes of each row."""


async def connect(to: PostgresConnection) -> "AsyncConnection[Any]":
    """A session in which every transaction only reads."""
    from psycopg import AsyncConnection

    connection = await AsyncConnection.connect(
        **to.settings(), client_encoding="utf8", autocommit=True, prepare_threshold=None
    )
    try:
        await connection.execute(_SETTINGS)
    except BaseException:
        await connection.close()
        raise
    return connection


async def close(connection: "AsyncConnection[Any]") -> None:
    """Close it; a query that is under way is cancelled, so that the server does not work on."""
    from psycopg import Error
    from psycopg.pq import TransactionStatus

    if connection.info.transaction_status == TransactionStatus.ACTIVE:
        with suppress(Error, OSError, TimeoutError):
            await connection.cancel_safe(timeout=_CANCEL_SECONDS)
    with suppress(OSError):
        await connection.close()


async def copy_out(
    connection: "AsyncConnection[Any]",
    query: bytes,
    most_bytes: int,
    most_rows: Callable[[], int] = lambda: sys.maxsize,
) -> AsyncGenerator[Rows, None]:
    """The rows of a query, in pieces of about `most_bytes`; the server waits meanwhile.

    A generator that is left before its end leaves the query under way: close the connection.

    Args:
        connection: The session.
        query: What to read.
        most_bytes: Size at which a piece is whole.
        most_rows: Tells how many rows the next piece may have.
    """
    client = connection.pgconn
    # Of the kinds of request, this one takes a single statement and no more.
    client.send_query_params(b"COPY (" + query + b") TO STDOUT (FORMAT BINARY)", None)
    while client.flush():
        await anyio.wait_writable(client.socket)
    await _result(client, "COPY_OUT")
    rows = Rows()
    skipped = _HEAD_BYTES
    most = most_rows()
    while True:
        size = _take(client, rows, skipped, most_bytes, most)
        if rows.sizes:
            skipped = 0
        if len(rows.data) >= most_bytes or len(rows.sizes) >= most:
            yield rows
            rows, most = Rows(), most_rows()
        elif size == 0:
            await anyio.wait_readable(client.socket)
            client.consume_input()
        elif size < 0:
            break
    await _result(client, "COMMAND_OK")
    while await _next_result(client) is not None:
        pass
    if rows.sizes:
        yield rows


def _take(client: "PGconn", rows: Rows, skipped: int, most_bytes: int, most_rows: int) -> int:
    """Take what has come; returns 0 if there is nothing more for now, and -1 at the end.

    Args:
        client: The connection.
        rows: Where the rows go.
        skipped: Bytes before the first row, which come with it.
        most_bytes: When to stop.
        most_rows: When to stop, too.
    """
    data, sizes, get = rows.data, rows.sizes, client.get_copy_data
    while len(data) < most_bytes and len(sizes) < most_rows:
        # Copied at once, so that libpq's memory is used again for the next row.
        size, row = get(1)
        if size <= 0:
            return size
        # The end is a message of its own, or follows the head if there are no rows.
        if size - skipped == len(_TRAILER) and bytes(row[skipped:]) == _TRAILER:
            skipped = 0
            continue
        if skipped:
            row, size, skipped = row[skipped:], size - skipped, 0
        data += row
        sizes.append(size)
    return 1


async def _result(client: "PGconn", wanted: str) -> None:
    from psycopg.errors import InternalError, error_from_result
    from psycopg.pq import ExecStatus

    result = await _next_result(client)
    if result is None:
        raise InternalError("the server gave no answer")
    if result.status == ExecStatus[wanted]:
        return
    error = error_from_result(result)
    with suppress(type(error), OSError):
        while await _next_result(client) is not None:
            pass
    raise error


async def _next_result(client: "PGconn") -> "PGresult | None":
    while client.is_busy():
        await anyio.wait_readable(client.socket)
        client.consume_input()
    return client.get_result()
