"""Sources with one bug each; `test_planted_bugs.py` demands that the suites find it.

Named so that the ordinary run of the tests does not collect it.
"""

import asyncio
import sqlite3
import time

import anyio
import pyarrow as pa
import pytest
import test_acme_sqlite as sound
from acme_sqlite.source import KeyCursor, SqliteSource, TableParams
from anyio.lowlevel import checkpoint
from pydantic import Field, SecretStr

from nvisy_dagster.sdk import (
    Batch,
    Connection,
    Cursor,
    EdgeType,
    Source,
)
from nvisy_dagster.sdk.envelope import ENVELOPE
from nvisy_dagster.sdk.identity import ids_to_array, ulids

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
