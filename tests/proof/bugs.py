"""Bugs put in on purpose: the oracle must turn red for each."""

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa

from nvisy_connectors.object import origins
from nvisy_connectors.object.local import LocalSink
from nvisy_connectors.object.local_folder import LocalFolder
from nvisy_connectors.object.open_parts import OpenParts
from nvisy_connectors.tabular.map import Map
from nvisy_dagster.engine import storage
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.sdk import DataError


def cursor_before_flush() -> None:
    """The sink says that an epoch is durable, and makes it so only before the next write."""
    write, commit, finish = LocalSink.write, LocalSink.commit, LocalSink.finish
    owed: list[int] = []

    async def pay(self: Any) -> None:
        while owed:
            await commit(self, owed.pop())

    async def late_write(self: Any, batch: pa.RecordBatch) -> None:
        await pay(self)
        await write(self, batch)

    async def late_commit(self: Any, epoch: int) -> None:
        await pay(self)
        owed.append(epoch)

    async def late_finish(self: Any) -> None:
        await pay(self)
        await finish(self)

    LocalSink.write, LocalSink.commit, LocalSink.finish = late_write, late_commit, late_finish


def random_ids() -> None:
    """A record gets another id each time it is read."""

    def ids(identity: str, positions: Any) -> Any:
        return real(identity + os.urandom(8).hex(), positions)

    real = origins.root_ids
    origins.root_ids = ids


def swallowed_failure() -> None:
    """Some records of a batch fail; the others go on, and nobody is told."""

    def transform(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            return real(self, batch)
        except DataError as error:
            good = [row not in error.rows for row in range(batch.num_rows)]
            return transform(self, batch.filter(pa.array(good, pa.bool_())))

    real = Map.transform
    Map.transform = transform


def no_fence() -> None:
    """Whoever lost its lease goes on all the same, and whoever takes it over lets it."""
    Lease.check = lambda _: None
    Lease._renew = lambda _, *, released=False: None
    storage.remove_temporary = lambda _: None


def stop_before_publish() -> None:
    """No bug, but bad luck: the process is stopped between its last look at its lease and the
    rename that makes a part visible."""
    publish = LocalFolder._publish
    published: list[str] = []

    def stop(self: Any, file: Path, key: str) -> None:
        published.append(key)
        if len(published) == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        publish(self, file, key)

    LocalFolder._publish = stop


def stop_before_spool() -> None:
    """The same, before it begins to write a part."""
    part = OpenParts._part
    begun: list[str] = []

    def stop(self: Any, *of: Any) -> Any:
        if not self._open:
            begun.append("another")
            if len(begun) == 2:
                os.kill(os.getpid(), signal.SIGSTOP)
        return part(self, *of)

    OpenParts._part = stop


BUGS = {
    bug.__name__: bug
    for bug in (
        cursor_before_flush,
        random_ids,
        swallowed_failure,
        no_fence,
        stop_before_publish,
        stop_before_spool,
    )
}
