"""Write a SQLite table."""

import sqlite3
from pathlib import Path

import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.sdk import (
    Capabilities,
    ConfigError,
    EdgeType,
    Identifier,
    Params,
    Sink,
    TransientError,
)
from nvisy_dagster.sdk.identity import format_uuid


class UpsertParams(Params):
    """Which table to write."""

    path: Path
    """Database file, made when it is missing."""
    table: Identifier
    """Table with the columns `id` and `text`, made when it is missing."""


class SqliteSink(Sink[UpsertParams]):
    """Upsert texts into a SQLite table by their ids.

    Rows become visible at `commit`; what was not committed is rolled back.
    """

    name = "sqlite"
    capabilities = Capabilities(write_mode="upsert", max_rows=500)

    async def open(self) -> None:
        self.db = await to_thread.run_sync(self._connect)
        self.stack.push_async_callback(to_thread.run_sync, self.db.close)

    def check(self, incoming: EdgeType) -> None:
        schema = incoming.schema
        if schema is not None and "text" not in schema.names:
            raise ConfigError(
                f"column 'text' is missing; there are {', '.join(schema.names)}",
                remedy="rename a column to 'text' with a `map` action before the sink",
            )

    async def write(self, batch: pa.RecordBatch) -> None:
        ids = map(format_uuid, batch.column("_id").to_pylist())
        rows = list(zip(ids, batch.column("text").to_pylist(), strict=True))
        sql = f"insert or replace into {self.params.table} (id, text) values (?, ?)"
        try:
            await to_thread.run_sync(self.db.executemany, sql, rows)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise TransientError("the database is busy") from error
            raise

    async def commit(self, epoch: int) -> None:
        await to_thread.run_sync(self.db.commit)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.params.path, check_same_thread=False)
        table = self.params.table
        db.execute(f"create table if not exists {table} (id text primary key, text text)")
        return db
