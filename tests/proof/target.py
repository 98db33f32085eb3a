"""The run that is put to the proof: a real graph in a process of its own, to be killed.

`target.py FOLDER`: runs the graph of the folder by the engine alone, with the bug that the variable
`NVISY_PROOF_BUG` names, if it does.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from nvisy_dagster.compiler import compile_file, connections_beside
from nvisy_dagster.engine.connections import open_connections
from nvisy_dagster.engine.run import run_plan

CHANNEL_BYTES = 1
"""A channel holds one batch: an epoch is not much more than its interval."""

Json = dict[str, Any]


def source(batch_rows: int) -> Json:
    """Reads the records, in batches of so many."""
    return {
        "id": "rows",
        "type": "source",
        "connector": "local",
        "params": {
            "path": "rows.jsonl",
            "format": "jsonl",
            "batch_rows": batch_rows,
            "columns": {"key": "int64", "kind": "string", "text": "string", "amount": "string"},
        },
    }


KEEP: Json = {
    "id": "keep",
    "type": "action",
    "action": "filter",
    "params": {"where": "kind <> 'drop'"},
}
SHAPE: Json = {
    "id": "shape",
    "type": "action",
    "action": "map",
    "params": {"set": {"text": "upper(text)", "amount": "CAST(amount AS INTEGER)"}},
    "on_error": "dead_letter",
}
EMBED: Json = {"id": "embed", "type": "action", "action": "embed", "params": {"dimensions": 64}}
FILES: Json = {
    "id": "files",
    "type": "sink",
    "connector": "local",
    "params": {"path": "out", "format": "parquet"},
}
VECTORS: Json = {
    "id": "vectors",
    "type": "sink",
    "connector": "qdrant",
    "connection": "vectors",
    "params": {"collection": "rows"},
}
TABLE: Json = {
    "id": "table",
    "type": "sink",
    "connector": "postgres",
    "connection": "base",
    "params": {},
}
SINKS = {"files": [FILES], "table": [TABLE], "both": [FILES, EMBED, VECTORS]}
"""What each graph writes: Parquet files; a Postgres table; Parquet files and, behind an action that
costs money, so that what it makes is kept between two stages, a Qdrant folder."""


def graph(
    kind: str, *, interval_rows: int, batch_rows: int, edges: str = "auto", table: str = "rows"
) -> Json:
    """The graph of a kind."""
    TABLE["params"]["table"] = table
    nodes = [source(batch_rows), KEEP, SHAPE, *SINKS[kind]]
    after = {"keep": "rows", "shape": "keep", "vectors": "embed"}
    return {
        "name": "proof",
        "nodes": nodes,
        "edges": [{"from": after.get(node["id"], "shape"), "to": node["id"]} for node in nodes[1:]],
        "checkpoint": {"interval_rows": interval_rows},
        "execution": {"edges": edges},
        "retry": {"max_retries": 2, "initial_delay_seconds": 0.01},
    }


def main(folder: Path) -> None:
    """Run the graph of the folder; its counts go to `counts.json`."""
    if bug := os.environ.get("NVISY_PROOF_BUG"):
        import bugs

        bugs.BUGS[bug]()
    path = folder / "proof.json"
    plan = compile_file(path)
    connections = open_connections(plan, connections_beside(path), os.environ)
    result = anyio.run(
        lambda: run_plan(
            plan,
            connections.by_name,
            storage=folder / "state",
            adapt=lambda context: replace(context, channel_bytes=CHANNEL_BYTES),
        )
    )
    counts = {metrics.node: metrics.counts.to_json() for metrics in result.metrics.values()}
    (folder / "counts.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
