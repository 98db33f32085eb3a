"""Components that tell in files what was done, so that it can be counted after a crash."""

import sqlite3
import time
from collections.abc import AsyncGenerator
from importlib.metadata import EntryPoint
from pathlib import Path

import anyio
import numpy as np
import pyarrow as pa
from pydantic import SecretStr

from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import (
    Action,
    Batch,
    Capabilities,
    ConfigError,
    Connection,
    Cursor,
    DataError,
    EdgeType,
    Params,
    Router,
    Sink,
    Source,
    TransientError,
    connection_of,
)
from nvisy_dagster.sdk.envelope import ENVELOPE, with_envelope
from nvisy_dagster.sdk.identity import root_ids

SCHEMA = pa.schema([*ENVELOPE, pa.field("n", pa.int64())])


class CountParams(Params):
    """What to count."""

    uri: str = "toy://host/numbers"
    rows: int = 100
    batch_rows: int = 10
    pause_seconds: float = 0.0


class CountCursor(Cursor):
    """How many were read."""

    n: int


class CountSource(Source[CountParams, CountCursor]):
    """Counts from nothing.

    Slowly, if asked to.
    """

    name = "toy"

    def location(self) -> str:
        return self.params.uri

    def output(self) -> EdgeType:
        return EdgeType("row", SCHEMA)

    async def read(self, cursor: CountCursor | None) -> AsyncGenerator[Batch[CountCursor], None]:
        for start in range(cursor.n if cursor else 0, self.params.rows, self.params.batch_rows):
            await anyio.sleep(self.params.pause_seconds)
            stop = min(start + self.params.batch_rows, self.params.rows)
            numbers = np.arange(start, stop)
            ids = root_ids(self.params.uri, numbers)
            columns = pa.record_batch({"n": numbers})
            data = with_envelope(columns, ids=ids, uri=self.params.uri, positions=numbers)
            yield Batch(data, CountCursor(n=stop))


class TableParams(Params):
    """Where to write."""

    path: Path
    uri: str = "toy://host/table"
    fail_if: Path | None = None
    """The write fails for good while this file exists."""
    refuse: tuple[int, ...] = ()
    """Numbers that are refused."""
    busy_if: Path | None = None
    """The write fails for now while this file exists."""


class ToyConnection(Connection):
    """Access to nothing."""

    type = "toy"
    url: str = "toy://nowhere"
    port: int = 1
    api_key: SecretStr = SecretStr("")


class TableSink(Sink[TableParams]):
    """A SQLite table, by id."""

    name = "toy"
    connection_type = ToyConnection
    connection_required = False
    capabilities = Capabilities(write_mode="upsert")

    def location(self) -> str:
        if isinstance(self.connection, ToyConnection):
            return f"{self.connection.url}/{self.params.path.name}"
        return self.params.uri

    async def open(self) -> None:
        self._db = sqlite3.connect(self.params.path, isolation_level=None)
        self.stack.callback(self._close_db)
        self._db.execute("create table if not exists t (id blob primary key, n int, at real)")

    def _close_db(self) -> None:
        self._db.close()
        self.params.path.with_suffix(".closed").touch()

    async def write(self, batch: pa.RecordBatch) -> None:
        if self.params.fail_if is not None and self.params.fail_if.exists():
            key = "no key"
            if self.connection is not None:
                key = connection_of(self, ToyConnection).api_key.get_secret_value()
            raise ConfigError(f"the server refuses 'Bearer {key}'", remedy="ask it nicely")
        if self.params.busy_if is not None and self.params.busy_if.exists():
            raise TransientError("the server is busy")
        numbers = batch["n"].to_pylist()
        rows = zip(batch["_id"].to_pylist(), numbers, strict=True)
        # One moment for the call: a clock that is read per row may tell of two.
        at = time.time()
        taken = [(id_, n, at) for id_, n in rows if n not in self.params.refuse]
        self._db.executemany("insert or replace into t values (?, ?, ?)", taken)
        refused = [row for row, n in enumerate(numbers) if n in self.params.refuse]
        if refused:
            raise DataError("refused", rows={row: f"{numbers[row]} is refused" for row in refused})

    async def commit(self, epoch: int) -> None:
        pass


class PayParams(Params):
    """Where the ledger lies."""

    ledger: Path
    pause_seconds: float = 0.0
    crash_if: Path | None = None
    """A bug shows while this file exists."""


class PayAction(Action[PayParams]):
    """Work that costs money."""

    name = "pay"
    connection_type = ToyConnection
    connection_required = False
    capabilities = Capabilities(expensive=True)

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        await anyio.sleep(self.params.pause_seconds)
        if self.params.crash_if is not None and self.params.crash_if.exists():
            key = connection_of(self, ToyConnection).api_key.get_secret_value()
            raise KeyError(key)
        with self.params.ledger.open("a") as ledger:
            ledger.write("".join(f"{n}\n" for n in batch["n"].to_pylist()))
        return batch


class NoParams(Params):
    """Nothing to say."""


class SameAction(Action[NoParams]):
    """The same again."""

    name = "same"

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class RouteParams(Params):
    """The routes of a branch."""

    routes: list[dict[str, str]]
    default: str | None = None


class ParityRouter(Router[RouteParams]):
    """Even numbers go down the first route, odd ones down the second."""

    name = "branch"

    def routes(self) -> list[str]:
        return [route["name"] for route in self.params.routes]

    def check(self, incoming: EdgeType) -> None:
        pass

    async def route(self, batch: pa.RecordBatch) -> dict[str, pa.RecordBatch]:
        even = np.asarray(batch["n"]) % 2 == 0
        first, second = self.routes()
        return {first: batch.filter(pa.array(even)), second: batch.filter(pa.array(~even))}


def registry() -> Registry:
    """The components of this module."""
    actions = {
        name: EntryPoint(name, "toys", "nvisy.actions") for name in ("pay", "same", "branch")
    }
    return Registry({"toy": EntryPoint("toy", "toys", "nvisy.connectors")}, actions)
