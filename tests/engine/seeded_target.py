"""`kill_target.py` with a bug put in on purpose: `seeded_target.py FOLDER ROWS BUG`."""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import counting
import kill_target

from nvisy_dagster.engine.nodes import sink as sink_task
from nvisy_dagster.engine.nodes.running import RunningNode
from nvisy_dagster.sdk import Sink


def cursor_before_flush() -> None:
    """The checkpoint is written before the sink has made its records durable."""

    async def commit(running: RunningNode, sink: Sink[Any], epoch: int) -> None:
        await running.pass_barrier(epoch)
        await running.epochs.committed(running.node.id, epoch)
        await anyio.sleep(0.05)
        await sink.commit(epoch)

    sink_task._commit = commit


def random_ids() -> None:
    """A record gets another id each time it is read."""

    def ids(identity: str, positions: Any) -> Any:
        return real(identity + os.urandom(8).hex(), positions)

    real = counting.root_ids
    counting.root_ids = ids


def swallowed_failure() -> None:
    """A write fails for one record, and nobody is told."""

    def upsert(self: counting.TableSink, sql: str, rows: list[tuple[Any, ...]]) -> None:
        real(self, sql, [row for row in rows if row[1] != 1234])

    real = counting.TableSink._upsert
    counting.TableSink._upsert = upsert


BUGS = {bug.__name__: bug for bug in (cursor_before_flush, random_ids, swallowed_failure)}


if __name__ == "__main__":
    BUGS[sys.argv[3]]()
    kill_target.main(Path(sys.argv[1]), int(sys.argv[2]))
