"""W2: documents -> chunks -> embeddings -> a sink, in the engine alone.

`w2.py DOCUMENTS URL discard|qdrant streamed|auto [COPIES]`: with `auto` the embeddings are
materialized before the sink, as they are for a user; with `streamed` all is one stage.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import components
import data
from measure import tell

from nvisy_dagster.compiler import Plan, compile_file, connections_beside
from nvisy_dagster.engine.connections import open_connections
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.run import run_plan

FOLDER = data.WORK / "w2"


def graph(source: Path, sink: str, edges: str) -> dict[str, Any]:
    """The graph of the workload; batches and calls in flight are the defaults, 1,024 and 4."""
    chunk = {"size": 512, "overlap": 64, "boundary": "exact", "column": "text"}
    writer: dict[str, Any] = {"id": "write", "type": "sink", "connector": sink}
    if sink == "qdrant":
        writer |= {"connection": "vectors", "params": {"collection": "w2"}}
    return {
        "name": f"w2_{sink}_{edges}",
        "nodes": [
            {
                "id": "read",
                "type": "source",
                "connector": "local",
                "params": {"path": str(source), "format": "jsonl"},
            },
            {"id": "chunk", "type": "action", "action": "chunk", "params": chunk},
            {
                "id": "embed",
                "type": "action",
                "action": "embed",
                "connection": "stub",
                "params": {"model": "stub"},
            },
            writer,
        ],
        "edges": [
            {"from": "read", "to": "chunk"},
            {"from": "chunk", "to": "embed"},
            {"from": "embed", "to": "write"},
        ],
        "execution": {"edges": edges},
    }


def prepare(source: Path, url: str, sink: str, edges: str) -> Path:
    """Write the graph and its connections to files; returns the graph's path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(FOLDER / "vectors", ignore_errors=True)
    connections = {
        "stub": {"type": "openai", "base_url": url},
        "vectors": {"type": "qdrant", "path": str(FOLDER / "vectors")},
    }
    (FOLDER / "connections.json").write_text(json.dumps(connections), encoding="utf-8")
    path = FOLDER / f"{sink}_{edges}.json"
    path.write_text(json.dumps(graph(source, sink, edges)), encoding="utf-8")
    return path


class StageClock:
    """Tells when the embeddings were all there: when the stage of the sink began.

    The engine observes a stage at its end too, so the last look at `embed` that comes without the
    sink, or at the end of all when it is in the same stage, is the end of the embedding stage.
    """

    def __init__(self) -> None:
        self.embedded = 0.0

    def observe(self, metrics: Sequence[NodeMetrics]) -> None:
        """What the engine calls."""
        if any(node.node == "embed" for node in metrics):
            self.embedded = time.perf_counter()


def run(plan: Plan, path: Path) -> dict[str, Any]:
    """Run the plan; seconds of the embedding stage, and of all."""
    clock = StageClock()
    opened = open_connections(plan, connections_beside(path), os.environ)
    state = data.WORK / "state" / "w2"
    shutil.rmtree(state, ignore_errors=True)
    started = time.perf_counter()
    result = anyio.run(lambda: run_plan(plan, opened.by_name, storage=state, observe=clock.observe))
    ended = time.perf_counter()
    return {
        "seconds": clock.embedded - started,
        "all_seconds": ended - started,
        "chunks": result.metrics["write"].counts.records_out,
        "busy_seconds": {
            name: round(node.counts.busy_seconds, 2) for name, node in result.metrics.items()
        },
    }


def main(documents: int, url: str, sink: str, edges: str, copies: str = "1") -> None:
    path = prepare(data.copies(data.w2(documents), int(copies)), url, sink, edges)
    plan = compile_file(path, registry=components.registry())
    tell(**run(plan, path))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
