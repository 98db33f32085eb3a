"""Run a graph file by the engine alone, in a process that may be killed: `run_graph.py FILE`."""

import os
import sys
from pathlib import Path

import anyio

from nvisy_dagster.compiler import compile_file, connections_beside
from nvisy_dagster.engine.connections import open_connections
from nvisy_dagster.engine.run import run_plan


def main(path: Path) -> None:
    plan = compile_file(path)
    connections = open_connections(plan, connections_beside(path), os.environ)
    storage = path.parent / "state"
    result = anyio.run(lambda: run_plan(plan, connections.by_name, storage=storage))
    for metrics in result.metrics.values():
        counts = metrics.counts
        print(metrics.node, counts.records_in, counts.records_out, counts.dropped)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
