"""All that is wrong with a graph is told at once, each cause once and at its own place."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from nvisy_dagster.compiler import compile_document, compile_graph
from nvisy_dagster.graph.connections import build_connections
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.model import Graph

ROWS: dict[str, Any] = {
    "id": "rows",
    "type": "source",
    "connector": "local",
    "params": {"path": "in", "format": "jsonl", "columns": {"n": "int64", "s": "string"}},
}
DOCS: dict[str, Any] = {
    "id": "rows",
    "type": "source",
    "connector": "local",
    "params": {"path": "in"},
}
OUT: dict[str, Any] = {
    "id": "out",
    "type": "sink",
    "connector": "local",
    "params": {"path": "out"},
}
CONNECTIONS = build_connections({
    "gemini": {"type": "gemini-embedding", "credentials": {"apiKey": "kkkkkk", "model": "m"}},
    "q": {"type": "qdrant", "credentials": {"url": "http://h:6333", "collectionName": "c"}},
    "s3": {
        "type": "s3",
        "credentials": {
            "region": "eu-west-1",
            "bucket": "data",
            "accessKeyId": "AKIAEXAMPLE",
            "secretAccessKey": "not-a-secret",
        },
    },
})


def act(action: str, **params: Any) -> dict[str, Any]:
    return {"id": "a", "type": "action", "action": action, "params": params}


def branch(*whens: str, **rest: Any) -> dict[str, Any]:
    routes = [{"name": f"r{i}", "when": when} for i, when in enumerate(whens)]
    return {"id": "a", "type": "branch", "routes": routes, **rest}


def told(*nodes: dict[str, Any], routes: Sequence[str] = (), **rest: Any) -> dict[str, str]:
    """Messages by path of a chain of nodes; a branch's edge is there once for each route."""
    edges: list[dict[str, Any]] = []
    for start, end in pairwise(nodes):
        named = routes if start["type"] == "branch" else [None]
        edges += [{"from": start["id"], "to": end["id"], "route": route} for route in named]
    document = {"nodes": list(nodes), "edges": edges, **rest}
    with pytest.raises(GraphErrors) as caught:
        compile_document(document, connections=CONNECTIONS)
    errors = caught.value.errors
    assert len({error.path for error in errors}) == len(errors), "one place is told twice"
    return {error.path: error.message for error in errors}


CONTRADICTION = "initial_delay_seconds (20) is longer than max_delay_seconds (10)"


@pytest.mark.parametrize("more", [{}, {"x": 1}])
def test_policies_that_contradict_each_other_when_merged(more: dict[str, Any]) -> None:
    node = {**act("filter", where="nn > 1"), "retry": {"initial_delay_seconds": 20}, **more}
    found = told(ROWS, node, OUT, retry={"max_delay_seconds": 10})
    assert found["$.nodes[1].retry"] == CONTRADICTION
    assert set(found) == {
        "$.nodes[1].retry",
        "$.nodes[1].params.where",
        *(f"$.nodes[1].{key}" for key in more),
    }


def test_policies_of_a_graph_that_was_made_by_a_program() -> None:
    document = {
        "nodes": [ROWS, {**OUT, "retry": {"initial_delay_seconds": 20}}],
        "edges": [{"from": "rows", "to": "out"}],
        "retry": {"max_delay_seconds": 10},
    }
    with pytest.raises(GraphErrors, match=r"initial_delay_seconds \(20\) is longer"):
        compile_graph(Graph.model_validate(document))


def test_every_wrong_expression_and_column_of_a_map() -> None:
    wrong = {"a.b": "nn + 1", "b": "length(", "c": "sum(n)", "n": "lower(n, n)", "ok": "n + 1"}
    found = told(ROWS, act("map", set=wrong, select=["ok", "b", "zz"], rename={"b": "x"}), OUT)
    assert set(found) == {
        "$.nodes[1].params.set['a.b']",
        "$.nodes[1].params.set.b",
        "$.nodes[1].params.set.c",
        "$.nodes[1].params.set.n",
        "$.nodes[1].params.select[2]",
    }
    assert "'nn'" in found["$.nodes[1].params.set['a.b']"]


@pytest.mark.parametrize(
    ("params", "paths"),
    [
        ({"drop": ["n", "x", "y"]}, {"drop[1]", "drop[2]"}),
        ({"rename": {"x": "a", "n": "b", "y": "c"}}, {"rename.x", "rename.y"}),
        ({"rename": {"n": "s"}}, {"rename.n"}),
        ({"select": ["n", "n"]}, {"select"}),
        ({"set": {"N": "1", "S": "2"}}, {"set.N", "set.S"}),
    ],
)
def test_every_wrong_column_of_a_map(params: dict[str, Any], paths: set[str]) -> None:
    assert set(told(ROWS, act("map", **params), OUT)) == {f"$.nodes[1].params.{p}" for p in paths}


def test_every_wrong_route_of_a_branch() -> None:
    node = branch("nn > 1", "s", "(", "n > 1")
    found = told(ROWS, node, OUT, routes=["r0", "r1", "r2", "r3"])
    assert set(found) == {f"$.nodes[1].routes[{i}].when" for i in range(3)}
    assert "BOOLEAN" in found["$.nodes[1].routes[1].when"]


def test_a_route_that_is_there_twice_is_one_mistake() -> None:
    node = branch("n > 1", "n > 2")
    node["routes"][1]["name"] = "r0"
    found = told(ROWS, node, OUT, routes=["r0"])
    assert found == {"$.nodes[1].routes[1].name": 'another route is named "r0" already'}
    found = told(ROWS, branch("n > 1", default="r0"), OUT, routes=["r0"])
    assert found == {"$.nodes[1].default": 'another route is named "r0" already'}


def test_conditions_are_looked_at_though_the_mode_is_wrong() -> None:
    bad = {"column": "n", "op": "foo", "value": 1}
    found = told(ROWS, act("sql/filter", mode="xor", conditions=[bad]), OUT)
    assert set(found) == {"$.nodes[1].params.mode", "$.nodes[1].params.conditions[0].op"}
    assert '"xor"' in found["$.nodes[1].params.mode"]


def published(kind: str, stream: str, provider: str = "object/s3") -> dict[str, Any]:
    connection = "q" if provider == "vector/qdrant" else "s3"
    node = {"id": kind, "type": kind, "provider": provider, "stream": stream}
    return {**node, "connection": connection, "params": {}}


def test_objects_are_copied_as_they_are_but_not_into_what_is_read() -> None:
    copied = published("source", "object/read"), published("target", "object/write")
    copied[1]["params"]["prefix"] = "copy/"
    (mistake,) = told(*copied).items()
    assert mistake[0] == "$.nodes[1].params"
    assert mistake[1].startswith('it writes to s3://data/copy, which "source" reads')


def test_an_unknown_stream_says_nothing_of_its_params() -> None:
    embed = act("embed")
    for stream in ("vector/upsrt", "object/write", "vector/read"):
        found = told(DOCS, embed, published("target", stream, "vector/qdrant"))
        assert set(found) == {"$.nodes[2].stream"}
    assert (
        "no stream of a sink"
        in told(DOCS, embed, published("target", "object/read", "vector/qdrant"))[
            "$.nodes[2].stream"
        ]
    )


def test_what_is_not_built_yet_is_told_once() -> None:
    node = {**act("ai/embed"), "provider": "ai/gemini-embedding", "connection": "gemini"}
    message = 'provider "gemini" is not built yet'
    assert told(DOCS, node, OUT) == {"$.nodes[1].provider": message}
    assert told(DOCS, {**act("embed"), "connection": "gemini"}, OUT) == {
        "$.nodes[1].connection": 'connection "gemini" is of type "gemini", which is not built yet'
    }


def test_a_schedule_that_never_fires() -> None:
    found = told(ROWS, OUT, schedule={"cron": "0 0 31 2 *"})
    assert found == {"$.schedule.cron": '"0 0 31 2 *" never fires: no such day ever comes'}
    document = {"nodes": [ROWS, OUT], "edges": [{"from": "rows", "to": "out"}]}
    assert compile_document({**document, "schedule": {"cron": "0 0 29 2 *"}}).schedule


def test_references_belong_in_connections() -> None:
    source = {**DOCS, "params": {"path": "${env:HOME}/in"}}
    with pytest.raises(GraphErrors) as caught:
        compile_document({"nodes": [source, OUT], "edges": [{"from": "rows", "to": "out"}]})
    [error] = caught.value.errors
    assert error.path == "$.nodes[0].params.path"
    assert error.message == '"${env:HOME}" is not replaced in params'
    assert error.remedy is not None
    assert "connections.json" in error.remedy
    kept = act("filter", where="s = '${name}' or s = '$${env:HOME}'")
    nodes = [ROWS, kept, OUT]
    edges = [{"from": "rows", "to": "a"}, {"from": "a", "to": "out"}]
    assert compile_document({"nodes": nodes, "edges": edges})
