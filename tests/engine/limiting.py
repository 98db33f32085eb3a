"""Graphs with a `limit` or a `batch`, and a run of one in a process of its own, to be killed."""

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
from pausing import AppendingSink
from review_graphs import NO_PAUSE, action, sink, source

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import Capabilities

MANY = 10**9


class SeenSink(AppendingSink):
    """Append, and tell how many records each write had."""

    name = "seen"
    capabilities = Capabilities(concurrency=1)

    async def write(self, batch: pa.RecordBatch) -> int | None:
        with self.params.path.with_suffix(".sizes").open("a") as file:
            file.write(f"{batch.num_rows}\n")
        return await super().write(batch)


def registry() -> Registry:
    """The components of the other modules, and the actions that go by what came before."""

    def entries(group: str, module: str, *names: str) -> dict[str, EntryPoint]:
        return {name: EntryPoint(name, module, group) for name in names}

    connectors, actions = "nvisy.connectors", "nvisy.actions"
    return Registry(
        entries(connectors, "pausing", "idle", "appending")
        | entries(connectors, "counting", "counter", "table")
        | entries(connectors, __name__, "seen"),
        entries(actions, "pausing", "billed")
        | entries(actions, "counting", "even", "pay", "branch")
        | entries(actions, "gathering", "backwards")
        | entries(actions, "nvisy_connectors.tabular.limit", "limit")
        | entries(actions, "nvisy_connectors.tabular.batch", "batch"),
    )


def plan(nodes: Sequence[dict[str, Any]], *edges: str, **rest: Any) -> Plan:
    """A graph of these components; an edge is `from to` or `from to route`."""
    written = [dict(zip(("from", "to", "route"), edge.split(), strict=False)) for edge in edges]
    document = {"name": "g", "retry": NO_PAUSE, "nodes": list(nodes), "edges": written, **rest}
    return compile_graph(build_graph(document), registry=registry())


def line(*nodes: dict[str, Any], **rest: Any) -> Plan:
    """A graph of nodes that follow each other."""
    ids = [node["id"] for node in nodes]
    return plan(nodes, *map(" ".join, pairwise(ids)), **rest)


def killed_plan(folder: Path) -> Plan:
    """Even numbers, of which 500 are let through, in epochs of 70."""
    return line(
        source(rows=MANY, batch_rows=50),
        action("even"),
        action("limit", count=500, offset=30),
        sink("table", path=str(folder / "out.db")),
        checkpoint={"interval_rows": 70},
    )


def main(folder: Path) -> None:
    result = anyio.run(lambda: run_plan(killed_plan(folder), {}, storage=folder / "state"))
    for metrics in result.metrics.values():
        counts = metrics.counts
        print(metrics.node, counts.records_in, counts.records_out, counts.dropped)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
