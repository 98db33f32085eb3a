"""Building and running small graphs of `counting` and `awkward` components."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from awkward import registry

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph

NO_PAUSE = {"initial_delay_seconds": 0.001, "max_delay_seconds": 0.001}


def graph(
    nodes: Sequence[dict[str, Any]], *edges: str, folder: Path | None = None, **rest: Any
) -> Plan:
    written = [dict(zip(("from", "to", "route"), edge.split(), strict=False)) for edge in edges]
    document = {"name": "g", "retry": NO_PAUSE, "nodes": list(nodes), "edges": written, **rest}
    return compile_graph(build_graph(document), registry=registry(), folder=folder)


def source(node_id: str = "count", connector: str = "counter", **params: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "source", "connector": connector, "params": params}


def sink(connector: str, node_id: str = "out", **params: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "sink", "connector": connector, "params": params}


def action(name: str, node_id: str | None = None, **params: Any) -> dict[str, Any]:
    return {"id": node_id or name, "type": "action", "action": name, "params": params}


async def run(plan: Plan, tmp_path: Path, **options: Any) -> RunResult:
    connections = options.pop("connections", {})
    return await run_plan(plan, connections, storage=tmp_path / "state", **options)
