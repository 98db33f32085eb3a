"""Where a graph writes: no two sinks in one place, no sink where a source reads."""

from pathlib import Path
from typing import Any

import pytest

from nvisy_dagster.compiler import compile_document
from nvisy_dagster.graph.connections import build_connections
from nvisy_dagster.graph.errors import GraphErrors

BUCKETS = build_connections(
    {
        name: {
            "type": "s3",
            "bucket": bucket,
            "region": "eu-west-1",
            "access_key_id": "${env:NVISY_TEST_NOT_SET}",
            "secret_access_key": "${env:NVISY_TEST_NOT_SET}",
        }
        for name, bucket in (("one", "data"), ("two", "data"), ("other", "logs"))
    }
    | {"vectors": {"type": "qdrant", "path": "index"}}
)


def local(node: str, path: str, **params: Any) -> dict[str, Any]:
    kind = "source" if node.startswith("read") else "sink"
    return {"id": node, "type": kind, "connector": "local", "params": {"path": path, **params}}


def bucket(node: str, connection: str, prefix: str) -> dict[str, Any]:
    return {**local(node, ""), "connector": "s3", "connection": connection} | {
        "params": {"prefix": prefix}
    }


def told(*nodes: dict[str, Any]) -> list[tuple[str, str]]:
    """Paths and messages of the mistakes of a graph in which all sources feed all sinks."""
    sources = [node["id"] for node in nodes if node["type"] == "source"]
    edges = [
        {"from": source, "to": node["id"]}
        for source in sources
        for node in nodes
        if node["type"] == "sink"
    ]
    document = {"nodes": list(nodes), "edges": edges}
    try:
        compile_document(document, connections=BUCKETS, folder=Path("/graphs"))
    except GraphErrors as errors:
        return [(error.path, error.message) for error in errors.errors]
    return []


def test_two_sinks_in_one_folder_are_told_at_the_second() -> None:
    [(path, message)] = told(local("read", "in"), local("a", "out"), local("b", "./x/../out/"))
    assert path == "$.nodes[2].params"
    assert message == 'it writes to file:///graphs/out, where "a" writes too'


def test_a_sink_in_a_folder_that_is_read_is_told() -> None:
    for out in ("in", "in/below/it"):
        [(path, message)] = told(local("read", "in"), local("a", out))
        assert path == "$.nodes[1].params"
        assert 'which "read" reads' in message


@pytest.mark.parametrize(
    "nodes",
    [
        (local("read", "in"), local("a", "in2"), local("b", "out")),
        (local("read", "in/one.txt"), local("a", "in")),
        (local("read", ".", glob="docs/*.md"), local("a", "out")),
        (bucket("read", "one", "in/"), bucket("a", "one", "out/"), bucket("b", "other", "out/")),
        # The names of two connections may hide two systems with a bucket of one name.
        (bucket("read", "other", ""), bucket("a", "one", "out/"), bucket("b", "two", "out/")),
    ],
)
def test_places_apart_are_sound(nodes: tuple[dict[str, Any], ...]) -> None:
    assert told(*nodes) == []


def test_buckets_are_compared_without_their_secrets() -> None:
    read = bucket("read", "one", "in/")
    [(path, message)] = told(read, bucket("a", "one", "out"), bucket("b", "one", "out/"))
    assert (path, '"a" writes too' in message) == ("$.nodes[2].params", True)
    [(path, message)] = told(read, bucket("a", "one", "in/made"))
    assert (path, '"read" reads' in message) == ("$.nodes[1].params", True)


def test_sinks_that_only_add_records_may_share_a_place() -> None:
    embed = {"id": "embed", "type": "action", "action": "embed"}
    sinks = [
        {
            "id": f"k{i}",
            "type": "sink",
            "connector": "qdrant",
            "connection": "vectors",
            "params": {"collection": "c"},
        }
        for i in range(2)
    ]
    edges = [("read", "embed"), ("embed", "k0"), ("embed", "k1")]
    document = {
        "nodes": [local("read", "in"), embed, *sinks],
        "edges": [{"from": start, "to": end} for start, end in edges],
    }
    assert len(compile_document(document, connections=BUCKETS).nodes) == 4
