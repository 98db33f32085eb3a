"""Incremental runs from a real S3 server into Qdrant's REST API, read with Qdrant's own client."""

import subprocess
import sys
from pathlib import Path

import anyio
import incremental_toys as toys
import pytest
from incremental_worlds import found, graph
from pydantic import SecretStr
from qdrant_client import QdrantClient
from servers.seaweedfs import seaweedfs

from nvisy_connectors.object.s3 import S3Connection
from nvisy_connectors.vector.qdrant import QdrantConnection
from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph

FACADE = Path(__file__).parents[1] / "servers" / "qdrant_facade.py"
KEY = "correct-horse"
TEXT = "the quick brown fox jumps over the lazy dog "


@pytest.fixture(scope="module")
def qdrant():
    command = [sys.executable, str(FACADE), "--api-key", KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with seaweedfs(tmp_path_factory.mktemp("s3")) as server:
        yield server


class Lake:
    def __init__(self, s3, qdrant):
        import obstore

        self.api = obstore
        self.url = qdrant
        fields = {
            "region": s3.region,
            "endpoint": s3.endpoint,
            "access_key_id": s3.access_key_id,
            "secret_access_key": s3.secret_access_key,
        }
        self.store = obstore.store.S3Store(
            "incremental", **fields, client_options={"allow_http": True}
        )
        self.connection = S3Connection.model_validate({"bucket": "incremental", **fields})

    def put(self, key, text):
        self.api.put(self.store, f"docs/{key}", text.encode())

    def delete(self, key):
        self.api.delete(self.store, f"docs/{key}")

    def run(self, state, collection, *, name="index_docs"):
        source = {"connector": "s3", "connection": "lake", "params": {"prefix": "docs/"}}
        document = graph(source, name=name)
        document["nodes"][-1]["params"]["collection"] = collection
        connections = {
            "lake": self.connection,
            "vectors": QdrantConnection(url=self.url, api_key=SecretStr(KEY)),
        }
        plan = compile_graph(build_graph(document), registry=toys.registry())
        return anyio.run(lambda: run_plan(plan, connections, storage=state))

    def stored(self, collection):
        client = QdrantClient(url=self.url, check_compatibility=False, headers={"api-key": KEY})
        points, _ = client.scroll(collection, limit=1000, with_payload=True, with_vectors=True)
        return {str(p.id): (p.payload, [round(x, 4) for x in p.vector]) for p in points}


def test_objects_and_points_on_servers(s3, qdrant, tmp_path):
    lake = Lake(s3, qdrant)
    for key in ("a", "b", "c/d", "e"):
        lake.put(key, f"{key} {TEXT}")
    assert found(lake.run(tmp_path / "state", "one")) == (4, 0, 0, 0)
    assert found(lake.run(tmp_path / "state", "one")) == (0, 0, 0, 4)
    lake.put("f", f"f {TEXT}")
    lake.put("a", "short")
    lake.put("b", "  ")
    lake.delete("c/d")
    result = lake.run(tmp_path / "state", "one")
    assert found(result) == (1, 2, 1, 1)
    assert result.metrics["docs"].counts.records_in == 3
    lake.run(tmp_path / "fresh", "two")
    assert lake.stored("one") == lake.stored("two")
    assert len(lake.stored("one")) > 5


def test_two_graphs_share_a_collection(s3, qdrant, tmp_path):
    lake = Lake(s3, qdrant)
    lake.put("shared", f"shared {TEXT}")
    lake.run(tmp_path / "state", "shared", name="first")
    before = lake.stored("shared")
    # The second graph's nodes make other ids of the same documents.
    source = {"connector": "s3", "connection": "lake", "params": {"prefix": "docs/"}}
    document = graph(source, name="second")
    document["nodes"][1]["id"] = "cut"
    document["edges"][0]["to"] = document["edges"][1]["from"] = "cut"
    document["nodes"][-1]["params"]["collection"] = "shared"
    connections = {
        "lake": lake.connection,
        "vectors": QdrantConnection(url=lake.url, api_key=SecretStr(KEY)),
    }
    plan = compile_graph(build_graph(document), registry=toys.registry())
    anyio.run(lambda: run_plan(plan, connections, storage=tmp_path / "state"))
    both = lake.stored("shared")
    assert before.items() <= both.items()
    assert len(both) == 2 * len(before)
