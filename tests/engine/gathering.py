"""An action that needs all records, and a run of it in a process of its own, to be killed."""

import errno
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import anyio
import pyarrow as pa
import pyarrow.compute as pc
from pausing import registry
from review_graphs import NO_PAUSE, action, sink, source

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.sdk import BlockingAction, Capabilities, DataError, EdgeType, Params


class BackwardsParams(Params):
    multiple_of: int = 1
    """Other numbers are left out."""
    batch_rows: int = 100
    """Records per batch."""
    began: Path | None = None
    """File that tells that it has begun; it then waits to be interrupted."""
    fails: bool = False
    """Whether it fails when it is interrupted."""
    deaf: Literal["at first", "while it reads"] | None = None
    """When it does not notice that it is interrupted."""
    full: bool = False
    """Whether the disk is full."""
    takes: int | None = None
    """Batches that it takes, the rest left alone."""
    most: int | None = None
    """More records are refused."""


class BackwardsAction(BlockingAction[BackwardsParams]):
    """Turn the order round."""

    name = "backwards"
    capabilities = Capabilities()

    async def open(self) -> None:
        self.interrupted = threading.Event()

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    def gather(self, records: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        p = self.params
        (scratch / "spilled").write_bytes(b"x")
        if p.began is not None:
            p.began.touch()
            if p.deaf == "at first":
                time.sleep(0.5)
                self.interrupted.clear()
            end = time.monotonic() + 10
            while p.deaf == "while it reads" and time.monotonic() < end:
                deque(records, maxlen=0)
            assert self.interrupted.wait(120), "nobody interrupted it"
            if p.fails:
                raise RuntimeError("interrupted")
            return
        if p.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch / "spilled"))
        batches = list(islice(records, p.takes))
        if not batches:
            return
        found = pa.Table.from_batches(batches).combine_chunks()
        if p.most is not None and found.num_rows > p.most:
            raise DataError("too many", rows={}, remedy="take less")
        numbers = found.column("n")
        whole = pc.equal(pc.multiply(pc.divide(numbers, p.multiple_of), p.multiple_of), numbers)
        found = found.filter(whole)
        for end in range(found.num_rows, 0, -p.batch_rows):
            rows = range(end - 1, max(end - p.batch_rows, 0) - 1, -1)
            yield from found.take(pa.array(rows)).combine_chunks().to_batches()

    def interrupt(self) -> None:
        self.interrupted.set()


def plan(
    folder: Path,
    rows: int = 600,
    node: Mapping[str, object] | None = None,
    poison: Sequence[int] | None = None,
    **params: object,
) -> Plan:
    """Count, keep even numbers, turn them round, append; or pay for them, but for the poison."""
    paid = action("pay", "even", ledger=str(folder / "ledger"), poison=poison)
    nodes = [
        source(rows=rows, batch_rows=50),
        action("even") if poison is None else {**paid, "on_error": "dead_letter"},
        {**action("backwards", **params), **(node or {})},
        sink("appending", path=str(folder / "out.db")),
    ]
    written = [("count", "even"), ("even", "backwards"), ("backwards", "out")]
    document = {
        "name": "gather",
        "retry": NO_PAUSE,
        "nodes": nodes,
        "edges": [{"from": one, "to": other} for one, other in written],
        "checkpoint": {"interval_rows": 70},
    }
    return compile_graph(build_graph(document), registry=registry())


def main(folder: Path, rows: int) -> None:
    made = plan(folder, rows, multiple_of=3, batch_rows=64)
    result = anyio.run(lambda: run_plan(made, {}, storage=folder / "state"))
    for metrics in result.metrics.values():
        counts = metrics.counts
        print(metrics.node, counts.records_in, counts.records_out, counts.dropped)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
