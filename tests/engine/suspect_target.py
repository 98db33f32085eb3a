"""A run with components that kill its process: `suspect_target.py FOLDER OPTIONS`, as JSON."""

import ctypes
import json
import os
import signal
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import anyio
import counting
import pyarrow as pa
from counting import TableParams, TableSink

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import Capabilities, EdgeType, KernelAction, Params

How = Literal["abort", "exit", "segfault", "kill"]


def die(how: How) -> None:
    """End this process as broken native code does."""
    match how:
        case "abort":
            os.abort()
        case "exit":
            os._exit(7)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


class FragileParams(Params):
    poison: tuple[int, ...] = ()
    """Numbers that kill the process."""
    how: How = "abort"
    """In which way."""
    call_seconds: float = 0.002
    """Time that a call takes."""


class FragileAction(KernelAction[FragileParams]):
    """Pass on, or die."""

    name = "fragile"
    capabilities = Capabilities(row_wise=True, concurrency=2)

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        time.sleep(self.params.call_seconds)
        if set(batch["n"].to_pylist()) & set(self.params.poison):
            die(self.params.how)
        return batch


class FragileTableParams(TableParams):
    poison: tuple[int, ...] = ()
    """Numbers that kill the process."""
    how: How = "abort"
    """In which way."""


class FragileSink(TableSink):
    """Write, or die."""

    name = "fragile_table"
    params_type = FragileTableParams

    async def write(self, batch: pa.RecordBatch) -> None:
        params: Any = self.params
        await anyio.sleep(0.001)
        if set(batch["n"].to_pylist()) & set(params.poison):
            die(params.how)
        await super().write(batch)


def registry() -> Registry:
    """Those components and the ones of `counting`."""

    def entry(group: str, name: str, module: str = __name__) -> dict[str, EntryPoint]:
        return {name: EntryPoint(name, module, group)}

    connectors, actions = "nvisy.connectors", "nvisy.actions"
    return Registry(
        entry(connectors, "counter", counting.__name__) | entry(connectors, "fragile_table"),
        entry(actions, "fragile"),
    )


def plan(folder: Path, options: dict[str, Any]) -> Plan:
    """Count, go through the fragile action, write."""
    document = {
        "name": "suspects",
        "nodes": [
            {
                "id": "count",
                "type": "source",
                "connector": "counter",
                "params": {"rows": options.get("rows", 4000), "batch_rows": 2000}
                | options.get("count", {}),
            },
            {
                "id": "act",
                "type": "action",
                "action": "fragile",
                "params": options.get("act", {}),
                "on_error": options.get("on_error", "dead_letter"),
            },
            {
                "id": "out",
                "type": "sink",
                "connector": "fragile_table",
                "params": {"path": str(folder / "out.db")} | options.get("out", {}),
                "on_error": options.get("on_error", "dead_letter"),
            },
        ],
        "edges": [{"from": "count", "to": "act"}, {"from": "act", "to": "out"}],
        "checkpoint": {"interval_rows": 2000},
    }
    return compile_graph(build_graph(document), registry=registry())


def main(folder: Path, options: dict[str, Any]) -> None:
    result = anyio.run(lambda: run_plan(plan(folder, options), {}, storage=folder / "state"))
    counts = {name: metrics.counts.to_json() for name, metrics in result.metrics.items()}
    print(json.dumps(counts))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
