"""Reading the rows of a table of PostgreSQL."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.sql.postgres import watermark
from nvisy_connectors.sql.postgres.again import RowsAgain
from nvisy_connectors.sql.postgres.ahead import one_ahead
from nvisy_connectors.sql.postgres.connection import PostgresConnection
from nvisy_connectors.sql.postgres.copy_out import Rows, close, connect, copy_out
from nvisy_connectors.sql.postgres.cursor import PostgresCursor, Span
from nvisy_connectors.sql.postgres.errors import classify_reading
from nvisy_connectors.sql.postgres.highest import find_highest
from nvisy_connectors.sql.postgres.pages import MICROSECONDS, Page, Pages, Position, Range
from nvisy_connectors.sql.postgres.source_params import PostgresSourceParams
from nvisy_connectors.sql.postgres.source_table import SourceTable, describe
from nvisy_dagster.sdk import (
    Batch,
    Bookmark,
    Capabilities,
    Change,
    ChangeCounts,
    ConfigError,
    Connection,
    Decoded,
    EdgeType,
    RejectedRecord,
    Source,
    connection_of,
)

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.sql import Composed

PIECE_BYTES = 8 * 2**20
"""Size of a batch, as the server sends it."""

LAG_SECONDS = 300


class PostgresSource(Source[PostgresSourceParams, PostgresCursor]):
    """Reads the rows of a PostgreSQL table, a page at a time, in the order of its key.

    A read that was cut off goes on behind the last key, so every row that stays is read exactly
    once. Each page sees what is committed when it is asked for; rows that are written behind the
    position are left to the next run. The transactions only read. The id of a record is a hash of
    the table's address and the row's key: it is the same in every run, whatever else changes.

    Numbers, texts, times and arrays become what they are in Arrow; `numeric(p, s)` a decimal of
    these digits, and `numeric` without digits text, since no type holds them all; `json` and
    `jsonb` text; `uuid` a UUID; a `vector(d)` of pgvector a list of `d` floats. All else (enums,
    intervals, ranges, addresses) is read as PostgreSQL writes it. A value that Arrow cannot hold,
    such as an infinite date, is a bad record; a replay of its dead letter reads the row again, by
    its key, as it is then. Tables without a key are refused.

    With `"incremental": true` it needs a `cursor_column`. The first run reads everything, later
    ones the rows whose value grew since. What is made of a changed row replaces what was made of
    it before; a row that does not meet `where` any more is removed. So mark rows as deleted
    (`"where": "deleted_at IS NULL"`) instead of deleting them: a deleted row has no value that
    grows, and stays in the sinks. Rows whose value is null are read by the first run alone.

    Late commits are found. Times are read again from `lag_seconds` before the last run on, longer
    if a transaction that the user may see is older. Numbers are taken as drawn from a sequence
    (without `CACHE`) by the transaction that writes the row: the source waits until the ones that
    were under way have ended. If it cannot see them (a standby, a view), or they take too long, or
    `lag_seconds` is given, a run reads from the highest number that was there so long before the
    last run.
    """

    name = "postgres"
    connection_type = PostgresConnection
    capabilities = Capabilities(replayable=True)
    bookmarks = True
    skips_bad_records = True
    decodes = True
    requires = ("psycopg",)
    extra = "sql"

    def __init__(
        self,
        params: PostgresSourceParams,
        connection: Connection | None = None,
        *,
        node_id: str = "",
        folder: Path | None = None,
    ) -> None:
        super().__init__(params, connection, node_id=node_id, folder=folder)
        self._session: AsyncConnection[Any] | None = None
        self._table: SourceTable | None = None

    def location(self) -> str | None:
        """`postgres://host:port/database/schema.table`."""
        base = super().location()
        return f"{base}/{self._place()}" if base else None

    def output(self) -> EdgeType:
        """Rows; their columns are known when the table is read."""
        return EdgeType("row")

    def check_incremental(self) -> None:
        """Refuse params without a cursor column.

        Raises:
            ConfigError: There is none.
        """
        if self.params.cursor_column is None:
            raise ConfigError(
                "param 'cursor_column' is missing, which tells an incremental run what changed",
                remedy="name a column that grows with every change, such as 'updated_at'",
            )

    async def open(self) -> None:
        """Log in, and try the query.

        Raises:
            ConfigError: The credentials are refused, or the params do not fit the table.
            TransientError: The server cannot be reached.
        """
        self._address: PostgresConnection = connection_of(self, PostgresConnection)
        self.stack.push_async_callback(self._drop)
        pages = self._pages(await self._described())
        async with aclosing(self._rows(pages.query(None, 0))) as nothing:
            async for _ in nothing:
                pass

    async def read(
        self, cursor: PostgresCursor | None
    ) -> AsyncGenerator[Batch[PostgresCursor], None]:
        """Rows in the order of the key, behind that of the cursor.

        Raises:
            ConfigError: The table is not what it was, or the key does not tell its rows apart.
            DataError: No record can hold a row.
            TransientError: The server cannot be reached, or the session is lost.
        """
        pages = self._pages(await self._described())
        after = None if cursor is None or cursor.key is None else Position(cursor.key)
        async with aclosing(self._read(pages, after)) as found:
            async for page in found:
                at = PostgresCursor(key=tuple(page.last.key))
                yield Batch(page.data, at, tuple(page.rejected.values()))

    async def read_changes(
        self, cursor: PostgresCursor | None, bookmark: Bookmark
    ) -> AsyncGenerator[Change[PostgresCursor], None]:
        """Rows whose cursor column grew since the last successful run; all in the first run.

        Raises:
            ConfigError: As of `read`, or there is no cursor column.
            DataError: No record can hold a row.
            TransientError: The server cannot be reached, or the session is lost.
        """
        self.check_incremental()
        table = await self._described()
        known = watermark.known(bookmark)
        if cursor is None:
            held = bool(bookmark.last or bookmark.touched)
            first = await self._begin(table, known, held=held)
            cursor = first.cursor
            yield first
        span = cursor.span
        if span is None:
            raise ConfigError(
                "the position in the checkpoint is that of a run that was not incremental",
                remedy="run the graph with --fresh",
                tag="changed",
            )
        window = watermark.Window(None if span.begin is None else known.rows)
        after = None if cursor.key is None else Position(cursor.key, cursor.value)
        within = None if span.begin is None else Range(span.begin, span.upto)
        pages = self._pages(table, within, tells_gone=span.tells_gone)
        async with aclosing(self._read(pages, after)) as found:
            async for page in found:
                yield self._change(page, span, window, table)

    def can_decode(self, rejected: RejectedRecord) -> bool:  # noqa: ARG002 - whichever it is
        """Any: a row is read again by its key."""
        return True

    async def decode(self, rejected: Sequence[RejectedRecord]) -> AsyncGenerator[Decoded, None]:
        """The rows as they are now, found by their keys.

        Raises:
            ConfigError: As of `read`.
            TransientError: The server cannot be reached, or the session is lost.
        """
        pages = self._pages(await self._described(), rejects=True)
        again = RowsAgain(
            pages, self.location() or "", lambda keys: self._rows(pages.query_of(keys))
        )
        async with aclosing(again.decode(rejected)) as found:
            async for decoded in found:
                yield decoded

    async def _begin(
        self, table: SourceTable, known: watermark.Known, *, held: bool
    ) -> Change[PostgresCursor]:
        """Settle what this run reads, and where the next one begins."""
        column = table.cursor
        assert column is not None  # noqa: S101 - asked for by the caller
        unit = MICROSECONDS.get(column.decoder)
        session = await self._ready()
        async with classify_reading(self._place(), self.params.where):
            seen = await find_highest(session, self.params, column, settle=unit is None)
        lag = self.params.lag_seconds
        microseconds = int((LAG_SECONDS if lag is None else lag) * 1_000_000)
        start = known.begin
        if start is not None and seen.highest is not None and seen.highest < start:
            start = None  # the table was filled anew: nothing is known of it
        if unit is None:
            if lag is not None:
                seen = seen.unsettled()
            begin, notes = watermark.next_of_numbers(seen, microseconds, known.notes, start)
        else:
            begin, notes = watermark.next_of_times(seen, microseconds, unit), []
        # Nothing is up to the least of all values.
        upto = watermark.NOTHING if seen.highest is None else seen.highest
        span = Span(begin=start, upto=upto, next_begin=begin, tells_gone=held)
        return Change(
            PostgresCursor(key=None, span=span),
            bookmark=watermark.head(begin, notes),
            touched=watermark.begun(seen),
        )

    def _change(
        self, page: Page, span: Span, window: watermark.Window, table: SourceTable
    ) -> Change[PostgresCursor]:
        at = PostgresCursor(key=tuple(page.last.key), value=page.last.value, span=span)
        assert page.values is not None  # noqa: S101 - an incremental read has a cursor column
        was_there, same = window.compare(page.ids, page.values)
        again = None
        if span.next_begin is not None:
            again = watermark.rows_from(span.next_begin, page.ids, page.values)
        data = page.data
        if same.any():
            data = data.filter(pa.array(~same[page.kept]))
        rejected = [one for row, one in page.rejected.items() if not same[row]]
        gone = page.gone & ~same
        changed = int((was_there & ~same & ~page.gone).sum())
        others = data.num_rows + len(rejected) - changed
        # Of what lies outside the window, only numbers tell that it is new.
        as_new = span.begin is None or (table.cursor is not None and table.cursor.whole_number)
        return Change(
            at,
            batch=Batch(data, at, rejected) if data.num_rows or rejected else None,
            gone=page.ids.filter(pa.array(gone)) if gone.any() else None,
            bookmark=again,
            counts=ChangeCounts(
                new=others if as_new else 0,
                changed=changed + (0 if as_new else others),
                removed=int(gone.sum()),
                unchanged=int(same.sum()),
            ),
        )

    async def _read(self, pages: Pages, after: Position | None) -> AsyncGenerator[Page, None]:
        """All pages behind a position."""
        await self._check_nulls(pages)
        async with aclosing(one_ahead(self._pieces(pages, after))) as pieces:
            async for rows, before in pieces:
                yield await to_thread.run_sync(pages.page, rows, before)

    async def _pieces(
        self, pages: Pages, after: Position | None
    ) -> AsyncGenerator[tuple[Rows, Position | None], None]:
        """All rows behind a position, with the position that each piece is behind."""
        most = self.params.batch_rows
        while True:
            count = 0
            async with aclosing(self._rows(pages.query(after, most))) as found:
                async for rows in found:
                    count += len(rows.sizes)
                    before, after = after, pages.last(rows)
                    yield rows, before
            if count < most:
                return

    async def _check_nulls(self, pages: Pages) -> None:
        query = pages.nulls()
        if query is None:
            return
        session = await self._ready()
        async with classify_reading(self._place(), self.params.where):
            found = await session.execute(query)
            if await found.fetchone() is not None:
                raise pages.without_key()

    async def _rows(self, query: "Composed") -> AsyncGenerator[Rows, None]:
        """Rows of a query; a session that is left in the middle of it is closed."""
        session = await self._ready()
        whole = False
        try:
            async with classify_reading(self._place(), self.params.where):
                asked = query.as_bytes(session)
                rows_at_most = partial(self.rows_at_most, self.params.batch_rows)
                async with aclosing(copy_out(session, asked, PIECE_BYTES, rows_at_most)) as found:
                    async for rows in found:
                        yield rows
            whole = True
        finally:
            if not whole:
                with anyio.CancelScope(shield=True):
                    await self._drop()

    def _pages(
        self,
        table: SourceTable,
        span: Range | None = None,
        *,
        tells_gone: bool = False,
        rejects: bool = False,
    ) -> Pages:
        return Pages(
            table,
            self.params,
            self.location() or "",
            span=span,
            tells_gone=tells_gone,
            rejects=rejects or self.bad_records == "reject",
        )

    async def _described(self) -> SourceTable:
        """The table; the same for the whole life of the source.

        Raises:
            ConfigError: It was changed meanwhile.
        """
        session = await self._ready()
        async with classify_reading(self._place(), None):
            table = await describe(session, self.params, self._place())
        if self._table is not None and table != self._table:
            raise ConfigError(
                f"{self._place()} was altered while it was read",
                remedy="run the graph again from the beginning",
                tag="changed",
            )
        self._table = table
        return table

    async def _ready(self) -> "AsyncConnection[Any]":
        from psycopg.pq import TransactionStatus

        session = self._session
        idle = session and session.info.transaction_status == TransactionStatus.IDLE
        if session is not None and (session.closed or not idle):
            await self._drop()
        if self._session is None:
            async with classify_reading(self._place(), None):
                self._session = await connect(self._address)
        return self._session

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await close(session)

    def _place(self) -> str:
        return f"{self.params.schema}.{self.params.table}"
