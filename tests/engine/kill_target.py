"""A run in a process of its own, to be killed: `kill_target.py FOLDER ROWS`."""

import sys
from pathlib import Path

import anyio
from counting import registry

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph


def plan(folder: Path, rows: int) -> Plan:
    """Count, pay (materialized), write; and write what was counted a second way, streamed."""
    document = {
        "name": "kill",
        "nodes": [
            {
                "id": "count",
                "type": "source",
                "connector": "counter",
                "params": {"rows": rows, "batch_rows": 50, "pause_seconds": 0.015},
            },
            {"id": "even", "type": "action", "action": "even"},
            {
                "id": "pay",
                "type": "action",
                "action": "pay",
                "params": {"ledger": str(folder / "ledger")},
            },
            {
                "id": "paid",
                "type": "sink",
                "connector": "table",
                "params": {"path": str(folder / "paid.db")},
            },
            {
                "id": "even_out",
                "type": "sink",
                "connector": "table",
                "params": {"path": str(folder / "even.db")},
            },
        ],
        "edges": [
            {"from": "count", "to": "pay"},
            {"from": "pay", "to": "paid"},
            {"from": "count", "to": "even"},
            {"from": "even", "to": "even_out"},
        ],
        "checkpoint": {"interval_rows": 200},
    }
    return compile_graph(build_graph(document), registry=registry())


def main(folder: Path, rows: int) -> None:
    result = anyio.run(lambda: run_plan(plan(folder, rows), {}, storage=folder / "state"))
    for metrics in result.metrics.values():
        counts = metrics.counts
        print(metrics.node, counts.records_in, counts.records_out, counts.dropped)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
