"""`union`: inputs whose columns differ become one stream."""

import math
from decimal import Decimal
from itertools import product

import pyarrow as pa
import pytest
from tabular_batches import articles, batch_of, edge
from tabular_graphs import OUT, action, mistakes, rows_source, run, write_rows, written

from nvisy_connectors.tabular.union import Union, UnionParams
from nvisy_connectors.tabular.widening import common_type, fit
from nvisy_dagster.sdk import ConfigError, EdgeType
from nvisy_dagster.sdk.envelope import ENVELOPE
from nvisy_dagster.sdk.testing import ActionConformance


class TestUnion(ActionConformance):
    component = Union

    @pytest.fixture
    def params(self):
        return UnionParams()

    @pytest.fixture
    def rows(self):
        return articles()


EDGES = {
    "bool": [True, False],
    "int8": [-128, 127],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "uint8": [0, 255],
    "uint16": [0, 2**16 - 1],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1],
    "halffloat": [1.5, -65504.0, math.inf, math.nan],
    "float": [1.5, -3.4028234663852886e38],
    "double": [0.1, 1e308],
    "string": ["", "ä"],
    "large_string": ["", "ä"],
    "binary": [b"", b"\xff"],
}
KINDS = [
    *(pa.type_for_alias(name) for name in EDGES),
    pa.decimal128(5, 2),
    pa.decimal128(38, 10),
    pa.decimal128(20, 0),
    pa.binary(3),
    pa.date32(),
    pa.date64(),
    pa.time32("s"),
    pa.time64("ns"),
    pa.timestamp("s"),
    pa.timestamp("us"),
    pa.timestamp("ns"),
    pa.timestamp("ms", "UTC"),
    pa.timestamp("us", "Europe/Berlin"),
    pa.duration("ms"),
    pa.duration("us"),
    pa.null(),
]
SHAPES = [
    lambda kind: kind,
    pa.list_,
    lambda kind: pa.list_(kind, 2),
    lambda kind: pa.map_(pa.string(), kind),
    lambda kind: pa.struct([("a", kind), ("b", pa.list_(kind))]),
]


def leaves(kind):
    """Values of a type, the smallest and the largest among them."""
    if str(kind) in EDGES:
        values = EDGES[str(kind)]
    elif pa.types.is_decimal(kind):
        values = [Decimal(f"{s}{'9' * kind.precision}E-{kind.scale}") for s in ("", "-")]
    elif pa.types.is_fixed_size_binary(kind):
        values = [b"abc"]
    elif pa.types.is_null(kind):
        values = []
    else:
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        day = 1 if pa.types.is_date32(kind) else 86_400_000
        ticks = [0, 3 if pa.types.is_time(kind) else day, None]
        return pa.array(ticks, width).cast(kind)
    return pa.array([*values, None], kind)


def shaped(values, shape):
    """An array of lists, maps or structs that hold these values."""
    place, n = SHAPES.index(shape), len(values)
    if place == 0:
        return values
    pairs = pa.array(range(0, 2 * n + 1, 2), pa.int32())
    twice = values.take(pa.array([i // 2 for i in range(2 * n)], pa.int64()))
    lists = pa.ListArray.from_arrays(pairs, twice)
    if place == 1:
        return lists
    if place == 2:
        return pa.FixedSizeListArray.from_arrays(twice, 2)
    if place == 3:
        keys = pa.array([f"k{i % 2}" for i in range(2 * n)])
        return pa.MapArray.from_arrays(pairs, keys, twice)
    return pa.StructArray.from_arrays([values, lists], ["a", "b"])


def plainly(value):
    """What two values are compared by: the same whatever the width of a type."""
    if isinstance(value, dict):
        return {k: v for k, one in value.items() if (v := plainly(one)) is not None}
    if isinstance(value, list | tuple):
        return [plainly(one) for one in value]
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value
    return value


@pytest.mark.parametrize("shape", SHAPES)
def test_a_common_type_holds_every_value_of_both(shape):
    found = 0
    for one, other in product(KINDS, KINDS):
        common = common_type(shape(one), shape(other))
        assert (common is None) == (common_type(shape(other), shape(one)) is None)
        assert (common is None) == (common_type(one, other) is None)
        if common is None:
            continue
        found += 1
        for kind in (one, other):
            values = shaped(leaves(kind), shape)
            made = fit(values, common)
            made.validate(full=True)
            assert plainly(made.to_pylist()) == plainly(values.to_pylist()), (one, other)
    assert found > 200


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int32(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.uint64(), pa.decimal128(20, 0)),
        (pa.int64(), pa.decimal128(5, 2), pa.decimal128(21, 2)),
        (pa.int64(), pa.decimal128(38, 20), None),
        (pa.int16(), pa.float16(), pa.float32()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.int64(), pa.float64(), None),
        (pa.decimal128(5, 2), pa.float64(), None),
        (pa.string(), pa.int64(), None),
        (pa.bool_(), pa.int8(), None),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
        (pa.timestamp("us"), pa.timestamp("ns"), None),
        (pa.date32(), pa.timestamp("us"), None),
        (pa.list_(pa.float32(), 3), pa.list_(pa.float32(), 4), None),
        (pa.list_(pa.float32(), 3), pa.list_(pa.float64()), pa.list_(pa.float64())),
        (pa.dictionary(pa.int8(), pa.string()), pa.large_string(), pa.large_string()),
        (
            pa.struct([("a", pa.int8())]),
            pa.struct([("b", pa.string()), ("a", pa.int16())]),
            pa.struct([("a", pa.int16()), ("b", pa.string())]),
        ),
    ],
    ids=str,
)
def test_common_types(one, other, common):
    assert common_type(one, other) == common


def united(batches, **params):
    action = Union(UnionParams(**params))
    action.made = action.output_of({
        name: EdgeType("row", batch.schema) for name, batch in batches.items()
    })
    made = [action.transform(batch) for batch in batches.values()]
    for batch in made:
        batch.validate(full=True)
        assert batch.schema.equals(action.made.schema, check_metadata=True)
    rows = [row for batch in made for row in batch.to_pylist()]
    return made, [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]


def test_columns_are_matched_by_name():
    words = pa.array(["x", "y"]).dictionary_encode()
    one = batch_of({"id": pa.array([1, 2], pa.int32()), "word": words})
    two = batch_of({
        "price": pa.array([Decimal("1.5")], pa.decimal128(4, 1)),
        "id": pa.array([2**40], pa.int64()),
        "word": pa.array(["z"], pa.large_string()),
    })
    made, rows = united({"one": one, "two": two})
    assert made[0].schema.names == [*ENVELOPE.names, "id", "word", "price"]
    assert rows == [
        {"id": 1, "word": "x", "price": None},
        {"id": 2, "word": "y", "price": None},
        {"id": 2**40, "word": "z", "price": Decimal("1.5")},
    ]
    assert made[0].column("_id").equals(one.column("_id"))
    assert united({"one": one, "two": two}, columns="common")[1] == [
        {key: row[key] for key in ("id", "word")} for row in rows
    ]


def test_what_one_input_lacks_may_be_null():
    must = pa.schema([pa.field("n", pa.int8(), nullable=False), pa.field("m", pa.int8())])
    one = batch_of(pa.record_batch([pa.array([1], pa.int8())] * 2, schema=must))
    made, _ = united({"one": one, "two": batch_of({"m": pa.array([1], pa.int8())})})
    assert made[0].schema.field("n").nullable
    made, _ = united({"one": one, "two": one})
    assert not made[0].schema.field("n").nullable


def test_columns_that_differ_by_case_are_refused():
    inputs = {"a": edge({"Id": [1]}), "b": edge({"id": [1]})}
    with pytest.raises(ConfigError, match="'a' has a column 'Id' and 'b' one 'id'"):
        Union(UnionParams()).output_of(inputs)


A = rows_source("a", {"id": "int32", "name": "string", "n": "int64", "only_a": "bool"})
B = rows_source("b", {"n": "int64", "id": "int64", "name": "string"})
GRAPH = ([A, B, action("union"), OUT], "a union", "b union", "union out")


def test_a_graph_of_two_files(tmp_path):
    ones = [{"id": n, "name": f"a{n}", "n": n, "only_a": True} for n in range(5)]
    twos = [{"n": n, "id": 2**40 + n, "name": None} for n in range(7)]
    write_rows(tmp_path, "a", ones)
    write_rows(tmp_path, "b", twos)
    result = run(tmp_path, *GRAPH)
    rows = written(tmp_path)
    assert sorted(rows, key=lambda row: row["id"]) == [
        *ones,
        *({**r, "only_a": None} for r in twos),
    ]
    counts = result.metrics["union"].counts
    assert (counts.records_in, counts.records_out, counts.dropped, counts.dead) == (12, 12, 0, 0)


def test_mistakes_name_the_nodes_the_column_and_the_types():
    text = rows_source("b", {"id": "string", "n": "double", "name": "string"})
    [(path, _)] = mistakes([A, text, *GRAPH[0][2:]], *GRAPH[1:]).items()
    assert path == "$.nodes[2]"
    found = mistakes([A, text, action("union", columns="common"), OUT], *GRAPH[1:])
    assert "column 'n' is int64 from 'a' and double from 'b'" in found["$.nodes[2]"]
    unknown = rows_source("b", None)
    [(path, told)] = mistakes([A, unknown, *GRAPH[0][2:]], *GRAPH[1:]).items()
    assert path == "$.nodes[2]"
    assert "the columns that 'b' brings are not known before the run" in told
    [(path, told)] = mistakes([A, B, *GRAPH[0][2:]], "a union", "b union left", *GRAPH[3:]).items()
    assert path == "$.edges[1].input"
    assert 'union "union" has no named inputs' in told
    [(path, told)] = mistakes([A, B, OUT], "a out", "b out").items()
    assert 'put a "union" before it' in told
