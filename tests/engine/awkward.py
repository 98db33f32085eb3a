"""Components that put the engine to the test: they close badly, fail late, trust it."""

import sqlite3
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import anyio
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from anyio import to_thread

from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import (
    Action,
    Capabilities,
    Connection,
    DataError,
    EdgeType,
    Params,
    Progress,
    Sink,
    TransientError,
    connection_of,
)
from nvisy_dagster.sdk.envelope import derive


def registry() -> Registry:
    """The components of this module and of `counting`."""

    def entries(group: str, module: str, *names: str) -> dict[str, EntryPoint]:
        return {name: EntryPoint(name, module, group) for name in names}

    connectors, actions = "nvisy.connectors", "nvisy.actions"
    return Registry(
        entries(connectors, "counting", "counter", "table")
        | entries(connectors, __name__, "renewing", "awkward", "placed")
        | entries(connectors, "nvisy_connectors.object.local", "local"),
        entries(actions, "counting", "even", "pay", "branch", "spread")
        | entries(actions, __name__, "twice", "picky", "negate"),
    )


class FileParams(Params):
    path: Path
    """Database file."""


class RenewingSink(Sink[FileParams]):
    """Replace, at every commit, what it held of the roots that were written since the last one."""

    name = "renewing"
    capabilities = Capabilities(write_mode="upsert", concurrency=2)

    async def open(self) -> None:
        self.db = sqlite3.connect(self.params.path, check_same_thread=False)
        self.stack.callback(self.db.close)
        self.db.execute("create table if not exists t (id blob primary key, root blob, n int)")
        self.rows: list[tuple[bytes, bytes, int]] = []

    async def write(self, batch: pa.RecordBatch) -> None:
        columns = (batch[name].to_pylist() for name in ("_id", "_root_id", "n"))
        self.rows += zip(*columns, strict=True)

    async def commit(self, epoch: int) -> None:
        await to_thread.run_sync(self._renew)

    def _renew(self) -> None:
        roots = {(root,) for _, root, _ in self.rows}
        self.db.executemany("delete from t where root = ?", list(roots)).close()
        self.db.executemany("insert or replace into t values (?, ?, ?)", self.rows).close()
        self.db.commit()
        self.rows.clear()


class AwkwardParams(Params):
    log: Path
    """File that gets a line per event."""
    fail_in: tuple[Literal["start", "finish", "commit", "write", "close"], ...] = ()
    """Phases that fail."""
    refuse: bool = False
    """Whether to refuse all records, after a while."""
    times: int = 1
    """How often each of them fails."""
    how: Literal["transient", "bug", "timeout"] = "transient"
    """What is raised."""


class AwkwardSink(Sink[AwkwardParams]):
    """Fail in the phases that it is told to, and log what happens."""

    name = "awkward"
    capabilities = Capabilities(write_mode="upsert", max_rows=50)

    def tell(self, event: str) -> None:
        with self.params.log.open("a") as file:
            file.write(f"{self.node_id} {event}\n")
        failed = f"{self.node_id} {event}\n"
        if event in self.params.fail_in:
            if self.params.log.read_text().count(failed) > self.params.times:
                return
            match self.params.how:
                case "transient":
                    raise TransientError(f"{event} fails")
                case "bug":
                    raise RuntimeError(f"{event} fails")
                case "timeout":
                    raise TimeoutError

    async def open(self) -> None:
        self.stack.callback(self.tell, "close")

    async def start(self, progress: Progress) -> None:
        self.tell("start")

    async def write(self, batch: pa.RecordBatch) -> None:
        self.tell("write")
        if self.params.refuse:
            await anyio.sleep(0.005)
            raise DataError("refused", rows=dict.fromkeys(range(batch.num_rows), "refused"))

    async def commit(self, epoch: int) -> None:
        self.tell("commit")

    async def finish(self) -> None:
        self.tell("finish")


class PlaceConnection(Connection):
    """A database file."""

    type = "place"
    path: Path
    """The file."""

    def location(self) -> str:
        return self.path.as_uri()


class NoParams(Params):
    pass


class PlacedSink(Sink[NoParams]):
    """Upsert into the database of its connection, which is full as soon as a file `full` says so:
    it holds the first number that finds no room.
    """

    name = "placed"
    connection_type = PlaceConnection
    capabilities = Capabilities(write_mode="upsert")

    async def open(self) -> None:
        self.path = connection_of(self, PlaceConnection).path
        self.db = sqlite3.connect(self.path, check_same_thread=False)
        self.stack.callback(self.db.close)
        self.db.execute("create table if not exists t (id blob primary key, n int)")

    async def write(self, batch: pa.RecordBatch) -> None:
        numbers = batch["n"].to_pylist()
        full = self.path.parent / "full"
        if full.exists() and max(map(abs, numbers)) >= int(full.read_text()):
            raise TransientError("the disk is full")
        rows = zip(batch["_id"].to_pylist(), numbers, strict=True)
        self.db.executemany("insert or replace into t values (?, ?)", rows).close()

    async def commit(self, epoch: int) -> None:
        self.db.commit()


class NegateAction(Action[NoParams]):
    """Turn `n` into `-n`; the records stay the same ones."""

    name = "negate"

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        place = batch.schema.get_field_index("n")
        return batch.set_column(place, "n", pc.negate(batch["n"]))


class TwiceAction(Action[NoParams]):
    """Make two records of each: `2n` and `2n + 1`."""

    name = "twice"

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = np.repeat(np.asarray(batch["n"]) * 2, 2)
        numbers[1::2] += 1
        return derive(
            batch,
            np.repeat(np.arange(batch.num_rows), 2),
            pa.record_batch({"n": numbers}),
            node_id=self.node_id,
            indexes=np.tile(np.array([0, 1]), batch.num_rows),
        )


class PickyAction(Action[NoParams]):
    """Refuse odd numbers, and name the first one only."""

    name = "picky"

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for row, n in enumerate(batch["n"].to_pylist()):
            if n % 2:
                raise DataError("odd", rows={row: f"{n} is odd"})
        return batch
