"""Rate limits, pools and retries as they are written: what is refused, and what comes of it."""

from itertools import pairwise
from typing import Any

import pytest

from nvisy_dagster.compiler import Plan, compile_document
from nvisy_dagster.graph.connections import build_connections, parse_connections
from nvisy_dagster.graph.errors import GraphErrors

READ = {"id": "read", "type": "source", "connector": "local", "params": {"path": "in.jsonl"}}
EMBED = {
    "id": "embed",
    "type": "action",
    "action": "embed",
    "connection": "models",
    "params": {"model": "m", "dimensions": 8},
}
WRITE = {
    "id": "write",
    "type": "sink",
    "connector": "local",
    "params": {"path": "out", "format": "jsonl"},
}
LIMIT = {"requests": 500, "tokens": 100_000, "per": "minute"}


def compiled(
    nodes: list[dict[str, Any]], connection: dict[str, Any] | None = None, **graph: Any
) -> Plan:
    names = [node["id"] for node in nodes]
    edges = [{"from": a, "to": b} for a, b in pairwise(names)]
    document = {"name": "g", "nodes": nodes, "edges": edges, **graph}
    connections = build_connections({"models": {"type": "openai", **(connection or {})}})
    return compile_document(document, connections=connections)


def mistake(*args: Any, **graph: Any) -> tuple[str, str, str | None]:
    with pytest.raises(GraphErrors) as caught:
        compiled(*args, **graph)
    (error,) = caught.value.errors
    return error.path, error.message, error.remedy


def test_a_connection_says_its_limits_beside_its_type() -> None:
    plan = compiled(
        [READ, EMBED, WRITE], {"rate_limit": LIMIT, "concurrency": {"pool": "gpu"}, "model": "m"}
    )
    said = plan.connections["models"]
    assert said.rate_limit is not None
    assert (said.rate_limit.requests, said.rate_limit.tokens) == (500, 100_000)
    camel = compiled([READ, EMBED, WRITE], {"rateLimit": LIMIT})
    assert camel.connections["models"].rate_limit == said.rate_limit
    assert compiled([READ, EMBED, WRITE]).connections == {}


@pytest.mark.parametrize(
    ("entry", "path", "message"),
    [
        ({"rate_limit": {"request": 5}}, "$.models.rate_limit.request", 'unknown key "request"'),
        ({"rate_limit": {"requests": 0}}, "$.models.rate_limit.requests", "at least 1"),
        ({"rate_limit": {"per": "second"}}, "$.models.rate_limit", "limits nothing"),
        ({"rate_limit": {"requests": 1, "per": "hour"}}, "$.models.rate_limit.per", "second"),
        ({"concurrency": {"pool": "a b"}}, "$.models.concurrency.pool", "not allowed"),
        ({"concurrency": {"pool": "p", "max_global": 1}}, "$.models.concurrency", "max_global"),
    ],
)
def test_what_is_wrong_with_the_limits_of_a_connection(entry, path, message) -> None:
    with pytest.raises(GraphErrors) as caught:
        build_connections({"models": {"type": "openai", **entry}})
    found = next(error for error in caught.value.errors if error.path.startswith(path))
    assert message in f"{found.path} {found.message}"


def test_a_limit_of_a_connection_is_no_field_of_its_connector() -> None:
    text = '{"models": {"type": "openai", "model": "m", "rate_limit": {"requests": 1}}}'
    assert parse_connections(text)["models"].fields == {"model": "m"}


def test_the_graphs_limit_is_for_nodes_that_have_a_connection() -> None:
    plan = compiled([READ, EMBED, WRITE], rate_limit=LIMIT)
    limits = {name: node.policies.rate_limit for name, node in plan.nodes.items()}
    assert limits["read"] is limits["write"] is None
    assert limits["embed"] is not None
    assert mistake([READ, WRITE], rate_limit=LIMIT)[:2] == (
        "$.rate_limit",
        "no node takes it: none without its own has a connection",
    )


def test_a_limit_of_tokens_needs_somebody_who_tells_them() -> None:
    assert compiled([READ, {**EMBED, "rate_limit": {"tokens": 5}}, WRITE])
    assert mistake([READ, EMBED, {**WRITE, "rate_limit": {"tokens": 5}}]) == (
        "$.nodes[2].rate_limit.tokens",
        '"local" does not tell the tokens of its calls',
        "limit its requests or records",
    )


@pytest.mark.parametrize(
    ("policy", "path", "message", "remedy"),
    [
        (
            {"retry": {"on": ["server", "rate_limt"]}},
            "$.nodes[1].retry.on",
            '"rate_limt" is no tag of an error',
            'did you mean "rate_limit"?',
        ),
        (
            {"timeout": {"call_seconds": 60, "node_seconds": 30}},
            "$.nodes[1].timeout",
            "call_seconds (60) is longer than node_seconds (30), which would end it",
            "raise node_seconds or lower call_seconds",
        ),
    ],
)
def test_policies_that_cannot_be_meant(policy, path, message, remedy) -> None:
    assert mistake([READ, {**EMBED, **policy}, WRITE]) == (path, message, remedy)


def test_a_tag_that_is_never_retried_is_told_apart_from_an_unknown_one() -> None:
    path, message, _ = mistake([READ, {**EMBED, "retry": {"on": ["auth"]}}, WRITE])
    assert (path, message) == ("$.nodes[1].retry.on", '"auth" is never retried')


def test_timeouts_of_node_and_graph_together() -> None:
    path, message, _ = mistake(
        [READ, {**EMBED, "timeout": {"call_seconds": 60}}, WRITE], timeout={"graph_seconds": 50}
    )
    assert path == "$.nodes[1].timeout"
    assert message.startswith("call_seconds (60) is longer than graph_seconds (50)")
    path, _, _ = mistake([READ, EMBED, WRITE], timeout={"node_seconds": 9, "graph_seconds": 5})
    assert path == "$.timeout"


def test_a_node_has_no_more_calls_than_all_of_them() -> None:
    whole = {"max_global": 2}
    busy = {**EMBED, "concurrency": {"max_per_node": 20}}
    told = mistake([READ, busy, WRITE], concurrency=whole)
    assert told == (
        "$.nodes[1].concurrency.max_per_node",
        "max_per_node (20) is more than max_global (2), which all nodes share",
        "the graph's own policy is the default of what the node does not say",
    )
    path, _, remedy = mistake([READ, EMBED, WRITE], concurrency={"max_per_node": 20, **whole})
    assert path == "$.concurrency.max_per_node"
    assert remedy == "raise max_global or lower max_per_node"
    compiled([READ, {**EMBED, "concurrency": {"max_per_node": 2}}, WRITE], concurrency=whole)


def pools(plan: Plan) -> dict[str, str | None]:
    return {stage.id: plan.pools.get(stage.id) for stage in plan.stages}


def test_who_names_the_pool_of_a_stage() -> None:
    # `embed` costs money: what it makes is materialized, so there are two stages.
    assert pools(compiled([READ, EMBED, WRITE])) == {"read__embed": None, "write": None}
    plan = compiled([READ, EMBED, WRITE], concurrency={"pool": "all"})
    assert pools(plan) == {"read__embed": "all", "write": "all"}
    gpu = {"concurrency": {"pool": "gpu"}}
    plan = compiled([READ, EMBED, WRITE], gpu, concurrency={"pool": "all"})
    assert pools(plan) == {"read__embed": "gpu", "write": "all"}
    plan = compiled([READ, {**EMBED, "concurrency": {"pool": "mine"}}, WRITE], gpu)
    assert pools(plan) == {"read__embed": "mine", "write": None}


def test_a_stage_has_one_pool() -> None:
    gpu = {"concurrency": {"pool": "gpu"}}
    nodes = [{**READ, "concurrency": {"pool": "disk"}}, EMBED, WRITE]
    path, message, remedy = mistake(nodes, gpu)
    assert path == "$.nodes[1]"
    assert message == (
        'it waits for the pool "gpu", and another node of its stage for "disk": a stage has one'
    )
    assert remedy is not None
    nodes[0]["materialize"] = True
    assert pools(compiled(nodes, gpu)) == {"read": "disk", "embed": "gpu", "write": None}
