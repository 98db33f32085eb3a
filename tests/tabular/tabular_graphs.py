"""Graphs of relational actions over files, compiled and run in this process."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest

from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.errors import GraphErrors

Node = dict[str, Any]


def rows_source(node_id: str, columns: Mapping[str, str] | None, **more: Any) -> Node:
    """A source of the JSONL file that is named like the node."""
    params = {"path": f"{node_id}.jsonl", "format": "jsonl", **more}
    if columns is not None:
        params["columns"] = dict(columns)
    return {"id": node_id, "type": "source", "connector": "local", "params": params}


def action(name: str, node_id: str | None = None, **params: Any) -> Node:
    return {"id": node_id or name, "type": "action", "action": name, "params": params}


OUT: Node = {
    "id": "out",
    "type": "sink",
    "connector": "local",
    "params": {"path": "out", "format": "parquet"},
}


def document(nodes: Sequence[Node], *edges: str, **more: Any) -> dict[str, Any]:
    """A graph; an edge is `from to`, or `from to input`."""
    written = [dict(zip(("from", "to", "input"), edge.split(), strict=False)) for edge in edges]
    return {"name": "g", "nodes": list(nodes), "edges": written, **more}


def mistakes(*args: Any, **more: Any) -> dict[str, str]:
    """What is wrong with a graph, by JSON path."""
    with pytest.raises(GraphErrors) as caught:
        compile_document(document(*args, **more))
    return {error.path: f"{error.message} ({error.remedy})" for error in caught.value.errors}


def write_rows(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, *args: Any, **more: Any) -> RunResult:
    plan = compile_document(document(*args, **more), folder=folder)
    return anyio.run(lambda: run_plan(plan, {}, storage=folder / "state"))


def written(folder: Path, name: str = "out") -> list[dict[str, Any]]:
    """The payload of what a sink wrote, in order."""
    files = sorted((folder / name).glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
