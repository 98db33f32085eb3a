"""`aggregate`: one record of each group, of exact types, whatever fits in memory."""

import math
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular_batches import articles, batch_of, edge
from tabular_graphs import OUT, action, mistakes, rows_source, run, write_rows, written

from nvisy_connectors.tabular.aggregate import Aggregate, AggregateParams
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES
from nvisy_dagster.sdk.errors import mistakes_in
from nvisy_dagster.sdk.testing import BlockingActionConformance


class TestAggregate(BlockingActionConformance):
    component = Aggregate

    @pytest.fixture
    def params(self):
        measures = {
            "records": {"function": "count"},
            "best": {"function": "max", "column": "score"},
            "mean": {"function": "avg", "column": "score"},
            "texts": {"function": "list", "column": "text"},
        }
        return AggregateParams(by=["lang"], measures=measures)

    @pytest.fixture
    def rows(self):
        return articles()

    def refused(self, rows):
        return [edge({"lang": ["a"]}), edge({"lang": [["a"]], "score": [1.0], "text": ["x"]})]


def aggregate(batches, folder, measures, by=(), node_id="sums"):
    """What it makes, as rows without their envelopes, and the records themselves."""
    params = AggregateParams.model_validate({
        "by": list(by),
        "measures": {
            name: dict(zip(("function", "column"), said.split(), strict=False))
            for name, said in measures.items()
        },
    })
    made = Aggregate(params, node_id=node_id)
    promised = made.output(EdgeType("row", batches[0].schema)).schema
    found = list(made.gather(batches, folder))
    for batch in found:
        batch.validate(full=True)
        assert batch.schema.equals(promised)
    assert made.traced() == sum(batch.num_rows for batch in batches)
    rows = [row for batch in found for row in batch.to_pylist()]
    return [{k: v for k, v in row.items() if k not in ENVELOPE_NAMES} for row in rows], found


floats = st.none() | st.sampled_from([0.0, -0.0, 1.5, -2.0, math.nan, 0.1])
records = st.tuples(
    st.none() | st.sampled_from(["", "a", "Ä"]), floats, st.none() | st.integers(-3, 3)
)
MEASURES = {
    "all": "count",
    "numbers": "count n",
    "different": "count_distinct f",
    "sum": "sum n",
    "mean": "avg n",
    "least": "min n",
    "most": "max t",
    "first": "first n",
    "last": "last f",
    "list": "list n",
    "parts": "count nested",
}


def canonical(value):
    """NaN is NaN, and one zero is the other."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    return value


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(records, min_size=1, max_size=25),
    place=st.integers(0, 25),
    by=st.sampled_from(["t", "f", "t f", ""]),
)
def test_against_brute_force(tmp_path_factory, rows, place, by):
    batch = batch_of({
        "t": pa.array([r[0] for r in rows], pa.string()).dictionary_encode(),
        "f": pa.array([r[1] for r in rows], pa.float64()),
        "n": pa.array([r[2] for r in rows], pa.int8()),
        "nested": pa.array([None if r[2] is None else [r[2]] for r in rows], pa.list_(pa.int8())),
    })
    groups: dict = {}
    for t, f, n in rows:
        key = tuple({"t": t, "f": canonical(f)}[name] for name in by.split())
        groups.setdefault(key, []).append((t, f, n))

    def wanted(key, group):
        numbers = [n for _, _, n in group if n is not None]
        values = [canonical(f) for _, f, _ in group if f is not None]
        texts = [t for t, _, _ in group if t is not None]
        return {
            **dict(zip(by.split(), key, strict=True)),
            "all": len(group),
            "numbers": len(numbers),
            "different": len(set(values)),
            "sum": sum(numbers) if numbers else None,
            "mean": sum(numbers) / len(numbers) if numbers else None,
            "least": min(numbers, default=None),
            "most": max(texts, key=str.encode, default=None),
            "first": numbers[0] if numbers else None,
            "last": values[-1] if values else None,
            "list": numbers,
            "parts": len(numbers),
        }

    def rank(key):
        return [(v is None, v == "NaN", v.encode() if isinstance(v, str) else v or 0) for v in key]

    cut = [batch.slice(0, place), batch.slice(place)]
    found, _ = aggregate(cut, tmp_path_factory.mktemp("s"), MEASURES, by.split())
    found = [{name: canonical(value) for name, value in row.items()} for row in found]
    assert found == [wanted(key, groups[key]) for key in sorted(groups, key=rank)]


@pytest.mark.parametrize(
    ("kind", "values", "total", "result"),
    [
        (pa.int8(), [127, 127], 254, pa.int64()),
        (pa.uint64(), [2**64 - 2, 1], 2**64 - 1, pa.uint64()),
        (pa.int64(), [2**63 - 1, 2**63 - 1, -(2**63)], 2**63 - 2, pa.int64()),
        (pa.decimal128(5, 2), [Decimal("999.99")] * 2, Decimal("1999.98"), pa.decimal128(38, 2)),
        (pa.float32(), [0.5, 0.25], 0.75, pa.float64()),
    ],
    ids=str,
)
def test_sums_are_exact_and_of_known_types(tmp_path, kind, values, total, result):
    batch = batch_of({"x": pa.array([*values, None], kind)})
    [row], [made] = aggregate([batch], tmp_path, {"total": "sum x"})
    assert row == {"total": total}
    assert made.schema.field("total").type == result


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pa.array([2**63 - 1, 1]), r"measure 'total': the sum of 'x' does not fit int64"),
        (pa.array([-(2**63), -1]), r"measure 'total': the sum of 'x' does not fit int64"),
        (pa.array([Decimal("9" * 38)] * 2, pa.decimal128(38, 0)), "a sum does not fit 38 digits"),
    ],
    ids=["most", "least", "decimal"],
)
def test_a_sum_that_is_too_large_is_an_error(tmp_path, values, told):
    with pytest.raises(DataError, match=told) as refused:
        aggregate([batch_of({"x": values})], tmp_path, {"total": "sum x"})
    assert "convert" in str(refused.value.remedy)


def test_every_type_comes_back_as_it_went(tmp_path):
    moment = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
    columns = {
        "u": pa.array([2**64 - 1, 0], pa.uint64()),
        "half": pa.array([1.5, 0.5], pa.float16()),
        "d": pa.array([Decimal("1.25"), Decimal("0.5")], pa.decimal128(20, 4)),
        "fixed": pa.array([b"zz", b"ab"], pa.binary(2)),
        "b": pa.array([b"\xff", b""], pa.large_binary()),
        "at": pa.array(
            [moment, datetime(2000, 1, 1, tzinfo=UTC)], pa.timestamp("us", "Europe/Berlin")
        ),
        "ns": pa.array([1001, 1000], pa.timestamp("ns")),
        "day": pa.array([3, 1], pa.date32()),
        "day64": pa.array([3, 1], pa.date32()).cast(pa.date64()),
        "time": pa.array([3, 1], pa.time32("s")),
        "span": pa.array([1001, 1000], pa.duration("ns")),
        "word": pa.array(["b", "a"]).dictionary_encode(),
        "view": pa.array(["b", "a"], pa.string_view()),
        "yes": pa.array([True, False]),
    }
    batch = batch_of(pa.record_batch(columns))
    plain = [{k: v for k, v in row.items() if k in columns} for row in batch.to_pylist()]
    for function, row in (("max", plain[0]), ("min", plain[1]), ("last", plain[1])):
        found, _ = aggregate([batch], tmp_path, {n: f"{function} {n}" for n in columns})
        assert repr(found) == repr([row])
    for name in columns:
        found, _ = aggregate([batch], tmp_path, {"list": f"list {name}"}, by=[name])
        assert repr(found) == repr([{name: row[name], "list": [row[name]]} for row in plain[::-1]])


def test_zero_is_one_group_without_a_sign(tmp_path):
    batch = batch_of({"k": pa.array([-0.0, 0.0, -0.0], pa.float32())})
    [row], _ = aggregate([batch], tmp_path, {"n": "count"}, by=["k"])
    assert repr(row) == repr({"k": 0.0, "n": 3})


def test_records_are_roots_with_the_id_of_their_group(tmp_path):
    newest = datetime(2024, 5, 1, tzinfo=UTC)
    batch = batch_of({"k": ["a", "b", "a"], "n": [1, 2, 3]})
    created = pa.array([None, None, newest], pa.timestamp("us", "UTC"))
    batch = batch.set_column(4, batch.schema.field("_created_at"), created)
    _, [made] = aggregate([batch], tmp_path, {"n": "sum n"}, by=["k"])
    one, other = made.to_pylist()
    for row in (one, other):
        assert row["_root_id"] == row["_id"]
        assert (row["_parent_ids"], row["_source"], row["_tags"]) == ([], None, [])
    assert (one["_created_at"], other["_created_at"]) == (newest, None)
    # Of other records, in another order, of a wider type: the same groups.
    wide = pa.array(["b", "a"], pa.large_string())
    later = batch_of({"n": [7, 8], "k": wide})
    _, [again] = aggregate([later], tmp_path, {"n": "max n"}, by=["k"])
    assert again.column("_id").to_pylist() == [one["_id"], other["_id"]]
    _, [elsewhere] = aggregate([later], tmp_path, {"n": "max n"}, by=["k"], node_id="other")
    assert not set(elsewhere.column("_id").to_pylist()) & {one["_id"], other["_id"]}


def test_more_groups_than_its_memory(tmp_path):
    count = 300_000
    keys = np.random.default_rng(5).permutation(count * 2) // 2
    table = pa.table({"k": [f"key {n:060d}" for n in keys], "n": keys})
    batches = [batch_of(batch) for batch in table.to_batches(50_000)]
    measures = {"n": {"function": "sum", "column": "n"}, "of": {"function": "count"}}
    params = AggregateParams.model_validate({"by": ["k"], "measures": measures})
    small = params.model_copy(update={"memory_limit": "64MB"})
    made = pa.Table.from_batches(list(Aggregate(small).gather(batches, tmp_path)))
    assert made.num_rows == count
    assert np.array_equal(made["n"].to_numpy(), np.arange(count) * 2)
    assert set(made["of"].to_pylist()) == {2}


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"by": ["key"]}, {("by", 0): "there is no column 'key'"}),
        ({"by": ["m"]}, {("by", 0): "'m' is of type map<string, int64>: what has no value"}),
        ({"by": ["_id"]}, {("by", 0): "'_id' is a column of the envelope"}),
        (
            {
                "measures": {
                    "a": {"function": "sum", "column": "k"},
                    "b": {"function": "min", "column": "x"},
                }
            },
            {
                ("measures", "a", "column"): "'k' is of type string: 'sum' takes only numbers",
                ("measures", "b", "column"): "there is no column 'x'",
            },
        ),
        (
            {"measures": {"a": {"function": "first", "column": "m"}}},
            {("measures", "a", "column"): "'m' is of type map<string, int64>: 'first' takes no"},
        ),
    ],
)
def test_refusals_name_the_place(params, told):
    maps = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))
    incoming = edge(pa.record_batch({"k": ["a"], "m": maps}))
    with pytest.raises(ConfigError) as refused:
        Aggregate(
            AggregateParams.model_validate({"measures": {"n": {"function": "count"}}, **params})
        ).output(incoming)
    found = {one.place: one.message for one in mistakes_in(refused.value)}
    assert found.keys() == told.keys()
    assert all(found[place].startswith(message) for place, message in told.items())


SALES = rows_source("sales", {"country": "string", "amount": "int64"})


def test_a_graph(tmp_path):
    sales = [{"country": c, "amount": n} for n, c in enumerate(["de", "fr", None, "de", "de"])]
    write_rows(tmp_path, "sales", sales)
    measures = {"sold": {"function": "sum", "column": "amount"}, "sales": {"function": "count"}}
    node = action("aggregate", by=["country"], measures=measures)
    result = run(tmp_path, [SALES, node, OUT], "sales aggregate", "aggregate out")
    assert written(tmp_path) == [
        {"country": "de", "sold": 7, "sales": 3},
        {"country": "fr", "sold": 1, "sales": 1},
        {"country": None, "sold": 2, "sales": 1},
    ]
    counts = result.metrics["aggregate"].counts
    assert (counts.records_in, counts.records_out) == (5, 3)
    assert (counts.records_kept, counts.dropped, counts.dead) == (5, 0, 0)


def test_mistakes_have_their_paths():
    measures = {
        "Country": {"function": "count"},
        "x": {"function": "sum"},
        "_id": {"function": "count"},
    }
    node = action("aggregate", by=["country"], measures=measures)
    found = mistakes([SALES, node, OUT], "sales aggregate", "aggregate out")
    assert '"sum" needs a "column"' in found["$.nodes[1].params.measures.x"]
    del measures["x"]
    found = mistakes([SALES, node, OUT], "sales aggregate", "aggregate out")
    assert "names another column already" in found["$.nodes[1].params.measures.Country"]
    measures.pop("Country")
    found = mistakes([SALES, node, OUT], "sales aggregate", "aggregate out")
    assert '"_id" is a column of the envelope' in found["$.nodes[1].params.measures._id"]
    measures["y"] = {"function": "sum", "column": "country"}
    del measures["_id"]
    found = mistakes([SALES, node, OUT], "sales aggregate", "aggregate out")
    assert set(found) == {"$.nodes[1].params.measures.y.column"}
