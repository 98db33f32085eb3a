"""A folder of documents, a graph that indexes it, and what Qdrant's own client finds there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import incremental_toys as toys

from nvisy_connectors.vector.qdrant import QdrantConnection
from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.sdk import Connection

HERE = Path(__file__).parent
KILLED = -9


def graph(source: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Chunk, hash (materialized), index; what is poisoned becomes a dead letter."""
    return {
        "name": changes.pop("name", "index_docs"),
        "nodes": [
            {"id": "docs", "type": "source", "incremental": True, **source},
            {
                "id": "chunk",
                "type": "action",
                "action": "chunk",
                "params": {"size": 20, "overlap": 0, "boundary": "exact"},
            },
            {"id": "embed", "type": "action", "action": "hash", "on_error": "dead_letter"},
            {
                "id": "index",
                "type": "sink",
                "connector": "qdrant",
                "connection": "vectors",
                "params": {"collection": "docs"},
            },
        ],
        "edges": [
            {"from": "docs", "to": "chunk"},
            {"from": "chunk", "to": "embed"},
            {"from": "embed", "to": "index"},
        ],
        "checkpoint": {"interval_rows": 2},
        **changes,
    }


class World:
    """Documents in a folder, indexed in an embedded Qdrant.

    Args:
        folder: Where everything is kept.
    """

    def __init__(self, folder: Path, source: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.docs = folder / "docs"
        self.docs.mkdir(parents=True, exist_ok=True)
        self.source = source or {
            "connector": "local",
            "params": {"path": str(self.docs), "batch_rows": 2},
        }
        self.clock = 1_700_000_000

    def write(self, name: str, text: str) -> None:
        """Write a document; its time moves on whatever the disk's resolution is."""
        path = self.docs / name
        path.write_text(text)
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def delete(self, name: str) -> None:
        (self.docs / name).unlink()

    def run(self, *, fresh: bool = False, **changes: Any) -> RunResult:
        """Run in this process."""
        document = self.document(**changes)
        return run_once(self.folder / "state", self.folder / "vectors", document, fresh=fresh)

    def document(self, **changes: Any) -> dict[str, Any]:
        return graph(self.source, **changes)

    def run_killed(self, failpoint: str) -> bool:
        """Run in a process that kills itself there; whether it came so far."""
        (self.folder / "graph.json").write_text(json.dumps(self.document()))
        child = subprocess.run(
            [sys.executable, str(HERE / "incremental_kill_target.py"), str(self.folder)],
            env={
                **os.environ,
                "PYTHONPATH": str(HERE),
                "NVISY_FAILPOINT": failpoint,
                "NVISY_LEASE_SECONDS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert child.returncode in {0, KILLED}, child.stderr
        return child.returncode == KILLED

    def stored(self) -> dict[str, Any]:
        """Id -> payload and vector."""
        return in_folder(self.folder / "vectors")

    def expected(self) -> dict[str, Any]:
        """What a full run finds now, into an empty collection."""
        number = len(list(self.folder.glob("oracle*")))
        place = self.folder / f"oracle{number}"
        run_once(place / "state", place / "vectors", self.document(), fresh=False)
        return in_folder(place / "vectors")


def run_once(state: Path, vectors: Path, document: dict[str, Any], *, fresh: bool) -> RunResult:
    connections: dict[str, Connection] = {"vectors": QdrantConnection(path=vectors)}
    plan = compile_graph(build_graph(document), registry=toys.registry())
    return anyio.run(lambda: run_plan(plan, connections, storage=state, fresh=fresh))


def in_folder(vectors: Path) -> dict[str, Any]:
    """All points of the embedded engine."""
    from qdrant_edge import EdgeShard, ScrollRequest

    if not (vectors / "docs").exists():
        return {}
    edge = EdgeShard.load(str(vectors / "docs"))
    try:
        found, _ = edge.scroll(ScrollRequest(limit=100_000, with_payload=True, with_vector=True))
        return {str(p.id): (p.payload, [round(x, 5) for x in p.vector]) for p in found}
    finally:
        edge.close()


def found(result: RunResult) -> tuple[int, int, int, int]:
    """How many objects were new, changed, removed, unchanged."""
    counts = result.metrics["docs"].counts
    return (
        counts.found_new,
        counts.found_changed,
        counts.found_removed,
        counts.found_unchanged,
    )
