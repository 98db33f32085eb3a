"""`join` in graphs: which edge leads where, what is counted, and what is refused before the run."""

import anyio
from tabular_graphs import (
    OUT,
    action,
    document,
    mistakes,
    rows_source,
    run,
    write_rows,
    written,
)

from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.replay import Replay

ORDERS = rows_source("orders", {"order": "int64", "customer": "int64", "name": "string"})
CUSTOMERS = rows_source("customers", {"id": "int64", "name": "string"})
JOIN = action("join", on=[{"left": "customer", "right": "id"}], suffix="_of_customer")
EDGES = ("orders join left", "customers join right", "join out")


def test_the_graph_says_which_input(tmp_path):
    orders = [{"order": n, "customer": n % 4, "name": f"order {n}"} for n in range(10)]
    customers = [{"id": n, "name": f"customer {n}"} for n in (3, 1, 9)]
    write_rows(tmp_path, "orders", orders)
    write_rows(tmp_path, "customers", customers)
    result = run(tmp_path, [ORDERS, CUSTOMERS, JOIN, OUT], *EDGES)
    assert written(tmp_path) == [
        {**order, "id": order["customer"], "name_of_customer": f"customer {order['customer']}"}
        for order in orders
        if order["customer"] in {1, 3}
    ]
    counts = result.metrics["join"].counts
    assert (counts.records_in, counts.records_out) == (13, 5)
    # Five orders and two customers are in a pair.
    assert (counts.records_kept, counts.dropped, counts.dead) == (7, 6, 0)


def test_a_node_may_be_joined_with_itself(tmp_path):
    tree = [{"order": n, "customer": n // 2, "name": f"n{n}"} for n in range(1, 8)]
    write_rows(tmp_path, "orders", tree)
    join = action(
        "join", on=[{"left": "customer", "right": "order"}], columns=["name"], suffix="_up"
    )
    edges = ("orders join left", "orders join right", "join out")
    result = run(tmp_path, [ORDERS, join, OUT], *edges)
    assert [(r["order"], r["name_up"]) for r in written(tmp_path)] == [
        (n, f"n{n // 2}") for n in range(2, 8)
    ]
    counts = result.metrics["join"].counts
    assert (counts.records_in, counts.records_kept, counts.dropped) == (14, 6 + 3, 5)


def test_all_of_both_inputs_come_out_of_a_full_join(tmp_path):
    write_rows(tmp_path, "orders", [{"order": n, "customer": n, "name": "o"} for n in (1, 2)])
    write_rows(tmp_path, "customers", [{"id": n, "name": "c"} for n in (2, 3, 4)])
    nodes = [ORDERS, CUSTOMERS, action("join", **JOIN["params"], how="full"), OUT]
    result = run(tmp_path, nodes, *EDGES)
    found = [tuple(row.values()) for row in written(tmp_path)]
    assert found == [
        (1, 1, "o", None, None),
        (2, 2, "o", 2, "c"),
        (None, None, None, 3, "c"),
        (None, None, None, 4, "c"),
    ]
    counts = result.metrics["join"].counts
    assert (counts.records_in, counts.records_out) == (5, 4)
    assert (counts.records_kept, counts.dropped) == (5, 0)


def test_a_right_join_with_nothing_in_the_left(tmp_path):
    write_rows(tmp_path, "orders", [])
    write_rows(tmp_path, "customers", [{"id": 2, "name": "c"}])
    nodes = [ORDERS, CUSTOMERS, action("join", **JOIN["params"], how="right"), OUT]
    result = run(tmp_path, nodes, *EDGES)
    assert [tuple(row.values()) for row in written(tmp_path)] == [(None, None, None, 2, "c")]
    assert result.metrics["join"].counts.records_kept == 1


def test_mistakes_in_edges_have_their_paths():
    nodes = [ORDERS, CUSTOMERS, JOIN, OUT]
    found = mistakes(nodes, "orders join", "customers join right", "join out left")
    assert found == {
        "$.edges[0]": 'an edge to join "join" must name its input (add "input": "left" or "right")',
        "$.edges[2].input": 'local "out" has no named inputs (remove the input)',
    }
    found = mistakes(nodes, "orders join left", "customers join left", "join out")
    assert found == {
        "$.edges[1].input": 'input "left" of join "join" is that of edge 0 already (did you mean '
        '"right"?)'
    }
    found = mistakes(nodes, "orders join lft", "customers join right", "join out")
    assert found == {"$.edges[0].input": 'join "join" has no input "lft" (did you mean "left"?)'}
    found = mistakes([ORDERS, JOIN, OUT], "orders join left", "join out")
    assert found == {
        "$.nodes[1]": 'no edge leads to input "right" of join "join" (add an edge to it with '
        '"input": "right")'
    }
    found = mistakes([ORDERS, CUSTOMERS, action("join", on=["id"], columns=["nam"]), OUT], *EDGES)
    assert set(found) == {"$.nodes[2].params.on[0]", "$.nodes[2].params.columns[0]"}
    found = mistakes(
        [ORDERS, CUSTOMERS, action("join", on=["name"], how="semi", suffix="x"), OUT], *EDGES
    )
    assert "takes no columns of the right" in found["$.nodes[2].params"]


def test_letters_before_it_are_left_to_a_run(tmp_path):
    orders = [{"order": n, "customer": n % 2, "name": None if n == 3 else "x"} for n in range(6)]
    write_rows(tmp_path, "orders", orders)
    write_rows(tmp_path, "customers", [{"id": 0, "name": "zero"}, {"id": 1, "name": "one"}])
    rules = [{"name": "named", "check": "name IS NOT NULL"}]
    check = {**action("validate", "check", rules=rules), "on_error": "dead_letter"}
    graph = (
        [ORDERS, CUSTOMERS, check, JOIN, OUT],
        *("orders check", "check join left", *EDGES[1:]),
    )
    result = run(tmp_path, *graph)
    counts = result.metrics["join"].counts
    assert (counts.records_in, counts.records_out) == (7, 5)
    plan = compile_document(document(*graph), folder=tmp_path)
    replay = Replay(plan, tmp_path / "state", "again")
    [left] = anyio.run(lambda: replay.run({})).refused
    assert (left.node, left.letters, left.read_again) == ("check", 1, True)
    assert "join 'join' behind it chooses among all records" in left.reason


def test_another_input_is_another_stage():
    def compiled(*edges):
        return compile_document(document([ORDERS, CUSTOMERS, JOIN, OUT], *edges))

    plan = compiled(*EDGES)
    stages = {("orders",), ("customers",), ("join", "out")}
    assert {*map(tuple, (s.nodes for s in plan.stages))} == stages
    assert [edge.input for edge in plan.edges] == ["left", "right", None]
    same = action("join", on=["name"], suffix="_2")
    nodes = [
        rows_source("orders", {"name": "string"}),
        rows_source("customers", {"name": "string"}),
    ]
    one, other = (
        compile_document(document([*nodes, same, OUT], *edges, EDGES[2]))
        for edges in (EDGES[:2], ("orders join right", "customers join left"))
    )
    assert [s.hash for s in one.stages][:2] == [s.hash for s in other.stages][:2]
    assert one.stage_of["join"].hash != other.stage_of["join"].hash
