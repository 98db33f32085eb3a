"""What sources are told that nobody wants."""

from itertools import pairwise

import pytest

from nvisy_dagster.compiler import compile_document

READ = {"id": "read", "type": "source", "connector": "local"} | {
    "params": {"path": "in", "format": "parquet"}
}
WRITE = {
    "id": "write",
    "type": "sink",
    "connector": "local",
    "params": {"path": "out", "mode": "append"},
}


def where(text, **more):
    return {"type": "action", "action": "filter", "params": {"where": text}, **more}


def mapped(**params):
    more = {"on_error": params.pop("on_error")} if "on_error" in params else {}
    return {"type": "action", "action": "map", "params": params, **more}


def hint(*actions, source=None, **graph):
    """What the source in front of some actions is told."""
    nodes = [READ | (source or {})]
    nodes += [{"id": f"a{place}", **action} for place, action in enumerate(actions)]
    nodes.append(WRITE)
    ids = [node["id"] for node in nodes]
    edges = [{"from": one, "to": other} for one, other in pairwise(ids)]
    document = {"name": "g", "nodes": nodes, "edges": edges, **graph}
    return compile_document(document).nodes["read"].hint


def told(found):
    columns = None if found.columns is None else sorted({*found.columns, *found.replaced})
    return columns, None if found.where is None else str(found.where)


FAILS = "n::INT > 3"
FEW = {"type": "action", "action": "limit", "params": {"count": 5}}
GROUPED = {"type": "action", "action": "batch", "params": {"batch_rows": 5}}


@pytest.mark.parametrize(
    ("actions", "columns", "condition"),
    [
        ([where("n > 3 and lower(t) = 'x'")], None, "n > 3 and ..."),
        ([where("n > 3"), where("d >= DATE '2024-01-01'")], None, "n > 3 and d >= 2024-01-01"),
        ([where("not (a = 1 or b is null)")], None, "a != 1 and b is not null"),
        ([where("n in (1, 2)"), mapped(select=["a", "n"])], ["a", "n"], "n = 1 or n = 2"),
        ([mapped(select=["a", "n"]), where("n > 3")], ["a", "n"], "n > 3"),
        ([mapped(drop=["t"]), where("n > 3")], None, "n > 3"),
        ([GROUPED, where("n > 3"), mapped(select=["a", "n"])], ["a", "n"], "n > 3"),
        ([where("n > 3"), FEW, where("m = 4"), mapped(select=["a"])], ["a", "m", "n"], "n > 3"),
        # What may fail on a record is told of each.
        ([where(FAILS)], None, None),
        ([where(FAILS), where("n > 3")], None, None),
        ([where("n > 3"), where(FAILS), where("m = 4")], None, "n > 3"),
        ([where("n > 3 and n::INT > 4")], None, None),
        # Names that stand for something else from there on.
        ([mapped(rename={"a": "n"}), where("n > 3")], None, None),
        ([mapped(set={"n": "m + 1"}), where("n > 3")], None, None),
        ([mapped(set={"x": "n + 1"}), mapped(select=["x", "t"])], ["n", "t", "x"], None),
        ([mapped(set={"x": "n + 1"}, select=["X", "x"][1:], drop=["x"])], ["n", "x"], None),
        ([mapped(select=["a", "b"], rename={"a": "c"}), where("c > 3")], ["a", "b"], None),
        ([mapped(rename={"a": "b"}), mapped(select=["b"])], None, None),
        ([mapped(select=["a"]), mapped(select=["a"])], ["a"], None),
    ],
)
def test_what_a_line_of_actions_wants(actions, columns, condition):
    assert told(hint(*actions)) == (columns, condition)


def test_letters_hold_all_columns():
    safe, unsafe = where("n > 3"), mapped(set={"x": "n::INT"}, select=["x"])
    assert told(hint(safe, unsafe, on_error="fail"))[0] == ["n", "x"]
    assert told(hint(safe, unsafe, on_error="drop"))[0] == ["n", "x"]
    assert told(hint(safe, unsafe, on_error="dead_letter")) == (None, "n > 3")
    assert told(hint(safe, mapped(select=["n"]), on_error="dead_letter")) == (["n"], "n > 3")
    assert told(hint(where(FAILS), mapped(select=["n"]), on_error="dead_letter"))[0] is None


def test_where_a_source_must_read_all():
    line = (where("n > 3"), mapped(select=["n"]))
    assert hint(*line)
    assert not hint(*line, source={"incremental": True, "on_removed": "ignore"})
    assert not hint(*line, source={"materialize": True})
    assert not hint(*line, execution={"edges": "materialized"})
    limited = {"on_error": "dead_letter", "error_limit": {"share": 0.5}}
    assert told(hint(*line, source=limited)) == (["n"], None)
    limited["error_limit"] = {"count": 5}
    assert told(hint(*line, source=limited)) == (["n"], "n > 3")
    second = {**WRITE, "id": "second", "params": {"path": "out2", "mode": "append"}}
    nodes = [READ, {"id": "keep", **where("n > 3")}, WRITE, second]
    edges = [{"from": "read", "to": "keep"}, {"from": "keep", "to": "write"}]
    for start, found in (("read", (None, None)), ("keep", (None, "n > 3"))):
        document = {"name": "g", "nodes": nodes, "edges": [*edges, {"from": start, "to": "second"}]}
        assert told(compile_document(document).nodes["read"].hint) == found
    other = {**READ, "id": "other", "params": {"path": "in2", "format": "parquet"}}
    nodes = [READ, other, *nodes[1:3]]
    document = {"name": "g", "nodes": nodes, "edges": [*edges, {"from": "other", "to": "keep"}]}
    assert not compile_document(document).nodes["read"].hint
