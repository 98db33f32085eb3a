"""Nodes `fanout` and `fanin` of published graphs dissolve into edges."""

from nvisy_documents import action, chain, mistakes, read

from nvisy_dagster.graph.load import build_graph


def test_fans_dissolve_into_edges():
    document = chain(read(), {"type": "fanout"}, {"type": "fanin"}, {"type": "fanout"})
    document["nodes"] += [{"id": n, **action("ai/chunk", strategy="page")} for n in ("a", "b")]
    document["edges"] += [{"from": "n3", "to": "a"}, {"from": "n3", "to": "b"}]
    document["edges"] += [{"from": "n1", "to": "b"}]
    graph = build_graph(document)
    assert [node.id for node in graph.nodes] == ["n0", "a", "b"]
    assert sorted((edge.from_, edge.to) for edge in graph.edges) == [("n0", "a"), ("n0", "b")]
    assert graph.path("edges", 0) == "$.edges[0]"


def test_fans_that_lead_nowhere_or_in_circles_are_told():
    document = chain(read(), {"type": "fanout"})
    assert ("$.nodes[1]", "no edge leaves this node", "add one") in mistakes(document)
    circle = chain(
        read(), {"type": "fanin"}, {"type": "fanin"}, action("ai/chunk", strategy="page")
    )
    circle["edges"].append({"from": "n2", "to": "n1"})
    assert [(e.from_, e.to) for e in build_graph(circle).edges] == [("n0", "n3")]


def test_fans_cannot_explode():
    many = range(1000)
    nodes = [read(id=f"s{i}") for i in many]
    nodes += [{"id": f"t{i}", **action("ai/chunk", strategy="page")} for i in many]
    nodes += [{"id": "f", "type": "fanin"}]
    edges = [{"from": f"s{i}", "to": "f"} for i in many] + [
        {"from": "f", "to": f"t{i}"} for i in many
    ]
    (error,) = mistakes({"nodes": nodes, "edges": edges})
    assert error[:2] == ("$.edges", "fanout and fanin nodes make more than 500,000 edges")
