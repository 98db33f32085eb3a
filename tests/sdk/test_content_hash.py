"""The content hash depends on values and on nothing else."""

import datetime as dt
import hashlib
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvisy_dagster.sdk.content_hash import content_hashes
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

NESTED = pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])
SCHEMA = pa.schema([
    ("i", pa.int64()),
    ("f", pa.float64()),
    ("t", pa.string()),
    ("x", pa.binary()),
    ("b", pa.bool_()),
    ("when", pa.timestamp("us", "UTC")),
    ("day", pa.date32()),
    ("list", pa.list_(pa.float32())),
    ("nested", NESTED),
    ("pairs", pa.map_(pa.string(), pa.int64())),
])
ROWS = st.lists(
    st.fixed_dictionaries({
        "i": st.none() | st.integers(-(2**63), 2**63 - 1),
        "f": st.none() | st.floats(),
        "t": st.none() | st.text(max_size=4),
        "x": st.none() | st.binary(max_size=4),
        "b": st.none() | st.booleans(),
        "when": st.none() | st.datetimes(timezones=st.just(dt.UTC)),
        "day": st.none() | st.dates(),
        "list": st.none() | st.lists(st.none() | st.floats(width=32), max_size=3),
        "nested": st.none()
        | st.fixed_dictionaries({
            "a": st.none() | st.integers(0, 3),
            "b": st.none() | st.lists(st.none() | st.text(max_size=2), max_size=2),
        }),
        "pairs": st.none() | st.dictionaries(st.text(max_size=2), st.integers(0, 3), max_size=2),
    }),
    min_size=1,
    max_size=5,
)


def _hash(**columns):
    return content_hashes(pa.record_batch(columns)).to_pylist()


@given(rows=ROWS, cut=st.integers(0, 5))
def test_batches_may_be_cut_and_columns_ordered_in_any_way(rows, cut):
    for row in rows:
        row["pairs"] = None if row["pairs"] is None else list(row["pairs"].items())
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    whole = content_hashes(batch).to_pylist()
    parts = [batch.slice(0, cut), batch.slice(cut)]
    assert [h for part in parts for h in content_hashes(part).to_pylist()] == whole
    alone = [
        content_hashes(pa.RecordBatch.from_pylist([r], schema=SCHEMA))[0].as_py() for r in rows
    ]
    assert alone == whole
    assert content_hashes(batch.select(SCHEMA.names[::-1])).to_pylist() == whole


@given(rows=ROWS)
def test_other_values_have_other_hashes(rows):
    for row in rows:
        row["pairs"] = None if row["pairs"] is None else list(row["pairs"].items())
        # Zeros of either sign are one value, but have two texts.
        row["list"] = None
        row["f"] = None if row["f"] is None else row["f"] + 0.0
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    distinct = {repr(row) for row in batch.to_pylist()}
    assert len(set(content_hashes(batch).to_pylist())) == len(distinct)


def test_the_form_is_as_documented():
    def label(name):
        return b"t" + len(name).to_bytes(8, "little") + name

    form = (
        b"s"
        + (label(b"a") + b"i" + (-2).to_bytes(16, "little", signed=True))
        + (label(b"b") + b"t" + (2).to_bytes(8, "little") + "é".encode())
        + b"e"
    )
    assert _hash(b=["é"], a=[-2], c=pa.array([None], pa.int32())) == [hashlib.sha256(form).digest()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1], pa.int8()), pa.array([1], pa.uint64())),
        (pa.array([1.5], pa.float32()), pa.array([1.5], pa.float64())),
        (pa.array([0.0]), pa.array([-0.0])),
        (pa.array(["a"]), pa.array(["a"], pa.large_string())),
        (pa.array(["a"]), pa.array(["a"], pa.string_view())),
        (pa.array(["a"]), pa.array(["a"]).dictionary_encode()),
        (pa.array([b"a"]), pa.array([b"a"], pa.binary(1))),
        (pa.array([b"a"]), pa.array([b"a"], pa.large_binary())),
        (
            pa.array([1], pa.timestamp("s", "UTC")),
            pa.array([10**9], pa.timestamp("ns", "Europe/Berlin")),
        ),
        (pa.array([1], pa.date32()), pa.array([86_400_000], pa.date64())),
        (pa.array([1], pa.time32("s")), pa.array([10**9], pa.time64("ns"))),
        (pa.array([-1], pa.duration("s")), pa.array([-(10**9)], pa.duration("ns"))),
        (
            pa.array([Decimal("1.10"), Decimal(100)], pa.decimal128(9, 2)),
            pa.array([Decimal("1.1"), Decimal(100)], pa.decimal256(50, 4)),
        ),
        (pa.array([1, 1]), pa.RunEndEncodedArray.from_arrays([2], [1])),
        (pa.array([[1, 2]], pa.list_(pa.float32(), 2)), pa.array([[1, 2]], pa.list_(pa.float64()))),
        (pa.array([{"a": 1, "b": None}]), pa.array([{"a": 1}])),
        (pa.array([[1, 2]], pa.list_(pa.int8())), pa.array([[1, 2]], pa.large_list(pa.int64()))),
    ],
)
def test_the_same_value_in_another_type_has_the_same_hash(one, other):
    assert _hash(v=one) == _hash(v=other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1]), pa.array([1.0])),
        (pa.array([1]), pa.array([True])),
        (pa.array(["1"]), pa.array([1])),
        (pa.array(["a"]), pa.array([b"a"])),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1])),
        (pa.array([[1, None]]), pa.array([[1]])),
        (pa.array([["ab", "c"]]), pa.array([["a", "bc"]])),
        (pa.array([[[1], []]]), pa.array([[[], [1]]])),
        (pa.array([[]], pa.list_(pa.int64())), pa.array([None], pa.list_(pa.int64()))),
        (pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("us", "UTC"))),
        (pa.array([Decimal("1.5")]), pa.array([Decimal("2.5")])),
        (pa.array([1], pa.time64("ns")), pa.array([2], pa.time64("ns"))),
        (pa.array([1], pa.duration("ns")), pa.array([2], pa.duration("ns"))),
        # What Python's own types do not reach.
        (pa.array([2**62], pa.duration("s")), pa.array([2**62 + 1], pa.duration("s"))),
        (
            pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
            pa.array([2**31 - 2], pa.int32()).cast(pa.date32()),
        ),
    ],
)
def test_another_value_has_another_hash(one, other):
    assert _hash(v=one) != _hash(v=other)


def test_field_boundaries_matter():
    assert _hash(a=["x"], b=["yz"]) != _hash(a=["xy"], b=["z"])
    assert _hash(a=["x"]) != _hash(b=["x"])


def test_null_and_missing_columns_are_the_same():
    assert _hash(a=[1, 1], b=[None, "x"])[0] == _hash(a=[1])[0]


def test_the_envelope_does_not_count():
    payload = pa.record_batch({"a": [1, 2]})
    one = with_envelope(payload, ids=root_ids("x", np.arange(2)), uri="x")
    other = with_envelope(payload, ids=root_ids("y", np.arange(2)), uri="y")
    expected = content_hashes(payload)
    assert content_hashes(one).equals(expected)
    assert content_hashes(other).equals(expected)
    assert expected.type == pa.binary(32)


def test_no_rows_and_no_columns():
    assert len(content_hashes(pa.record_batch({"a": pa.array([], pa.string())}))) == 0
    bare = pa.record_batch({"a": [1, 2]}).select([])
    assert content_hashes(bare).to_pylist() == [hashlib.sha256(b"se").digest()] * 2
