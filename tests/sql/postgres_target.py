"""A run into PostgreSQL in a process: `postgres_target.py FOLDER ROWS PORT DATABASE MODE`.

`MODE` is `append` or `upsert`.
"""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import anyio
import counting
from pydantic import SecretStr
from servers.postgres import PASSWORD

from nvisy_connectors.sql.postgres import PostgresConnection
from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.registry import Registry


def registry() -> Registry:
    """A counter to read, and PostgreSQL."""
    group = "nvisy.connectors"
    entries = [
        EntryPoint("counter", counting.__name__, group),
        EntryPoint("postgres", "nvisy_connectors.sql.postgres", group),
    ]
    return Registry(
        {entry.name: entry for entry in entries},
        {"even": EntryPoint("even", counting.__name__, "nvisy.actions")},
    )


def plan(rows: int, mode: str, pause_seconds: float = 0.01) -> Plan:
    """Count, keep the even numbers, write them."""
    document = {
        "name": "postgres",
        "nodes": [
            {
                "id": "count",
                "type": "source",
                "connector": "counter",
                "params": {"rows": rows, "batch_rows": 50, "pause_seconds": pause_seconds},
            },
            {"id": "even", "type": "action", "action": "even"},
            {
                "id": "out",
                "type": "sink",
                "connector": "postgres",
                "connection": "database",
                "params": {"table": "numbers", "mode": mode},
                "retry": {"max_retries": 40, "initial_delay_seconds": 0.1, "backoff": "fixed"},
            },
        ],
        "edges": [{"from": "count", "to": "even"}, {"from": "even", "to": "out"}],
        "checkpoint": {"interval_rows": 200},
    }
    return compile_graph(build_graph(document), registry=registry())


def connection(port: int, database: str) -> PostgresConnection:
    """The server of the tests."""
    return PostgresConnection(
        host="127.0.0.1",
        port=port,
        database=database,
        username="postgres",
        password=SecretStr(PASSWORD),
    )


def main(folder: Path, rows: int, port: int, database: str, mode: str) -> None:
    connections = {"database": connection(port, database)}
    result = anyio.run(lambda: run_plan(plan(rows, mode), connections, storage=folder / "state"))
    for metrics in result.metrics.values():
        counts = metrics.counts
        print(metrics.node, counts.records_in, counts.records_out, counts.dropped)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
