"""A sink whose session breaks off, and takes with it what it has not committed."""

import sqlite3
from importlib.metadata import EntryPoint
from pathlib import Path

import pyarrow as pa

from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import Capabilities, EpochLostError, Params, Sink


class LosingParams(Params):
    """Where to write, and when to lose."""

    path: Path
    lose_at: tuple[int, ...] = ()
    """Numbers whose first write breaks the session."""


class LosingSink(Sink[LosingParams]):
    """A SQLite table, one transaction an epoch; a row that is there already is an error."""

    name = "losing"
    capabilities = Capabilities(write_mode="upsert")

    async def open(self) -> None:
        self._db = sqlite3.connect(self.params.path)
        self.stack.callback(self._db.close)
        self._db.execute("create table if not exists t (id blob primary key, n int)")
        self._db.execute("create table if not exists lost (n int primary key)")
        self._db.commit()

    async def write(self, batch: pa.RecordBatch) -> None:
        numbers = batch["n"].to_pylist()
        rows = zip(batch["_id"].to_pylist(), numbers, strict=True)
        self._db.executemany("insert into t values (?, ?)", rows)
        lost = {n for (n,) in self._db.execute("select n from lost")}
        for number in set(self.params.lose_at) & set(numbers) - lost:
            self._db.rollback()
            self._db.execute("insert into lost values (?)", [number])
            self._db.commit()
            raise EpochLostError("the session is gone")

    async def commit(self, epoch: int) -> None:
        self._db.commit()


def registry() -> Registry:
    """The counter, and this sink."""
    names = {"toy": "toys", "losing": __name__}
    return Registry(
        {name: EntryPoint(name, module, "nvisy.connectors") for name, module in names.items()}, {}
    )
