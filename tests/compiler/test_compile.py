"""Every mistake at once, each with its JSON path and its remedy; and what a sound graph becomes."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from nvisy_dagster.compiler import Plan, compile_document, compile_graph
from nvisy_dagster.graph.connections import build_connections
from nvisy_dagster.graph.errors import GraphError, GraphErrors
from nvisy_dagster.graph.load import build_graph, parse_graph

DOCS: dict[str, Any] = {
    "id": "docs",
    "type": "source",
    "connector": "local",
    "params": {"path": "docs", "format": "text"},
}
ROWS: dict[str, Any] = {
    "id": "rows",
    "type": "source",
    "connector": "local",
    "params": {"path": "r.jsonl", "format": "jsonl", "columns": {"n": "int64", "s": "string"}},
}
CHUNK: dict[str, Any] = {"id": "chunk", "type": "action", "action": "chunk"}
EMBED: dict[str, Any] = {"id": "embed", "type": "action", "action": "embed"}
INDEX: dict[str, Any] = {
    "id": "index",
    "type": "sink",
    "connector": "qdrant",
    "connection": "vectors",
    "params": {"collection": "c"},
}
OUT: dict[str, Any] = {
    "id": "out",
    "type": "sink",
    "connector": "local",
    "params": {"path": "out", "format": "parquet"},
}
CONNECTIONS = build_connections({"vectors": {"type": "qdrant", "path": "index"}})


def document(nodes: Sequence[dict[str, Any]], *edges: str, **rest: Any) -> dict[str, Any]:
    written = [dict(zip(("from", "to", "route"), edge.split(), strict=False)) for edge in edges]
    return {"name": "g", "nodes": list(nodes), "edges": written, **rest}


def compiled(nodes: Sequence[dict[str, Any]], *edges: str, **rest: Any) -> Plan:
    return compile_document(document(nodes, *edges, **rest), connections=CONNECTIONS)


def mistakes(nodes: Sequence[dict[str, Any]], *edges: str, **rest: Any) -> list[GraphError]:
    with pytest.raises(GraphErrors) as caught:
        compiled(nodes, *edges, **rest)
    return list(caught.value.errors)


def only(nodes: Sequence[dict[str, Any]], *edges: str, **rest: Any) -> GraphError:
    found = mistakes(nodes, *edges, **rest)
    assert len(found) == 1, [str(error) for error in found]
    return found[0]


MAIN = ([DOCS, CHUNK, EMBED, INDEX], "docs chunk", "chunk embed", "embed index")


def test_the_main_job_has_two_stages_with_paid_work_between() -> None:
    plan = compiled(*MAIN)
    assert [list(stage.nodes) for stage in plan.stages] == [["docs", "chunk", "embed"], ["index"]]
    assert [edge.kind for edge in plan.edges] == ["streamed", "streamed", "materialized"]
    assert plan.stages[1].inputs == plan.stages[0].outputs
    embedded = plan.nodes["embed"].output
    assert embedded is not None
    assert embedded.primitive == "embedding"
    assert embedded.schema is not None
    assert embedded.schema.field("vector").type.list_size == 256


def test_execution_says_how_edges_travel() -> None:
    streamed = compiled(*MAIN, execution={"edges": "streamed"})
    assert len(streamed.stages) == 1
    materialized = compiled(*MAIN, execution={"edges": "materialized"})
    assert [len(stage.nodes) for stage in materialized.stages] == [1, 1, 1, 1]


def test_a_node_says_it_for_itself() -> None:
    nodes = [DOCS, {**CHUNK, "materialize": True}, {**EMBED, "materialize": False}, INDEX]
    plan = compiled(nodes, *MAIN[1:])
    assert [list(stage.nodes) for stage in plan.stages] == [["docs", "chunk"], ["embed", "index"]]


def test_an_edge_between_levels_is_materialized_so_that_no_stages_wait_for_each_other() -> None:
    some = {"type": "action", "action": "filter", "params": {"where": "n > 1"}}
    nodes = [ROWS, {**some, "id": "a", "materialize": True}, {**some, "id": "b"}, OUT]
    plan = compiled(nodes, "rows a", "a b", "rows b", "b out")
    kinds = {(edge.output.node, edge.target): edge.kind for edge in plan.edges}
    assert kinds["rows", "b"] == "materialized"
    assert [list(stage.nodes) for stage in plan.stages] == [["rows", "a"], ["b", "out"]]


def test_a_stage_hash_changes_with_what_it_computes_and_with_what_is_before_it() -> None:
    plan = compiled(*MAIN)
    sink = {**INDEX, "params": {"collection": "other"}}
    changed_sink = compiled([DOCS, CHUNK, EMBED, sink], *MAIN[1:])
    assert changed_sink.stages[0].hash == plan.stages[0].hash
    assert changed_sink.stages[1].hash != plan.stages[1].hash
    chunk = {**CHUNK, "params": {"size": 99, "overlap": 0}}
    changed_chunk = compiled([DOCS, chunk, EMBED, INDEX], *MAIN[1:])
    assert all(a.hash != b.hash for a, b in zip(changed_chunk.stages, plan.stages, strict=True))


def test_every_mistake_is_told_at_once() -> None:
    nodes = [
        {**DOCS, "connector": "locl"},
        {**CHUNK, "params": {"size": "big"}},
        {**EMBED, "action": "embd"},
        {**INDEX, "connection": "vecors"},
        {"id": "late", "type": "sink", "connector": "pinecone", "params": {}},
    ]
    found = mistakes(nodes, "docs chunk", "chunk embed", "embed index", "embed lte")
    told = {(error.path, error.message): error.remedy for error in found}
    assert told["$.nodes[0].connector", 'unknown connector "locl"'] == 'did you mean "local"?'
    assert told["$.nodes[2].action", 'unknown action "embd"'] == 'did you mean "embed"?'
    assert (
        told["$.nodes[3].connection", 'connection "vecors" is not defined']
        == 'did you mean "vectors"?'
    )
    assert told["$.edges[3].to", 'there is no node "lte"'] == 'did you mean "late"?'
    planned = told["$.nodes[4].connector", 'connector "pinecone" is not built yet']
    assert planned is not None
    assert "qdrant" in planned
    assert "$.nodes[1].params.size" in {error.path for error in found}


def test_params_are_told_at_their_path_with_the_nearest_key() -> None:
    error = only([DOCS, {**CHUNK, "params": {"sise": 5}}, OUT], "docs chunk", "chunk out")
    assert (error.path, error.remedy) == ("$.nodes[1].params.sise", 'did you mean "size"?')


def test_cycles_are_named() -> None:
    again = {**CHUNK, "id": "again"}
    error = only([DOCS, CHUNK, again, OUT], "docs chunk", "chunk again", "again chunk", "again out")
    assert error.path == "$.edges[2]"
    assert error.message == "these nodes form a cycle: chunk -> again -> chunk"


def test_two_separate_cycles_are_both_named() -> None:
    nodes = [DOCS, *({**CHUNK, "id": name} for name in "abcd"), OUT]
    found = mistakes(nodes, "docs a", "a b", "b a", "b c", "c d", "d c", "d out")
    assert [e.message for e in found] == [
        "these nodes form a cycle: a -> b -> a",
        "these nodes form a cycle: c -> d -> c",
    ]


def test_self_edges_and_the_same_edge_twice() -> None:
    found = mistakes([DOCS, CHUNK, OUT], "docs chunk", "chunk chunk", "docs chunk", "chunk out")
    assert [(e.path, e.message) for e in found] == [
        ("$.edges[1]", 'this edge leads from "chunk" to itself'),
        ("$.edges[2]", "the same as edge 0"),
    ]


def test_duplicate_ids() -> None:
    error = only([DOCS, CHUNK, OUT, {**OUT}], "docs chunk", "chunk out")
    assert (error.path, error.message) == (
        "$.nodes[3].id",
        'id "out" is already taken by node 2',
    )


def test_arity() -> None:
    lonely = {**CHUNK, "id": "lonely"}
    found = mistakes(
        [DOCS, CHUNK, OUT, lonely], "docs chunk", "chunk out", "out chunk", "chunk docs"
    )
    messages = [error.message for error in found]
    assert 'sink "out" cannot be the start of an edge (to "chunk")' in messages
    assert 'source "docs" cannot be the end of an edge (from "chunk")' in messages
    assert 'no edge leads to action "lonely"' in messages
    assert 'no edge leads from action "lonely": what it makes goes nowhere' in messages


def test_what_no_source_reaches() -> None:
    found = mistakes(
        [DOCS, OUT, {**CHUNK, "id": "a"}, {**CHUNK, "id": "b"}, {**OUT, "id": "o"}],
        "docs out",
        "a b",
        "b o",
    )
    told = [(error.path, error.message) for error in found]
    assert ("$.nodes[2]", 'no edge leads to action "a"') in told
    assert ("$.nodes[3]", 'no source reaches "b"') in told
    assert ("$.nodes[4]", 'no source reaches "o"') in told


def test_a_sink_refuses_a_primitive_it_cannot_write() -> None:
    error = only([DOCS, CHUNK, INDEX], "docs chunk", "chunk index")
    assert error.path == "$.nodes[2]"
    assert error.message.startswith('"qdrant" takes embedding records, not the chunk records')
    assert error.remedy == 'put an "embed" between them'


def test_edges_that_meet_carry_the_same() -> None:
    other = {**ROWS, "id": "other", "params": {**ROWS["params"], "columns": {"n": "int64"}}}
    error = only([ROWS, other, OUT], "rows out", "other out")
    assert error.message == '"rows" and "other" bring different columns: only "rows" has \'s\''
    other["params"]["columns"] = {"n": "int32", "s": "string"}
    assert (
        "'n' is int64 in one and int32 in the other"
        in only([ROWS, other, OUT], "rows out", "other out").message
    )
    other["params"]["columns"] = {"s": "string", "n": "int64"}
    assert "their order differs" in only([ROWS, other, OUT], "rows out", "other out").message
    error = only([ROWS, DOCS, OUT], "rows out", "docs out")
    assert error.message == '"rows" brings row records and "docs" document records'


def test_expressions_are_typed_along_the_edges() -> None:
    where = {"id": "f", "type": "action", "action": "filter", "params": {"where": "nn > 1"}}
    error = only([ROWS, where, OUT], "rows f", "f out")
    assert error.path.startswith("$.nodes[1].params")
    assert "nn" in error.message
    mapped = {"id": "m", "type": "action", "action": "map", "params": {"set": {"t": "lower(s)"}}}
    where = {**where, "params": {"where": "t = 'a' and n > 1"}}
    plan = compiled([ROWS, mapped, where, OUT], "rows m", "m f", "f out")
    schema = plan.nodes["f"].output.schema  # type: ignore[union-attr]
    assert [field.name for field in schema if not field.name.startswith("_")] == ["n", "s", "t"]


def branch(**rest: Any) -> dict[str, Any]:
    routes = [{"name": "big", "when": "n > 10"}]
    return {"id": "by", "type": "branch", "routes": routes, "default": "small", **rest}


def test_branches() -> None:
    small = {**OUT, "id": "small_out", "params": {**OUT["params"], "path": "small"}}
    plan = compiled([ROWS, branch(), OUT, small], "rows by", "by out big", "by small_out small")
    assert len(plan.stages) == 1
    found = mistakes([ROWS, branch(), OUT, small], "rows by", "by out bg", "by small_out")
    told = {(error.path, error.message) for error in found}
    assert ("$.edges[1].route", 'branch "by" has no route "bg"') in told
    assert ("$.edges[2]", 'an edge out of branch "by" must name its route') in told
    assert ("$.nodes[1].routes[0].name", 'route "big" of branch "by" leads nowhere') in told
    wrong = branch(routes=[{"name": "big", "when": "lower(n)"}])
    found = mistakes([ROWS, wrong, OUT, small], "rows by", "by out big", "by small_out small")
    assert found[0].path.startswith("$.nodes[1]")


def test_a_route_out_of_a_node_that_is_no_branch() -> None:
    error = only([DOCS, CHUNK, OUT], "docs chunk x", "chunk out")
    assert (error.path, error.message) == (
        "$.edges[0].route",
        '"docs" is no branch and has no routes',
    )


def test_policies_that_contradict() -> None:
    nodes = [
        {**DOCS, "rate_limit": {"tokens": 5}},
        {**CHUNK, "concurrency": {"max_global": 3}},
        {**OUT, "materialize": True, "timeout": {"graph_seconds": 5}},
    ]
    paths = {e.path for e in mistakes(nodes, "docs chunk", "chunk out")}
    assert paths == {
        "$.nodes[0].rate_limit.tokens",
        "$.nodes[1].concurrency.max_global",
        "$.nodes[2].materialize",
        "$.nodes[2].timeout.graph_seconds",
    }


def test_what_does_not_fit_the_model_hides_no_other_mistake() -> None:
    nodes = [
        {**DOCS, "retry": {"max_retires": 2}},
        {**CHUNK, "on_error": "ignore"},
        {"id": "x", "type": "actoin", "action": "chunk"},
        {"id": "y", "type": "sink", "params": {}},
        {**OUT, "params": {"path": "o", "format": "parket"}},
    ]
    found = mistakes(nodes, "docs chunk", "chunk x", "x y", "chunk out", "chunk chunk")
    assert {error.path for error in found} == {
        "$.nodes[0].retry.max_retires",
        "$.nodes[1].on_error",
        "$.nodes[2].type",
        "$.nodes[3]",
        "$.nodes[4].params.format",
        "$.edges[4]",
    }


@pytest.mark.parametrize(
    "cron", ["0 3 * *", "61 * * * *", "every day", "* * * * * *", "0 25 * * *", "0 0 * * 9"]
)
def test_bad_cron(cron: str) -> None:
    error = only([DOCS, CHUNK, OUT], "docs chunk", "chunk out", schedule={"cron": cron})
    assert error.path == "$.schedule.cron"
    assert cron in error.message


def test_good_cron() -> None:
    plan = compiled(
        [DOCS, CHUNK, OUT],
        "docs chunk",
        "chunk out",
        schedule={"cron": "*/5 0-6 * jan mon-fri", "timezone": "Europe/Berlin"},
    )
    assert plan.schedule is not None


def test_connections_of_the_wrong_type_or_missing_or_not_taken() -> None:
    connections = build_connections({"vectors": {"type": "s3", "bucket": "b", "region": "r"}})
    graph = build_graph(document(*MAIN))
    with pytest.raises(GraphErrors) as caught:
        compile_graph(graph, connections=connections)
    assert caught.value.errors[0].message == 'connection "vectors" is of type "s3", not "qdrant"'
    unnamed = {key: value for key, value in INDEX.items() if key != "connection"}
    error = only([DOCS, CHUNK, EMBED, unnamed], *MAIN[1:])
    assert error.message == '"qdrant" needs a connection of type "qdrant"'
    error = only([DOCS, {**CHUNK, "connection": "vectors"}, OUT], "docs chunk", "chunk out")
    assert error.message == '"chunk" takes no connection'


def test_camel_case_is_taken_everywhere() -> None:
    text = json.dumps(
        document(
            [DOCS, {**CHUNK, "onError": "drop", "retry": {"maxRetries": 7}}, OUT],
            "docs chunk",
            "chunk out",
            checkpoint={"intervalRows": 5},
        )
    )
    plan = compile_graph(parse_graph(text))
    assert plan.nodes["chunk"].policies.retry.max_retries == 7
    assert plan.nodes["chunk"].policies.on_error == "drop"
    assert plan.checkpoint.interval_rows == 5


N = 10_000


def chain(node: dict[str, Any]) -> dict[str, Any]:
    middle = [{**node, "id": f"n{i}"} for i in range(N - 2)]
    edges = ["docs n0", *(f"n{i} n{i + 1}" for i in range(N - 3)), f"n{N - 3} out"]
    return document([DOCS, *middle, OUT], *edges)


def fan(_: dict[str, Any]) -> dict[str, Any]:
    sinks = [{**OUT, "id": f"n{i}", "params": {"path": f"out{i}"}} for i in range(N - 1)]
    return document([DOCS, *sinks], *(f"docs n{i}" for i in range(N - 1)))


def diamond(node: dict[str, Any]) -> dict[str, Any]:
    middle = [{**node, "id": f"n{i}"} for i in range(N - 2)]
    edges = [edge for i in range(N - 2) for edge in (f"docs n{i}", f"n{i} out")]
    return document([DOCS, *middle, OUT], *edges)


@pytest.mark.parametrize("shape", [chain, fan, diamond])
def test_ten_thousand_nodes(shape: Any) -> None:
    """No promise of speed here (that is measured in benchmarks), but no quadratic work either."""
    node = {"type": "action", "action": "filter", "params": {"where": "length(text) > 3"}}
    text = json.dumps(shape(node))
    started = time.process_time()
    plan = compile_graph(parse_graph(text))
    assert len(plan.nodes) == N
    assert time.process_time() - started < 15


def test_lines_that_drift_become_dead_letters_where_bad_records_do() -> None:
    drifting = {**ROWS, "params": {**ROWS["params"], "jsonl": {"on_drift": "dead_letter"}}}
    error = only([drifting, OUT], "rows out")
    assert error.path == "$.nodes[0].params.jsonl.on_drift"
    assert '"on_error": "dead_letter"' in str(error)
    assert only([{**drifting, "on_error": "drop"}, OUT], "rows out").path == error.path
    assert compiled([drifting, OUT], "rows out", on_error="dead_letter")
