"""Reading graphs: what is right is understood, what is wrong is told with place and remedy."""

import json
from typing import Any

import pytest

from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import build_graph, load_graph, parse_graph
from nvisy_dagster.graph.model import Graph

SOURCE = {"id": "docs", "type": "source", "connector": "local", "params": {"path": "x"}}
SINK = {"id": "out", "type": "sink", "connector": "local"}


def graph(**changes: Any) -> dict[str, Any]:
    edges = [{"from": "docs", "to": "out"}]
    return {"name": "g", "nodes": [dict(SOURCE), dict(SINK)], "edges": edges, **changes}


def node(**changes: Any) -> dict[str, Any]:
    return graph(nodes=[dict(SOURCE), {**SINK, **changes}])


def branch(**changes: Any) -> dict[str, Any]:
    routes = [{"name": "a", "when": "x > 1"}]
    return graph(nodes=[{"id": "b", "type": "branch", "routes": routes, **changes}])


NO_TYPE = {"id": "x"}

# document, path, message, remedy
MISTAKES = {
    "unknown key": (graph(nme="x"), "$.nme", 'unknown key "nme"', 'did you mean "name"?'),
    "unknown key of a node": (
        node(conection="c"),
        "$.nodes[1].conection",
        'unknown key "conection"',
        'did you mean "connection"?',
    ),
    "unknown key of a policy": (
        node(retry={"max_retrys": 1}),
        "$.nodes[1].retry.max_retrys",
        'unknown key "max_retrys"',
        'did you mean "max_retries"?',
    ),
    "key of another kind of node": (
        node(routes=[]),
        "$.nodes[1].routes",
        'unknown key "routes"',
        None,
    ),
    "our word in Python's spelling": (
        graph(edges=[{"frm": "docs", "to": "out"}]),
        "$.edges[0].frm",
        'unknown key "frm"',
        'did you mean "from"?',
    ),
    "two spellings": (
        node(retry={"maxRetries": 1, "max_retries": 2}),
        "$.nodes[1].retry.max_retries",
        '"max_retries" is said twice, in two spellings',
        "keep one of them",
    ),
    "unknown type": (
        graph(nodes=[{**SOURCE, "type": "sorce"}]),
        "$.nodes[0].type",
        'unknown type "sorce"',
        'did you mean "source"?',
    ),
    "type that is no word": (
        graph(nodes=[{**SOURCE, "type": ["source"]}]),
        "$.nodes[0].type",
        "unknown type (an array)",
        "one of source, action, sink, branch",
    ),
    "no type": (
        graph(nodes=[NO_TYPE]),
        "$.nodes[0]",
        '"type" is missing',
        'one of "source", "action", "sink", "branch"',
    ),
    "no connector": (
        graph(nodes=[{"id": "a", "type": "source"}]),
        "$.nodes[0]",
        '"connector" is missing',
        "add it",
    ),
    "node that is no object": (
        graph(nodes=[3]),
        "$.nodes[0]",
        "should be an object, not a number",
        None,
    ),
    "no nodes": (graph(nodes=[]), "$.nodes", "should not be empty", None),
    "edges that are no array": (
        graph(edges={}),
        "$.edges",
        "should be an array, not an object",
        None,
    ),
    "bad id": (
        node(id="a b"),
        "$.nodes[1].id",
        '"a b" is not allowed',
        "use letters, digits, _, - and .; it starts with a letter, a digit or _",
    ),
    "long id": (node(id="a" * 129), "$.nodes[1].id", "should have at most 128 characters", None),
    "params that are no object": (
        node(params=[1]),
        "$.nodes[1].params",
        "should be an object, not an array",
        None,
    ),
    "negative retries in camelCase": (
        node(retry={"maxRetries": -1}),
        "$.nodes[1].retry.maxRetries",
        "should be at least 0, not -1",
        None,
    ),
    "negative duration": (
        graph(timeout={"drain_seconds": -1}),
        "$.timeout.drain_seconds",
        "should be at least 0, not -1",
        None,
    ),
    "share in words": (
        graph(on_error="drop", error_limit={"share": "0.1"}),
        "$.error_limit.share",
        "should be a number, not a string",
        None,
    ),
    "share in percent": (
        graph(on_error="drop", error_limit={"share": 5}),
        "$.error_limit.share",
        "should be less than 1, not 5",
        None,
    ),
    "retries in words": (
        node(retry={"max_retries": "3"}),
        "$.nodes[1].retry.max_retries",
        "should be a whole number, not a string",
        None,
    ),
    "no duration": (
        node(timeout={"call_seconds": 0}),
        "$.nodes[1].timeout.call_seconds",
        "should be more than 0, not 0",
        None,
    ),
    "endless duration": (
        graph(checkpoint={"interval_seconds": 1e10}),
        "$.checkpoint.interval_seconds",
        "should be at most 31,622,400, not 10,000,000,000",
        None,
    ),
    "unknown word": (
        node(on_error="dead-letter"),
        "$.nodes[1].on_error",
        'should be one of "fail", "dead_letter", "drop", not "dead-letter"',
        'did you mean "dead_letter"?',
    ),
    "contradicting delays": (
        node(retry={"initial_delay_seconds": 60}),
        "$.nodes[1].retry",
        "initial_delay_seconds (60) is longer than max_delay_seconds (30, its default)",
        "raise max_delay_seconds or lower initial_delay_seconds",
    ),
    "delays that contradict the graph's": (
        {**node(retry={"max_delay_seconds": 1}), "retry": {"initial_delay_seconds": 5}},
        "$.nodes[1].retry",
        "initial_delay_seconds (5) is longer than max_delay_seconds (1)",
        "the graph's own policy is the default of what the node does not say",
    ),
    "limit of nothing": (
        graph(rateLimit={"per": "second"}),
        "$.rateLimit",
        "this rate_limit limits nothing",
        "give at least one of requests, records, tokens",
    ),
    "graph's limit on a node": (
        node(timeout={"graphSeconds": 5}),
        "$.nodes[1].timeout.graphSeconds",
        "graph_seconds limits the whole graph, a node cannot say it",
        "move it to the graph's own timeout",
    ),
    "graph's concurrency on a node": (
        node(concurrency={"max_global": 5}),
        "$.nodes[1].concurrency.max_global",
        "max_global limits the whole graph, a node cannot say it",
        "move it to the graph's own concurrency",
    ),
    "unknown timezone": (
        graph(schedule={"cron": "0 3 * * *", "timezone": "Mars/Olympus"}),
        "$.schedule.timezone",
        'unknown timezone "Mars/Olympus"',
        'use an IANA name such as "Europe/Berlin"',
    ),
    "timezone out of its folder": (
        graph(schedule={"cron": "0 3 * * *", "timezone": "../../etc/passwd"}),
        "$.schedule.timezone",
        'unknown timezone "../../etc/passwd"',
        'use an IANA name such as "Europe/Berlin"',
    ),
    "no routes": (branch(routes=[]), "$.nodes[0].routes", "should not be empty", None),
    "route without expression": (
        branch(routes=[{"name": "a"}]),
        "$.nodes[0].routes[0]",
        '"when" is missing',
        "add it",
    ),
    "two routes of one name": (
        branch(routes=[{"name": "a", "when": "x"}, {"name": "a", "when": "y"}]),
        "$.nodes[0].routes[1].name",
        'another route is named "a" already',
        "give each route its own name",
    ),
    "owner": (
        graph(owners=["me"]),
        "$.owners[0]",
        '"me" is not allowed',
        'use an e-mail address or "team:name"',
    ),
    "tag": (
        graph(tags={"a b": "c"}),
        "$.tags['a b']",
        '"a b" is not allowed',
        "use letters, digits, _, - and ., at most 63 of them",
    ),
    "yes for true": (
        node(materialize="yes"),
        "$.nodes[1].materialize",
        "should be true or false, not a string",
        None,
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_remedy(name):
    document, path, message, remedy = MISTAKES[name]
    with pytest.raises(GraphErrors) as caught:
        build_graph(document)
    found = next(error for error in caught.value.errors if error.message == message)
    assert found.path == path
    if remedy is not None:
        assert found.remedy == remedy


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_gives_one_error(name):
    if name == "our word in Python's spelling":  # the right key is then missing, too
        pytest.skip("two mistakes in one")
    with pytest.raises(GraphErrors) as caught:
        build_graph(MISTAKES[name][0])
    assert len(caught.value.errors) == 1


def test_all_mistakes_are_told_at_once():
    document = node(params=3, on_error="explode")
    document["nodes"][0]["conector"] = "x"
    document["nme"] = 1
    with pytest.raises(GraphErrors) as caught:
        build_graph(document, file="g.json")
    assert {error.path for error in caught.value.errors} == {
        "$.nodes[0].conector",
        "$.nodes[1].params",
        "$.nodes[1].on_error",
        "$.nme",
    }
    assert str(caught.value).startswith("graph g.json: 4 mistakes\n  $.nodes[0]")


def test_many_mistakes_are_all_there_but_not_all_shown():
    with pytest.raises(GraphErrors) as caught:
        build_graph(graph(nodes=[{**SOURCE, "id": f"a b{i}"} for i in range(200)]))
    assert len(caught.value.errors) == 200
    assert str(caught.value).endswith("and 150 more")


def test_camel_case_is_accepted_everywhere():
    retry = {"maxRetries": 7, "initialDelaySeconds": 2}
    loaded = build_graph(node(retry=retry, rateLimit={"requests": 3}, onError="drop"))
    sink = loaded.nodes[1]
    assert sink.retry is not None
    assert sink.retry.max_retries == 7
    assert sink.on_error == "drop"
    assert loaded.path("nodes", 1, "retry", "max_retries") == "$.nodes[1].retry.maxRetries"
    assert loaded.path("nodes", 1, "on_error") == "$.nodes[1].onError"
    assert loaded.path("edges", 0, "from_") == "$.edges[0].from"
    assert loaded.path("nodes", 0, "params", "size") == "$.nodes[0].params.size"


def test_a_node_says_over_its_graph_field_by_field():
    document = {**node(retry={"max_retries": 1}, timeout={"call_seconds": 2}), "on_error": "drop"}
    document |= {"retry": {"backoff": "jitter"}, "timeout": {"node_seconds": 9}}
    loaded = build_graph(document)
    policies = loaded.policies(loaded.nodes[1])
    assert (policies.retry.max_retries, policies.retry.backoff) == (1, "jitter")
    assert (policies.timeout.call_seconds, policies.timeout.node_seconds) == (2, 9)
    assert policies.on_error == "drop"
    assert loaded.policies(loaded.nodes[0]).retry.max_retries == 3


def test_the_name_is_the_file_unless_said(tmp_path):
    document = graph()
    del document["name"]
    file = tmp_path / "my graph!.json"
    file.write_text(json.dumps(document))
    assert load_graph(file).name == "my_graph"
    file.write_text(json.dumps(graph()))
    assert load_graph(file).name == "g"


def test_an_error_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "broken.json"
    file.write_text("{")
    with pytest.raises(GraphErrors, match=r"^graph broken\.json: one mistake\n  line 1, column 2"):
        load_graph(file)


def test_a_graph_is_written_as_it_is_read():
    document = graph(schedule={"cron": "0 3 * * *"}, **{"$schema": "graph.schema.json"})
    loaded = build_graph(document)
    assert json.loads(loaded.model_dump_json(exclude_unset=True)) == {
        **document,
        "schedule": {"cron": "0 3 * * *"},
    }
    assert parse_graph(loaded.model_dump_json()) == loaded


def test_ten_thousand_nodes_load_quickly():
    nodes = [SOURCE, *({"id": f"n{i}", "type": "action", "action": "map"} for i in range(10_000))]
    edges = [{"from": f"n{i}", "to": f"n{i + 1}"} for i in range(9_999)]
    import time

    start = time.process_time()
    loaded = parse_graph(json.dumps(graph(nodes=nodes, edges=edges)))
    assert len(loaded.nodes) == 10_001
    assert time.process_time() - start < 5


def test_nodes_are_found_by_id():
    assert Graph.model_validate(graph()).by_id["out"].type == "sink"
