"""Decimals of a scale below zero, which count hundreds or thousands: Arrow has them, DuckDB not."""

from decimal import Decimal

import pyarrow as pa
import pytest
from conversions import convert
from tabular_batches import batch_of
from tabular_calls import kept, mapped

from nvisy_connectors.tabular.aggregate import Aggregate, AggregateParams
from nvisy_connectors.tabular.deduplicate import Deduplicate, DeduplicateParams
from nvisy_connectors.tabular.filter import Filter, FilterParams
from nvisy_connectors.tabular.join import Join, JoinParams
from nvisy_connectors.tabular.sort import Sort, SortParams
from nvisy_dagster.sdk import ConfigError, EdgeType

HUNDREDS = pa.decimal128(5, -2)
VALUES = [1200, 500, None, -9999900, 1200]
COUNT = {"count": {"function": "count"}}
MANY = pa.decimal128(38, -2)
"""Not all of them have 38 digits or fewer."""


def decimals(values=VALUES, kind=HUNDREDS):
    return pa.array([None if one is None else Decimal(one) for one in values], kind)


def rows(values=VALUES, kind=HUNDREDS):
    return batch_of({"d": decimals(values, kind), "n": list(range(len(values)))})


def gathered(action, batch, folder):
    promised = action.output(EdgeType("row", batch.schema)).schema
    made = pa.Table.from_batches(list(action.gather([batch], folder)), promised)
    made.validate(full=True)
    return made


def test_expressions_take_them():
    assert kept("d > 600 OR d = -9999900", rows()) == [0, 3, 4]
    made = mapped(rows(), set={"more": "d + 1", "same": "d"})
    assert made.column("d").type == HUNDREDS
    assert made.column("same").to_pylist() == VALUES
    assert made.column("more").to_pylist() == [1201, 501, None, -9999899, 1201]
    assert convert(rows(), columns={"d": "INTEGER"}).column("d").to_pylist() == VALUES
    assert convert(rows(), columns={"d": "DOUBLE"}).column("d").to_pylist() == VALUES
    assert convert(rows(), columns={"d": "VARCHAR"}).column("d").to_pylist()[:2] == ["1200", "500"]


def test_expressions_take_them_within_others():
    items = pa.ListArray.from_arrays(pa.array([0, 2, 2, 5]), decimals())
    columns = {
        "list": items,
        "large": items.cast(pa.large_list(HUNDREDS)),
        "fixed": pa.FixedSizeListArray.from_arrays(decimals([100, 200, 300]), 1),
        "in": pa.StructArray.from_arrays([decimals([100, 200, 300]), items], ["x", "y"]),
        "map": pa.MapArray.from_arrays(
            pa.array([0, 1, 2, 3]), ["a"] * 3, decimals([100, 200, 300])
        ),
        "word": decimals([100, 200, 100]).dictionary_encode(),
        "half": pa.array([[1.5], None, [2.5]], pa.list_(pa.float16())),
    }
    batch = batch_of(pa.record_batch(columns))
    wanted = "list[1] = 1200 AND large[2] = 500 AND fixed[1] = 100 AND word = 100 AND half[1] = 1.5"
    assert kept(wanted, batch) == [0]
    assert kept('"in".x = 300 AND "in".y[2] = -9999900', batch) == [2]
    assert kept("list[3] = 1200", batch.slice(1)) == [2]
    assert kept("map['a'] IS NOT NULL", batch) == [0, 1, 2]


def test_sort_orders_them(tmp_path):
    made = gathered(Sort(SortParams(by=["d"])), rows(), tmp_path)
    assert made.column("d").type == HUNDREDS
    assert made.column("n").to_pylist() == [3, 1, 0, 4, 2]


@pytest.mark.parametrize("within", ["struct", "list"])
def test_sort_orders_what_consists_of_them(tmp_path, within):
    column = decimals([300, 100, 200])
    if within == "struct":
        column = pa.StructArray.from_arrays([column], ["x"])
    else:
        column = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3]), column)
    batch = batch_of(pa.record_batch({"d": column, "n": pa.array([0, 1, 2])}))
    made = gathered(Sort(SortParams(by=["d"])), batch, tmp_path)
    assert made.column("n").to_pylist() == [1, 2, 0]


def test_deduplicate_compares_them(tmp_path):
    made = gathered(Deduplicate(DeduplicateParams(by=["d"])), rows(), tmp_path)
    assert made.column("n").to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("function", ["min", "max", "first", "last", "list", "sum", "avg"])
def test_aggregate_takes_them(tmp_path, function):
    measures = {"made": {"function": function, "column": "d"}}
    params = AggregateParams.model_validate({"by": ["d"], "measures": measures})
    made = gathered(Aggregate(params, node_id="sums"), rows(), tmp_path)
    found = dict(zip(made.column("d").to_pylist(), made.column("made").to_pylist(), strict=True))
    assert found.keys() == {1200, 500, None, -9999900}
    twice = {"list": [1200, 1200], "sum": 2400}.get(function, 1200)
    once = [-9999900] if function == "list" else -9999900
    assert (found[1200], found[-9999900]) == (twice, once)


@pytest.mark.parametrize(
    "other", [HUNDREDS, pa.int64(), pa.decimal128(12, 2), pa.decimal128(9, -1)]
)
def test_join_compares_them(tmp_path, other):
    right = batch_of({"d": decimals([500, 1200]).cast(other), "r": ["a", "b"]})
    made = Join(JoinParams(on=["d"])).gather({"left": [rows()], "right": [right]}, tmp_path)
    found = {row["n"]: row["r"] for batch in made for row in batch.to_pylist()}
    assert found == {0: "b", 1: "a", 4: "b"}


@pytest.mark.parametrize(
    "action",
    [
        Filter(FilterParams(where="d > 1")),
        Sort(SortParams(by=["d"])),
        Deduplicate(DeduplicateParams(by=["d"])),
        Aggregate(AggregateParams.model_validate({"by": ["d"], "measures": COUNT})),
    ],
    ids=lambda action: action.name,
)
def test_those_of_too_many_digits_are_refused_before_the_run(action):
    batch = rows([100, None], MANY)
    with pytest.raises(ConfigError, match=r"'d' is of type decimal128\(38, -2\)"):
        action.output(EdgeType("row", batch.schema))


def test_within_others_those_of_too_many_digits_are_refused_too():
    batch = batch_of({"d": pa.ListArray.from_arrays(pa.array([0, 2]), decimals([100, 200], MANY))})
    for action in (Filter(FilterParams(where="d[1] > 1")), Sort(SortParams(by=["d"]))):
        with pytest.raises(ConfigError, match=r"'d' is of type list<.*decimal128\(38, -2\)"):
            action.output(EdgeType("row", batch.schema))
