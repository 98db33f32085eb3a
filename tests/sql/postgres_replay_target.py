"""A replay of a source's letters in a process: `postgres_replay_target.py FOLDER PORT DATABASE`."""

import sys
from pathlib import Path
from typing import Any

import anyio
from postgres_source_target import registry
from postgres_target import connection

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.replay import Replay
from nvisy_dagster.graph.load import build_graph

STORAGE = "state"


def plan(folder: Path, **params: Any) -> Plan:
    """The table `t` into JSON Lines; what is bad is a dead letter."""
    source = {"id": "rows", "type": "source", "connector": "postgres", "connection": "database",
              "params": {"table": "t", **params}, "on_error": "dead_letter"}  # fmt: skip
    sink = {"id": "out", "type": "sink", "connector": "local",
            "params": {"path": str(folder / "out"), "format": "jsonl"}}  # fmt: skip
    document = {
        "name": "g",
        "nodes": [source, sink],
        "edges": [{"from": "rows", "to": "out"}],
        "checkpoint": {"interval_rows": 500},
    }
    return compile_graph(build_graph(document), registry=registry())


async def main(folder: Path, port: int, database: str) -> None:
    """Replay to the end."""
    again = Replay(plan(folder), folder / STORAGE, "again")
    await again.run({"database": connection(port, database)})


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
