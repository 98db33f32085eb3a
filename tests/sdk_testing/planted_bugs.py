"""Components with one bug each; `test_planted_bugs.py` demands that the suites find it.

Named so that the ordinary run of the tests does not collect it.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Mapping

import anyio
import numpy as np
import pyarrow as pa
import pytest
import test_acme_sqlite as sound
from acme_sqlite.action import Lines, LinesParams
from acme_sqlite.router import ByLength
from acme_sqlite.sink import SqliteSink
from acme_sqlite.source import KeyCursor, SqliteSource, TableParams
from anyio.lowlevel import checkpoint
from pydantic import Field, SecretStr
from sqlite_log import EpochLog

from nvisy_dagster.sdk import (
    Batch,
    Capabilities,
    Connection,
    Cursor,
    EdgeType,
    Params,
    Progress,
    Source,
)
from nvisy_dagster.sdk.envelope import ENVELOPE
from nvisy_dagster.sdk.identity import format_uuid, ids_to_array, ulids

rows = sound.rows


def replaced(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    place = batch.schema.get_field_index(name)
    return batch.set_column(place, batch.schema.field(name), column)


class OffByOne(SqliteSource):
    """Give a cursor that is one row behind."""

    async def read(self, cursor):
        async for batch in super().read(cursor):
            yield Batch(batch.data, KeyCursor(after=batch.cursor.after - 1))


class TestCursorOffByOne(sound.TestSqliteSource):
    component = OffByOne


class ForgetfulCursor(Cursor):
    """A cursor whose position is not written."""

    after: int = Field(-1, exclude=True)


class Forgetful(SqliteSource, Source[TableParams, ForgetfulCursor]):
    """Give a cursor that JSON does not hold."""

    async def read(self, cursor):
        async for batch in super().read(cursor):
            yield Batch(batch.data, ForgetfulCursor(after=batch.cursor.after))


class TestCursorLostInJson(sound.TestSqliteSource):
    component = Forgetful


class RandomIds(SqliteSource):
    """Give ids that change from read to read."""

    async def read(self, cursor):
        async for batch in super().read(cursor):
            ids = ids_to_array(ulids(batch.data.num_rows))
            yield Batch(replaced(batch.data, "_id", ids), batch.cursor)


class TestSourceRandomIds(sound.TestSqliteSource):
    component = RandomIds


class OtherSchema(SqliteSource):
    """Promise a schema that is not read."""

    def output(self):
        return EdgeType("document", pa.schema([*ENVELOPE, pa.field("text", pa.large_string())]))


class TestSourceOtherSchema(sound.TestSqliteSource):
    component = OtherSchema


class LastEmpty(SqliteSource):
    """End with an empty batch."""

    async def read(self, cursor):
        async for batch in super().read(cursor):
            yield batch
            last = batch
        yield Batch(last.data.slice(0, 0), last.cursor)


class TestSourceEmptyBatch(sound.TestSqliteSource):
    component = LastEmpty


class Leaking(SqliteSource):
    """Never close the database."""

    async def open(self) -> None:
        self.db = sqlite3.connect(self.params.path, check_same_thread=False)


class TestSourceLeaksClient(sound.TestSqliteSource):
    component = Leaking


class Straggler(SqliteSource):
    """Leave a task behind."""

    async def open(self) -> None:
        await super().open()
        self.task = asyncio.get_running_loop().create_task(asyncio.sleep(30))


class TestSourceLeaksTask(sound.TestSqliteSource):
    component = Straggler


class LateCloser(SqliteSource):
    """Close only when it is not cancelled."""

    async def open(self) -> None:
        self.db = sqlite3.connect(self.params.path, check_same_thread=False)

    async def __aexit__(self, *exc):
        await checkpoint()
        self.db.close()


class TestSourceLeaksWhenCancelled(sound.TestSqliteSource):
    component = LateCloser


class Sleeper(SqliteSource):
    """Sleep in the event loop."""

    async def read(self, cursor):
        async for batch in super().read(cursor):
            time.sleep(0.001)  # noqa: ASYNC251 - the bug
            yield batch


class TestSourceBlocks(sound.TestSqliteSource):
    component = Sleeper


class Stubborn(SqliteSource):
    """Take its time when it is cancelled."""

    async def read(self, cursor):
        try:
            async for batch in super().read(cursor):
                yield batch
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2.1)
            raise


class TestSourceClosesSlowly(sound.TestSqliteSource):
    component = Stubborn

    @pytest.fixture(autouse=True)
    def short_patience(self, monkeypatch):
        monkeypatch.setattr("nvisy_dagster.sdk.testing.watch.PROMPT_SECONDS", 2.0)


class Curious(SqliteSource):
    """Look into the database at compile time."""

    def output(self):
        sqlite3.connect(self.params.path).close()
        return super().output()


class TestSourceImpure(sound.TestSqliteSource):
    component = Curious


class Telling(SqliteSource):
    """Show the password."""

    def location(self):
        return f"sqlite://{self.connection.password.get_secret_value()}@host"


class Secretive(Connection):
    """A connection with a password."""

    type = "sqlite"
    password: SecretStr
    """Opens the door."""


class TestSourceTellsSecret(sound.TestSqliteSource):
    component = Telling

    @pytest.fixture
    def connection(self):
        return Secretive(password="open sesame")


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


class FirstOfBatch(Lines):
    """Treat the first row of a batch in a way of its own."""

    def transform(self, batch):
        out = super().transform(batch)
        texts = out.column("text").to_pylist()
        texts[:1] = [text.upper() for text in texts[:1]]
        return replaced(out, "text", pa.array(texts, pa.string()))


class TestActionDependsOnCuts(sound.TestLines):
    component = FirstOfBatch


class RandomLines(Lines):
    """Give ids that change from run to run."""

    def transform(self, batch):
        out = super().transform(batch)
        return replaced(out, "_id", ids_to_array(ulids(out.num_rows)))


class TestActionRandomIds(sound.TestLines):
    component = RandomLines


class SameIds(Lines):
    """Give all lines of a document one id."""

    def transform(self, batch):
        out = super().transform(batch)
        return replaced(out, "_id", out.column("_root_id"))


class TestActionDoublesIds(sound.TestLines):
    component = SameIds


class Orphans(Lines):
    """Name parents that nobody knows."""

    def transform(self, batch):
        out = super().transform(batch)
        strangers = ids_to_array(np.ones((out.num_rows, 2), np.uint64))
        offsets = pa.array(range(out.num_rows + 1), pa.int32())
        kind = out.schema.field("_parent_ids").type
        lists = pa.ListArray.from_arrays(offsets, strangers, type=kind)
        return replaced(out, "_parent_ids", lists)


class TestActionWrongParents(sound.TestLines):
    component = Orphans


class Uprooted(Lines):
    """Make every record a root of its own."""

    def transform(self, batch):
        out = super().transform(batch)
        return replaced(out, "_root_id", out.column("_id"))


class TestActionWrongRoots(sound.TestLines):
    component = Uprooted


class Shared(Lines):
    """Keep the batch of a call where another call finds it."""

    async def apply(self, batch):
        self.batch = batch
        await anyio.sleep(0.001)
        return self.transform(self.batch)


class TestActionMixesCalls(sound.TestLines):
    component = Shared


class Undocumented(Lines):
    pass


class TestNoDocstring(sound.TestLines):
    component = Undocumented


class MuteParams(LinesParams):
    """Params, one without a word."""

    mute: int = 0


class Mute(Lines):
    """Have a param that nobody explains."""

    params_type = MuteParams


class TestNoParamDocs(sound.TestLines):
    component = Mute

    @pytest.fixture
    def params(self):
        return MuteParams()


class HiddenParams(Params):
    """Params that JSON cannot carry."""

    kind: type = str
    """A Python class."""


class Hidden(Lines):
    """Have params that cannot be written as JSON."""

    params_type = HiddenParams


class TestParamsNotJson(sound.TestLines):
    component = Hidden

    @pytest.fixture
    def params(self):
        return HiddenParams()


class Doubling(ByLength):
    """Send long records down both routes."""

    async def route(self, batch) -> Mapping[str, pa.RecordBatch]:
        routes = await super().route(batch)
        return {"long": routes["long"], "short": batch}


class TestRouterDoubles(sound.TestByLength):
    component = Doubling


class Misnamed(ByLength):
    """Use a route that it does not name."""

    async def route(self, batch) -> Mapping[str, pa.RecordBatch]:
        routes = await super().route(batch)
        return {"long": routes["long"], "brief": routes["short"]}


class TestRouterUnknownRoute(sound.TestByLength):
    component = Misnamed


class Positional(ByLength):
    """Route by the place in the batch."""

    async def route(self, batch) -> Mapping[str, pa.RecordBatch]:
        return {"long": batch.slice(0, 1), "short": batch.slice(1)}


class TestRouterDependsOnCuts(sound.TestByLength):
    component = Positional


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
