"""Sinks with one bug each; `test_planted_bugs.py` demands that the suites find it.

Named so that the ordinary run of the tests does not collect it.
"""

import os
import sqlite3

import anyio
import test_acme_sqlite as sound
from acme_sqlite.sink import SqliteSink
from sqlite_log import EpochLog

from nvisy_dagster.sdk import (
    Capabilities,
    Progress,
)
from nvisy_dagster.sdk.identity import format_uuid

rows = sound.rows


class SwallowingSink(SqliteSink):
    """Swallow the last row of a unit."""

    async def write(self, batch):
        await super().write(batch.slice(0, max(batch.num_rows - 1, 0)))


class TestSinkSwallowsRow(sound.TestSqliteSink):
    component = SwallowingSink


class HastySink(SqliteSink):
    """Return from commit before the rows are durable; closing catches up."""

    async def open(self) -> None:
        await super().open()
        self.stack.push_async_callback(super().commit, 0)

    async def commit(self, epoch: int) -> None:
        pass


class TestSinkCommitDoesNotWait(sound.TestSqliteSink):
    component = HastySink


class AppendingSink(SqliteSink):
    """Append where it says upsert."""

    def _connect(self):
        db = sqlite3.connect(self.params.path, check_same_thread=False)
        db.execute(f"create table if not exists {self.params.table} (id text, text text)")
        return db


class TestSinkUpsertAppends(sound.TestSqliteSink):
    component = AppendingSink


class IgnoringSink(SqliteSink):
    """Keep the first of several records with one id."""

    async def write(self, batch):
        ids = [format_uuid(value) for value in batch.column("_id").to_pylist()]
        texts = batch.column("text").to_pylist()
        sql = f"insert or ignore into {self.params.table} values (?, ?)"
        await anyio.to_thread.run_sync(self.db.executemany, sql, list(zip(ids, texts, strict=True)))


class TestSinkUpsertKeepsFirst(sound.TestSqliteSink):
    component = IgnoringSink


class KeepingLog(EpochLog):
    """Discard nothing at a new start."""

    async def start(self, progress: Progress) -> None:
        self.run = progress.id


class TestSinkEpochKeepsUncovered(sound.TestEpochLog):
    component = KeepingLog


class ForgettingLog(EpochLog):
    """Discard what a checkpoint covers too."""

    async def start(self, progress: Progress) -> None:
        await super().start(Progress(progress.id, 0))


class TestSinkEpochDiscardsCovered(sound.TestEpochLog):
    component = ForgettingLog


class JealousLog(EpochLog):
    """Discard what other runs wrote."""

    async def start(self, progress: Progress) -> None:
        await super().start(progress)
        sql = f"delete from {self.params.table} where run != ?"
        await anyio.to_thread.run_sync(self._execute, sql, [(progress.id,)])


class TestSinkDiscardsOtherRuns(sound.TestEpochLog):
    component = JealousLog


class RacingLog(EpochLog):
    """Lose writes that overlap."""

    async def write(self, batch):
        before = list(self.buffer)
        await anyio.sleep(0.001)
        self.buffer = before
        await super().write(batch)


class TestSinkLosesOverlappingWrites(sound.TestEpochLog):
    component = RacingLog


class FussySink(SqliteSink):
    """Fail on an empty batch."""

    async def write(self, batch):
        if batch.num_rows == 0:
            raise ValueError("nothing to write")
        await super().write(batch)


class TestSinkFailsOnEmptyBatch(sound.TestSqliteSink):
    component = FussySink


class CarelessSink(SqliteSink):
    """Check nothing."""

    def check(self, incoming):
        pass


class TestSinkChecksNothing(sound.TestSqliteSink):
    component = CarelessSink


class LosingSplit(SqliteSink):
    """Lose the last row of a batch."""

    def split(self, batch):
        for start in range(0, batch.num_rows - 1, 2):
            yield batch.slice(start, 2)


class TestSplitLosesRow(sound.TestSqliteSink):
    component = LosingSplit


class Writer(SqliteSink):
    """Read a file in the event loop."""

    async def commit(self, epoch: int) -> None:
        descriptor = os.open(self.params.path, os.O_RDONLY)
        os.read(descriptor, 1)
        os.close(descriptor)
        await super().commit(epoch)


class TestSinkBlocks(sound.TestSqliteSink):
    component = Writer


class Hogging(SqliteSink):
    """Claim one row a call and take more."""

    capabilities = Capabilities(write_mode="upsert", max_rows=1)

    def split(self, batch):
        yield batch


class TestSplitTooLarge(sound.TestSqliteSink):
    component = Hogging
