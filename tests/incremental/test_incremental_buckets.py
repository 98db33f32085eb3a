"""Incremental runs from Google's and from Azure's store into an embedded Qdrant."""

from typing import Any

import anyio
import incremental_toys as toys
import pytest
from incremental_worlds import found, graph, in_folder
from servers.stores import running

from nvisy_connectors.vector.qdrant import QdrantConnection
from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph

# An emulator is installed at its first use.
pytestmark = pytest.mark.timeout(400)
TEXT = "the quick brown fox jumps over the lazy dog "


@pytest.fixture(scope="module", params=["gcs", "azure"])
def store(request, tmp_path_factory):
    with running(request.param, tmp_path_factory.mktemp(request.param)) as one:
        yield one


def run(store: Any, state: Any, vectors: Any) -> RunResult:
    source = {"connector": store.name, "connection": "lake", "params": {"prefix": "docs/"}}
    connections = {"lake": store.connection(), "vectors": QdrantConnection(path=vectors)}
    plan = compile_graph(build_graph(graph(source)), registry=toys.registry())
    return anyio.run(lambda: run_plan(plan, connections, storage=state))


def test_what_changed_and_what_is_gone(store, tmp_path):
    def put(key: str, text: str) -> None:
        store.client.put(f"docs/{key}", text.encode())

    def again() -> tuple[int, int, int, int]:
        return found(run(store, tmp_path / "state", tmp_path / "vectors"))

    for key in ("a", "b", "c/d", "e"):
        put(key, f"{key} {TEXT}")
    assert again() == (4, 0, 0, 0)
    assert again() == (0, 0, 0, 4)
    put("f", f"f {TEXT}")
    put("a", "short")
    put("b", "  ")
    store.client.delete(["docs/c/d"])
    assert again() == (1, 2, 1, 1)
    run(store, tmp_path / "fresh", tmp_path / "expected")
    stored = in_folder(tmp_path / "vectors")
    assert stored == in_folder(tmp_path / "expected")
    assert len(stored) > 5
