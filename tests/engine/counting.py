"""Real components of the smallest kind: a counter to read, SQLite to write, arithmetic between."""

import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import anyio
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from anyio import to_thread

from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import (
    Action,
    Batch,
    Capabilities,
    Cursor,
    DataError,
    EdgeType,
    KernelAction,
    Params,
    Progress,
    Router,
    Sink,
    Source,
    TransientError,
)
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids


def batch_of(n: int) -> pa.RecordBatch:
    """Records that hold the first numbers."""
    numbers = np.arange(n)
    ids = root_ids("test:", numbers)
    return with_envelope(pa.record_batch({"n": numbers}), ids=ids, uri="test:", positions=numbers)


def registry() -> Registry:
    """A registry of the components of this module alone."""

    def entries(group: str, *names: str) -> dict[str, EntryPoint]:
        return {name: EntryPoint(name, __name__, group) for name in names}

    return Registry(
        entries("nvisy.connectors", "counter", "table"),
        entries("nvisy.actions", "even", "pay", "branch", "spread"),
    )


class CounterParams(Params):
    rows: int = 1000
    """Records to make."""
    batch_rows: int = 100
    """Records per batch."""
    pause_seconds: float = 0.0
    """Wait before every batch."""
    hiccup_at: int | None = None
    """Fail once, transiently, before the batch that starts here."""


class CounterCursor(Cursor):
    after: int


class CounterSource(Source[CounterParams, CounterCursor]):
    """Count."""

    name = "counter"
    hiccuped = False

    def output(self) -> EdgeType:
        return EdgeType("row")

    async def read(
        self, cursor: CounterCursor | None
    ) -> AsyncGenerator[Batch[CounterCursor], None]:
        p = self.params
        for start in range(cursor.after if cursor else 0, p.rows, p.batch_rows):
            await anyio.sleep(p.pause_seconds)
            if p.hiccup_at == start and not self.hiccuped:
                self.hiccuped = True
                raise TransientError("hiccup")
            numbers = np.arange(start, min(start + p.batch_rows, p.rows))
            ids = root_ids("count:", numbers)
            columns = pa.record_batch({"n": numbers})
            yield Batch(
                with_envelope(columns, ids=ids, uri="count:", positions=numbers),
                CounterCursor(after=int(numbers[-1]) + 1),
            )


class TableParams(Params):
    path: Path
    """Database file."""
    table: str = "t"
    """Table, made when missing."""
    refuse: tuple[int, ...] = ()
    """Numbers to refuse."""
    write_seconds: float = 0.0
    """Time that a write takes."""


class TableSink(Sink[TableParams]):
    """Upsert into SQLite, one transaction per epoch."""

    name = "table"
    capabilities = Capabilities(write_mode="upsert", concurrency=2, max_rows=64)

    async def open(self) -> None:
        self.db = sqlite3.connect(self.params.path, check_same_thread=False, timeout=20)
        self.stack.callback(self.db.close)
        # One connection, several calls in flight: SQLite takes them one at a time.
        self.lock = anyio.Lock()
        sql = f"create table if not exists {self.params.table} (id blob primary key, n int)"
        await to_thread.run_sync(self.db.execute, sql)

    async def start(self, progress: Progress) -> None:
        self.started = progress

    async def write(self, batch: pa.RecordBatch) -> None:
        await anyio.sleep(self.params.write_seconds)
        rows = list(zip(batch["_id"].to_pylist(), batch["n"].to_pylist(), strict=True))
        refused = {i: f"{n} is refused" for i, (_, n) in enumerate(rows) if n in self.params.refuse}
        kept = [row for i, row in enumerate(rows) if i not in refused]
        sql = f"insert or replace into {self.params.table} values (?, ?)"
        async with self.lock:
            await to_thread.run_sync(self._upsert, sql, kept)
        if refused:
            raise DataError("refused", rows=refused)

    def _upsert(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        # The cursor must end in the thread that used it: its statement is shared by the next one.
        self.db.executemany(sql, rows).close()

    async def commit(self, epoch: int) -> None:
        await to_thread.run_sync(self.db.commit)


class NoParams(Params):
    pass


class EvenAction(KernelAction[NoParams]):
    """Keep even numbers."""

    name = "even"
    capabilities = Capabilities(row_wise=True, concurrency=2)

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.equal(pc.bit_wise_and(batch["n"], 1), 0))


class SpreadParams(Params):
    slow_every: int = 0
    """Every call whose first number divides by this takes long; 0 for none."""


class SpreadAction(Action[SpreadParams]):
    """Pass on, with calls of uneven length."""

    name = "spread"
    capabilities = Capabilities(concurrency=4)
    in_flight = 0
    peak = 0

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        cls = type(self)
        cls.in_flight += 1
        cls.peak = max(cls.peak, cls.in_flight)
        slow = self.params.slow_every and batch["n"][0].as_py() % self.params.slow_every == 0
        try:
            await anyio.sleep(0.02 if slow else 0.001)
        finally:
            cls.in_flight -= 1
        return batch


class PayParams(Params):
    ledger: Path
    """File that gets a line per paid record."""
    poison: tuple[int, ...] = ()
    """A call with one of these is refused as a whole."""
    fail_first: int = 0
    """So many calls fail transiently at first."""
    retry_after: float | None = None
    """What those ask for."""


class PayAction(Action[PayParams]):
    """Pay for every record."""

    name = "pay"
    capabilities = Capabilities(expensive=True, concurrency=2, max_rows=50)
    failed = 0

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = batch["n"].to_pylist()
        if self.failed < self.params.fail_first:
            self.failed += 1
            raise TransientError("busy", retry_after=self.params.retry_after)
        if set(numbers) & set(self.params.poison):
            raise DataError("poison", rows={})
        await anyio.sleep(0.001)
        with self.params.ledger.open("a") as file:
            file.write("".join(f"{n}\n" for n in numbers))
        return batch


class ThirdParams(Params):
    routes: tuple[dict[Literal["name", "when"], str], ...]
    """Routes; only their names matter here."""
    default: str | None = None
    """Default route."""


class ThirdRouter(Router[ThirdParams]):
    """Send numbers down the first route by whether they divide by three."""

    name = "branch"

    def routes(self) -> Sequence[str]:
        names = [route["name"] for route in self.params.routes]
        return names if self.params.default is None else [*names, self.params.default]

    def check(self, incoming: EdgeType) -> None:
        pass

    async def route(self, batch: pa.RecordBatch) -> Mapping[str, pa.RecordBatch]:
        third = pa.array(np.asarray(batch["n"]) % 3 == 0)
        routed = {self.params.routes[0]["name"]: batch.filter(third)}
        if self.params.default is not None:
            routed[self.params.default] = batch.filter(pc.invert(third))
        return routed


def numbers_in(path: Path, table: str = "t") -> list[int]:
    """What the sink holds, read without it."""
    with closing(sqlite3.connect(path)) as db:
        rows: list[tuple[Any]] = db.execute(f"select n from {table} order by n").fetchall()
    return [row[0] for row in rows]
