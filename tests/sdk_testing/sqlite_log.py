"""Two more sinks to try the suites on: one of `epoch` and one of `append` mode."""

import sqlite3
from pathlib import Path

import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.sdk import Capabilities, Identifier, Params, Progress, Sink
from nvisy_dagster.sdk.identity import format_uuid


class LogParams(Params):
    """Which table to append to."""

    path: Path
    """Database file, made when it is missing."""
    table: Identifier
    """Table to append to, made when it is missing."""


class EpochLog(Sink[LogParams]):
    """Append texts, each with its run and epoch, and take back what no checkpoint covers."""

    name = "epoch_log"
    capabilities = Capabilities(write_mode="epoch", concurrency=3)

    async def open(self) -> None:
        self.buffer: list[tuple[str, str]] = []
        self.db = await to_thread.run_sync(self._connect)
        self.stack.callback(self.db.close)

    async def start(self, progress: Progress) -> None:
        self.run = progress.id
        sql = f"delete from {self.params.table} where run = ? and epoch > ?"
        await to_thread.run_sync(self._execute, sql, [(progress.id, progress.epoch)])

    async def write(self, batch: pa.RecordBatch) -> None:
        texts = batch.column("text").to_pylist()
        ids = map(format_uuid, batch.column("_id").to_pylist())
        self.buffer += zip(ids, texts, strict=True)

    async def commit(self, epoch: int) -> None:
        rows = [(*row, self.run, epoch) for row in self.buffer]
        sql = f"insert into {self.params.table} values (?, ?, ?, ?)"
        await to_thread.run_sync(self._execute, sql, rows)
        self.buffer = []

    def _execute(self, sql: str, rows: list[tuple[object, ...]]) -> None:
        with self.db:
            self.db.executemany(sql, rows)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.params.path, check_same_thread=False)
        table = self.params.table
        db.execute(f"create table if not exists {table} (id text, text text, run text, epoch int)")
        return db


class AppendLog(EpochLog):
    """Append texts and take nothing back."""

    name = "append_log"
    capabilities = Capabilities(write_mode="append")

    async def start(self, progress: Progress) -> None:
        self.run = progress.id
