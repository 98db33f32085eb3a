"""What a join makes in a table that is upserted, once there is a match that was not there."""

import json
from pathlib import Path
from typing import Any

import pytest

from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.connections import build_connections

pytestmark = pytest.mark.anyio

COLUMNS = {
    "orders": {"order_id": "int64", "customer": "int64"},
    "customers": {"customer": "int64", "name": "string"},
}


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def graph(**sink: Any) -> dict[str, Any]:
    sources = [
        {"id": name, "type": "source", "connector": "local",
         "params": {"path": f"{name}.jsonl", "format": "jsonl", "columns": columns}}
        for name, columns in COLUMNS.items()
    ]  # fmt: skip
    return {
        "name": "g",
        "nodes": [
            *sources,
            {"id": "join", "type": "action", "action": "join",
             "params": {"on": ["customer"], "how": "left"}},
            {"id": "out", "type": "sink", "connector": "postgres", "connection": "database",
             "params": {"table": "joined", **sink}},
        ],
        "edges": [{"from": "orders", "to": "join", "input": "left"},
                  {"from": "customers", "to": "join", "input": "right"},
                  {"from": "join", "to": "out"}],
    }  # fmt: skip


@pytest.mark.parametrize("key", [["_id"], ["order_id"]])
async def test_a_key_of_your_own_keeps_one_row_for_each_of_the_left(tmp_path, database, key):
    known = {"database": {"type": "postgres", "url": database.url}}
    plan = compile_document(graph(key=key), folder=tmp_path, connections=build_connections(known))
    write_rows(tmp_path, "orders", [{"order_id": n, "customer": n} for n in (1, 2)])
    customers = [{"customer": 1, "name": "a"}, {"customer": 2, "name": "b"}]
    found = []
    for count in (1, 2):
        write_rows(tmp_path, "customers", customers[:count])
        connections = {"database": database.connection}
        await run_plan(plan, connections, storage=tmp_path / "state")
        found.append(database.query("SELECT order_id, name FROM joined ORDER BY 1, 2"))
    stale = [(2, None)] if key == ["_id"] else []
    assert found == [[(1, "a"), (2, None)], [(1, "a"), (2, "b"), *stale]]
