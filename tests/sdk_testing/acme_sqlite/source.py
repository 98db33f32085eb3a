"""Read a SQLite table."""

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.sdk import Batch, Cursor, DataError, EdgeType, Identifier, Params, Source
from nvisy_dagster.sdk.envelope import ENVELOPE, with_envelope
from nvisy_dagster.sdk.identity import root_ids

PAYLOAD = pa.schema([pa.field("text", pa.string(), nullable=False)])


class TableParams(Params):
    """Which column of which table to read."""

    path: Path
    """Database file."""
    table: Identifier
    """Table to read."""
    column: Identifier = "text"
    """Column that holds the text."""
    key: Identifier = "id"
    """Increasing integer column to page by."""
    batch_rows: int = 1_000
    """Rows per batch."""


class KeyCursor(Cursor):
    """The last key that was read."""

    after: int


class SqliteSource(Source[TableParams, KeyCursor]):
    """Read a text column of a SQLite table in key order.

    Rows inserted behind the cursor are not seen again.
    """

    name = "sqlite"

    async def open(self) -> None:
        self.db = await to_thread.run_sync(_connect, self.params.path)
        self.stack.push_async_callback(to_thread.run_sync, self.db.close)

    def location(self) -> str:
        return f"sqlite://{self.params.path.absolute()}/{self.params.table}"

    def output(self) -> EdgeType:
        return EdgeType("document", pa.schema([*ENVELOPE, *PAYLOAD]))

    async def read(self, cursor: KeyCursor | None) -> AsyncGenerator[Batch[KeyCursor], None]:
        after = cursor.after if cursor else -1
        while page := await to_thread.run_sync(self._page, after):
            keys, texts = zip(*page, strict=True)
            if None in texts:
                key = keys[texts.index(None)]
                message = f"{self.location()}, {self.params.key} {key}: the text is null"
                raise DataError(message, rows={texts.index(None): "null"})
            after = keys[-1]
            yield Batch(self._batch(keys, texts), KeyCursor(after=after))

    def _page(self, after: int) -> list[tuple[int, str | None]]:
        p = self.params
        sql = f"select {p.key}, {p.column} from {p.table} where {p.key} > ? order by 1 limit ?"
        return self.db.execute(sql, (after, p.batch_rows)).fetchall()

    def _batch(self, keys: tuple[int, ...], texts: tuple[str, ...]) -> pa.RecordBatch:
        uri, positions = self.location(), np.array(keys, np.int64)
        columns = pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], schema=PAYLOAD)
        return with_envelope(columns, ids=root_ids(uri, positions), uri=uri, positions=positions)


def _connect(path: Path) -> sqlite3.Connection:
    # Calls come one after the other, but each in whatever worker thread is free.
    return sqlite3.connect(path, check_same_thread=False)
