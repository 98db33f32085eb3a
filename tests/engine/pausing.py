"""Components that can be found waiting: an idle source, actions and sinks that take their time."""

import sqlite3
from collections.abc import AsyncGenerator, Iterable
from importlib.metadata import EntryPoint
from pathlib import Path

import anyio
import numpy as np
import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import (
    Action,
    Batch,
    Capabilities,
    Cursor,
    EdgeType,
    Params,
    Sink,
    Source,
)
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids


def registry() -> Registry:
    """The components of this module, of `counting`, `awkward` and `gathering`."""

    def entries(group: str, module: str, *names: str) -> dict[str, EntryPoint]:
        return {name: EntryPoint(name, module, group) for name in names}

    connectors, actions = "nvisy.connectors", "nvisy.actions"
    return Registry(
        entries(connectors, __name__, "idle", "appending")
        | entries(connectors, "counting", "counter", "table")
        | entries(connectors, "awkward", "awkward"),
        entries(actions, __name__, "billed")
        | entries(actions, "counting", "even", "pay", "branch", "spread")
        | entries(actions, "awkward", "twice", "picky", "negate")
        | entries(actions, "gathering", "backwards"),
    )


class IdleParams(Params):
    rows: int = 100
    """Records until it idles."""
    more: Path
    """It goes on, to twice as many, when this file exists."""


class IdleCursor(Cursor):
    after: int


class IdleSource(Source[IdleParams, IdleCursor]):
    """Count, then wait for ever."""

    name = "idle"

    def output(self) -> EdgeType:
        return EdgeType("row")

    async def read(self, cursor: IdleCursor | None) -> AsyncGenerator[Batch[IdleCursor], None]:
        p = self.params
        for start in range(cursor.after if cursor else 0, 2 * p.rows, 10):
            while start >= p.rows and not p.more.exists():  # noqa: ASYNC110 - a file tells no event
                await anyio.sleep(0.01)
            numbers = np.arange(start, min(start + 10, 2 * p.rows))
            data = with_envelope(
                pa.record_batch({"n": numbers}),
                ids=root_ids("idle:", numbers),
                uri="idle:",
                positions=numbers,
            )
            yield Batch(data, IdleCursor(after=int(numbers[-1]) + 1))


class BilledParams(Params):
    ledger: Path
    """File that gets a line per record."""
    seconds: float = 0.0
    """Time that a call takes."""


class BilledAction(Action[BilledParams]):
    """Tell of every record, and let it stream on."""

    name = "billed"
    capabilities = Capabilities(concurrency=3, max_rows=20)

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        await anyio.sleep(self.params.seconds)
        with self.params.ledger.open("a") as file:
            file.write("".join(f"{n}\n" for n in batch["n"].to_pylist()))
        return batch


class AppendingParams(Params):
    path: Path
    """Database file."""
    write_seconds: float = 0.0
    """Time that a write takes."""
    commit_seconds: float = 0.0
    """Time that a commit takes."""
    hold: Path | None = None
    """A write takes as long as this file exists."""
    tells: bool = False
    """Whether a write says how many records it took."""
    swallow: tuple[int, ...] = ()
    """Numbers that it loses without a word."""
    split_loses: int | None = None
    """A number whose unit it never gets to see."""


class AppendingSink(Sink[AppendingParams]):
    """Append; a record that comes twice is there twice."""

    name = "appending"
    capabilities = Capabilities(concurrency=2, max_rows=25)

    async def open(self) -> None:
        self.db = sqlite3.connect(self.params.path, check_same_thread=False, timeout=20)
        self.stack.callback(self.db.close)
        self.db.execute("create table if not exists t (n int)").close()
        self.rows: list[tuple[int]] = []

    def split(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        for unit in super().split(batch):
            if self.params.split_loses not in unit["n"].to_pylist():
                yield unit

    async def write(self, batch: pa.RecordBatch) -> int | None:
        await anyio.sleep(self.params.write_seconds)
        hold = self.params.hold
        while hold is not None and hold.exists():  # noqa: ASYNC110 - a file tells no event
            await anyio.sleep(0.01)
        kept = [(n,) for n in batch["n"].to_pylist() if n not in self.params.swallow]
        self.rows += kept
        return len(kept) if self.params.tells else None

    async def commit(self, epoch: int) -> None:
        await anyio.sleep(self.params.commit_seconds)
        await to_thread.run_sync(self._append)

    def _append(self) -> None:
        self.db.executemany("insert into t values (?)", self.rows).close()
        self.db.commit()
        self.rows.clear()
