"""A run from PostgreSQL in a process: `postgres_source_target.py FOLDER PORT DATABASE GRAPH`.

`GRAPH` is `to_files` or `incremental`.
"""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import anyio
from postgres_target import connection

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.registry import Registry

RETRY = {"max_retries": 40, "initial_delay_seconds": 0.1, "backoff": "fixed"}


def registry() -> Registry:
    """PostgreSQL, files, and what cuts texts."""
    group = "nvisy.connectors"
    names = {"postgres": "nvisy_connectors.sql.postgres", "local": "nvisy_connectors.object.local"}
    return Registry(
        {name: EntryPoint(name, module, group) for name, module in names.items()},
        {"chunk": EntryPoint("chunk", "nvisy_connectors.ai.chunk", "nvisy.actions"),
         "map": EntryPoint("map", "nvisy_connectors.tabular.map", "nvisy.actions")},
    )  # fmt: skip


def to_files(folder: Path) -> dict[str, Any]:
    """All rows of `t` into JSON Lines, an epoch for every 500."""
    params = {"table": "t", "batch_rows": 100}
    return {
        "name": "to_files",
        "nodes": [
            {"id": "rows", "type": "source", "connector": "postgres", "connection": "database",
             "params": params, "retry": RETRY},
            {"id": "out", "type": "sink", "connector": "local",
             "params": {"path": str(folder / "out"), "format": "jsonl"}},
        ],
        "edges": [{"from": "rows", "to": "out"}],
        "checkpoint": {"interval_rows": 500},
    }  # fmt: skip


def incremental(folder: Path) -> dict[str, Any]:
    """What changed in `t`, cut into words, into the table `words`."""
    del folder
    params = {"table": "t", "batch_rows": 50, "cursor_column": "at", "where": "NOT gone",
              "columns": ["id", "text"]}  # fmt: skip
    return {
        "name": "incremental",
        "nodes": [
            {"id": "rows", "type": "source", "connector": "postgres", "connection": "database",
             "params": params, "incremental": True, "retry": RETRY},
            {"id": "cut", "type": "action", "action": "chunk",
             "params": {"strategy": "fixed", "size": 8, "overlap": 0}},
            {"id": "out", "type": "sink", "connector": "postgres", "connection": "database",
             "params": {"table": "words"}, "retry": RETRY},
        ],
        "edges": [{"from": "rows", "to": "cut"}, {"from": "cut", "to": "out"}],
        "checkpoint": {"interval_rows": 100},
    }  # fmt: skip


GRAPHS = {"to_files": to_files, "incremental": incremental}


def run(folder: Path, port: int, database: str, graph: str) -> RunResult:
    """Run one of the graphs."""
    document = GRAPHS[graph](folder)
    plan: Plan = compile_graph(build_graph(document), registry=registry())
    connections = {"database": connection(port, database)}
    return anyio.run(lambda: run_plan(plan, connections, storage=folder / "state"))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
