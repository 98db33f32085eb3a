"""Whatever graph is written: it is refused with paths, or it has a plan that covers it."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.graph.errors import GraphError, GraphErrors
from nvisy_dagster.graph.load import build_graph

SOURCE = {"type": "source", "connector": "local", "params": {"path": "d", "format": "text"}}
ACTION = {"type": "action", "action": "chunk"}
FILTER = {"type": "action", "action": "filter", "params": {"where": "length(text) > 0"}}
SINK = {"type": "sink", "connector": "local", "params": {"path": "o", "format": "jsonl"}}


@st.composite
def layered(draw: st.DrawFn) -> dict[str, Any]:
    """Graphs that compile: documents through filters, every node on a way from source to sink."""
    sources = draw(st.integers(1, 3))
    actions = draw(st.integers(0, 8))
    sinks = draw(st.integers(1, 3))
    nodes = [{**SOURCE, "id": f"s{i}"} for i in range(sources)]
    edges: set[tuple[str, str]] = set()
    for i in range(actions):
        before = draw(st.lists(st.sampled_from([n["id"] for n in nodes]), min_size=1, max_size=3))
        node: dict[str, Any] = {**FILTER, "id": f"a{i}"}
        materialize = draw(st.sampled_from([None, True, False]))
        if materialize is not None:
            node["materialize"] = materialize
        nodes.append(node)
        edges |= {(b, node["id"]) for b in before}
    used = {a for a, _ in edges}
    dangling = [n["id"] for n in nodes if n["id"] not in used]
    before_sinks = [n["id"] for n in nodes]
    for i in range(sinks):
        extra = draw(st.lists(st.sampled_from(before_sinks), min_size=1, max_size=2))
        edges |= {(b, f"k{i}") for b in {*extra, *(dangling if i == 0 else [])}}
        nodes.append({**SINK, "id": f"k{i}", "params": {"path": f"o{i}", "format": "jsonl"}})
    mode = draw(st.sampled_from(["auto", "streamed", "materialized"]))
    order = draw(st.permutations(nodes))
    return {
        "name": "g",
        "nodes": order,
        "edges": [{"from": a, "to": b} for a, b in sorted(edges)],
        "execution": {"edges": mode},
    }


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(layered())
def test_a_graph_that_compiles_has_a_plan_that_covers_it(document: dict[str, Any]) -> None:
    plan = compile_graph(build_graph(document))
    covered = [node for stage in plan.stages for node in stage.nodes]
    assert sorted(covered) == sorted(node["id"] for node in document["nodes"])
    assert len({stage.id for stage in plan.stages}) == len(plan.stages)
    done: set[str] = set()
    for stage in plan.stages:
        assert {output.node for output in stage.inputs} <= done, "a stage before its inputs"
        position = {node: i for i, node in enumerate(stage.nodes)}
        for edge in plan.edges:
            inside = edge.output.node in position and edge.target in position
            if edge.kind == "streamed" and edge.target in position:
                assert inside, "a streamed edge leaves its stage"
            if inside:
                assert position[edge.output.node] < position[edge.target]
            if edge.kind == "materialized" and edge.target in position:
                assert edge.output in stage.inputs
        done |= set(stage.nodes)
    outputs = {output for stage in plan.stages for output in stage.outputs}
    assert outputs == {edge.output for edge in plan.edges if edge.kind == "materialized"}
    if document["execution"]["edges"] == "streamed":
        assert all(
            edge.kind == "streamed"
            for edge in plan.edges
            if not any(n.get("materialize") for n in document["nodes"])
        )


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([SOURCE, ACTION, FILTER, SINK]), min_size=1, max_size=7),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=14),
)
def test_any_graph_is_refused_with_paths_or_compiles(
    kinds: list[dict[str, Any]], pairs: list[tuple[int, int]]
) -> None:
    nodes = [{**kind, "id": f"n{i}"} for i, kind in enumerate(kinds)]
    edges = [{"from": f"n{a}", "to": f"n{b}"} for a, b in pairs]
    document = {"name": "g", "nodes": nodes, "edges": edges}
    errors: tuple[GraphError, ...] = ()
    covered = 0
    try:
        plan = compile_graph(build_graph(document))
        covered = sum(len(stage.nodes) for stage in plan.stages)
    except GraphErrors as refused:
        errors = refused.errors
    assert errors or covered == len(nodes)
    assert all(one.path.startswith("$") and one.message for one in errors)
