"""What holds for any document."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nvisy_dagster.graph import nvisy_tables as tables
from nvisy_dagster.graph.connections import build_connections, parse_connections, resolve_secrets
from nvisy_dagster.graph.errors import GraphError, GraphErrors
from nvisy_dagster.graph.load import build_graph, parse_graph
from nvisy_dagster.graph.model import Edge, Graph

WORDS = [
    *("source", "action", "sink", "branch", "target", "fanout", "fanin", "a", "b", "${env:A}"),
    *tables.PROVIDER_CONNECTORS,
    *tables.MODEL_PROVIDERS,
    *tables.STREAMS,
    *tables.ACTIONS,
    *(name.rpartition("/")[2] for name in tables.CREDENTIALS),
]
KEYS = [
    *("id", "type", "nodes", "edges", "from", "to", "route", "connector", "action", "provider"),
    *("stream", "params", "retry", "timeout", "concurrency", "maxRetries", "maxDelayMs", "name"),
    *("initialDelayMs", "nodeTimeoutMs", "conditions", "column", "op", "value", "mode", "routes"),
    *("predicate", "defaultRoute", "dependsOn", "columns", "strategy", "keep", "metadata", "tags"),
    *("credentials", "context", "apiKey", "schedule", "cron", "timezone", "when", "connection"),
    *("max_retries", "owners", "on_error", "onError", "rateLimit", "default", "from_", "$schema"),
]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)
NODE = st.fixed_dictionaries(
    {"id": st.sampled_from("abc") | JSON, "type": st.sampled_from(WORDS[:7]) | JSON},
    optional={key: st.sampled_from(WORDS) | JSON for key in KEYS[7:]},
)
EDGE = st.fixed_dictionaries({"from": st.sampled_from("abc") | JSON, "to": st.sampled_from("abc")})
GRAPHS = st.fixed_dictionaries(
    {"nodes": st.lists(NODE | JSON, max_size=5), "edges": st.lists(EDGE | JSON, max_size=5)},
    optional=dict.fromkeys(("id", "name", "retry", "timeout", "metadata", "schedule"), JSON),
)


def attempt(load: Callable[[], Graph]) -> tuple[Graph | None, Sequence[GraphError]]:
    try:
        return load(), ()
    except GraphErrors as error:
        return None, error.errors


@given(JSON | GRAPHS)
@settings(max_examples=150, deadline=None)
def test_any_json_gives_a_graph_or_its_mistakes(document: Any):
    for load in (lambda: build_graph(document), lambda: parse_graph(json.dumps(document))):
        graph, mistakes = attempt(load)
        assert (graph is None) == bool(mistakes)
        assert all(one.path.startswith("$") and one.message for one in mistakes)
        if graph is not None:
            assert parse_graph(graph.model_dump_json()) == graph
            for node in graph.nodes:
                graph.policies(node)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_give_mistakes(data: bytes | str):
    with suppress(GraphErrors):
        parse_graph(data)
    with suppress(GraphErrors):
        parse_connections(data)


@given(JSON | st.dictionaries(st.sampled_from("abc"), JSON, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_json_gives_connections_or_their_mistakes(document: Any):
    with suppress(GraphErrors):
        resolve_secrets(build_connections(document), {"A": "x"})


FREE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(categories=["Ll"]), max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
IDS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
SECONDS = st.floats(0.001, 1000)
RETRY = st.none() | st.fixed_dictionaries(
    {}, optional={"max_retries": st.integers(0, 9), "backoff": st.sampled_from(["fixed", "jitter"])}
)
POLICIES = {
    "retry": RETRY,
    "timeout": st.none()
    | st.tuples(SECONDS, SECONDS).map(
        lambda pair: {"call_seconds": min(pair), "node_seconds": max(pair)}
    ),
    "concurrency": st.none() | st.fixed_dictionaries({"max_per_node": st.integers(1, 99)}),
    "rate_limit": st.none() | st.fixed_dictionaries({"records": st.integers(1, 99)}),
    "metadata": st.dictionaries(st.text("abc"), FREE, max_size=2),
    "tags": st.dictionaries(IDS, IDS, max_size=2),
}
PARAMS = {"params": st.dictionaries(st.text("abc"), FREE, max_size=3), "connection": IDS}
ROUTE = st.fixed_dictionaries({"name": IDS, "when": st.just("x > 1")})
ROUTES = st.lists(ROUTE, min_size=1, max_size=3, unique_by=lambda route: route["name"])
NODES = st.one_of(
    *(
        st.fixed_dictionaries(
            {"id": IDS, "type": st.just(kind), key: IDS}, optional=POLICIES | PARAMS
        )
        for kind, key in (("source", "connector"), ("action", "action"), ("sink", "connector"))
    ),
    st.fixed_dictionaries(
        {"id": IDS, "type": st.just("branch"), "routes": ROUTES},
        optional={**POLICIES, "default": IDS},
    ).filter(lambda node: node.get("default") not in {r["name"] for r in node["routes"]}),
)
VALID = st.fixed_dictionaries(
    {
        "name": IDS,
        "nodes": st.lists(NODES, min_size=1, max_size=4),
        "edges": st.lists(st.fixed_dictionaries({"from": IDS, "to": IDS}), max_size=4),
    },
    optional={
        "schedule": st.just({"cron": "0 3 * * *", "timezone": "Europe/Berlin"}),
        "on_error": st.sampled_from(["fail", "dead_letter", "drop"]),
        "checkpoint": st.fixed_dictionaries({"interval_rows": st.integers(1, 10**9)}),
        "$schema": st.just("graph.schema.json"),
    },
)


@given(VALID)
@settings(max_examples=100, deadline=None)
def test_any_valid_graph_comes_back_from_json(document: dict[str, Any]):
    graph = Graph.model_validate(document)
    assert build_graph(document) == graph
    for text in (graph.model_dump_json(), graph.model_dump_json(exclude_unset=True)):
        assert parse_graph(text) == graph
    said = json.loads(graph.model_dump_json(exclude_unset=True))
    assert said == json.loads(json.dumps(document))


@given(VALID)
@settings(max_examples=50, deadline=None)
def test_every_place_of_our_own_format_is_where_it_is(document: dict[str, Any]):
    graph = build_graph(document)
    for index, node in enumerate(graph.nodes):
        assert graph.path("nodes", index, "id") == f"$.nodes[{index}].id"
        assert graph.path("nodes", index, "retry", "max_retries").startswith(f"$.nodes[{index}]")
        assert node.id == document["nodes"][index]["id"]


def test_an_edge_is_written_with_its_own_words():
    edge = Edge.model_validate({"from": "a", "to": "b"})
    assert edge.model_dump(exclude_unset=True) == {"from": "a", "to": "b"}
