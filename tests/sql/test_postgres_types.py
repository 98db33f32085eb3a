"""Every Arrow type there and back, read by psycopg."""

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sql_records import MOMENT, records
from sql_writing import write

from nvisy_connectors.sql.postgres.json_text import json_texts

pytestmark = pytest.mark.anyio

# Local times are what some of the columns hold.
# ruff: noqa: DTZ001

DAY = dt.date(1969, 12, 31)
LATE = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999)

COLUMNS = {
    # name: (type in PostgreSQL, array, what psycopg reads)
    "bool": ("boolean", pa.array([True, None, False]), [True, None, False]),
    "int8": ("smallint", pa.array([-128, None, 127], pa.int8()), [-128, None, 127]),
    "uint8": ("smallint", pa.array([0, None, 255], pa.uint8()), [0, None, 255]),
    "int16": ("smallint", pa.array([-(2**15), None, 2**15 - 1], pa.int16()), None),
    "uint16": ("integer", pa.array([0, None, 2**16 - 1], pa.uint16()), None),
    "int32": ("integer", pa.array([-(2**31), None, 2**31 - 1], pa.int32()), None),
    "uint32": ("bigint", pa.array([0, None, 2**32 - 1], pa.uint32()), None),
    "int64": ("bigint", pa.array([-(2**63), None, 2**63 - 1], pa.int64()), None),
    "uint64": ("numeric(20,0)", pa.array([0, None, 2**64 - 1], pa.uint64()), None),
    "float16": ("real", pa.array(np.array([0.5, 1, 2], np.float16)), [0.5, 1, 2]),
    "float32": ("real", pa.array([0.5, None, float("inf")], pa.float32()), None),
    "float64": ("double precision", pa.array([1e300, None, -0.1]), None),
    "decimal": (
        "numeric(9,3)",
        pa.array([Decimal("-123456.789"), None, Decimal("0.001")], pa.decimal128(9, 3)),
        None,
    ),
    "text": ("text", pa.array(["", None, "äöü 🎉\n'\"\\"]), None),
    "large": ("text", pa.array(["x" * 70_000, None, ""], pa.large_string()), None),
    "view": ("text", pa.array(["a", None, "a view of more than twelve"], pa.string_view()), None),
    "words": ("text", pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "bytes": ("bytea", pa.array([b"", None, bytes(range(256))]), None),
    "fixed": ("bytea", pa.array([b"abc", None, b"\0\0\0"], pa.binary(3)), None),
    "date": ("date", pa.array([DAY, None, dt.date(9999, 12, 31)]), None),
    "date64": ("date", pa.array([DAY, None, dt.date(2000, 1, 1)], pa.date64()), None),
    "time": ("time without time zone", pa.array([dt.time(0, 0), None, dt.time(23, 59, 59)]), None),
    "moment": ("timestamp with time zone", pa.array([MOMENT, None, MOMENT]), None),
    "local": ("timestamp without time zone", pa.array([LATE, None, dt.datetime(1, 1, 1)]), None),
    "seconds": (
        "timestamp without time zone",
        pa.array([0, None, -1], pa.timestamp("s")),
        [dt.datetime(1970, 1, 1), None, dt.datetime(1969, 12, 31, 23, 59, 59)],
    ),
    "nano": (
        "timestamp with time zone",
        pa.array([1_500, None, 0], pa.timestamp("ns", "UTC")),
        [
            dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC),
            None,
            dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
        ],
    ),
    "span": ("interval", pa.array([dt.timedelta(hours=-3), None, dt.timedelta(0)]), None),
    "numbers": ("bigint[]", pa.array([[1, None, -3], None, []]), None),
    "names": ("text[]", pa.array([["a", None, "{\"',"], None, []]), None),
    "prices": (
        "numeric(5,2)[]",
        pa.array([[Decimal("1.50"), None], None, []], pa.list_(pa.decimal128(5, 2))),
        None,
    ),
    "days": ("date[]", pa.array([[DAY], None, []]), None),
    "empty": ("text", pa.nulls(3), None),
    "object": (
        "jsonb",
        pa.array([{"a": 1, "b": ["x", None]}, None, {"a": None, "b": []}]),
        None,
    ),
    "objects": ("jsonb", pa.array([[{"a": 1.5}, None], None, []]), None),
    "nested": ("jsonb", pa.array([[[1], []], None, [None]]), None),
    "pairs": (
        "jsonb",
        pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        [{"k": 1}, None, {}],
    ),
    "short": ("real[]", pa.array([[1, None], [3, 4], None], pa.list_(pa.float32(), 2)), None),
}


async def test_every_type_there_and_back(database):
    batch = records({name: array for name, (_, array, _) in COLUMNS.items()})
    assert await write(database.connection, [batch.slice(0, 1), batch.slice(1)]) == {}
    types = dict(
        database.query(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = 't'::regclass AND attnum > 0"
        )
    )
    assert {name: types[name] for name in COLUMNS} == {
        name: kind for name, (kind, _, _) in COLUMNS.items()
    }
    rows = database.rows("""SELECT * FROM t ORDER BY _source->>'position'""")
    for name, (_, array, wanted) in COLUMNS.items():
        assert [row[name] for row in rows] == (wanted or array.to_pylist()), name


async def test_the_envelope(database):
    batch = records({"n": [1]})
    await write(database.connection, [batch])
    (row,) = database.rows("SELECT * FROM t")
    assert row["_id"].bytes == row["_root_id"].bytes == batch["_id"][0].as_py()
    assert row["_parent_ids"] == []
    assert row["_source"] == {"uri": "sql:", "position": 0}
    assert row["_created_at"] == MOMENT
    assert row["_metadata"] == {"a": 1}
    assert row["_tags"] == []


@pytest.mark.parametrize("with_pgvector", [False, True])
async def test_vectors(database, with_pgvector):
    if with_pgvector:
        # Not where everybody looks for it.
        database.query('CREATE SCHEMA "odd ""one"')
        database.query('CREATE EXTENSION vector SCHEMA "odd ""one"')
    values = np.random.default_rng(7).normal(size=(50, 3)).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3)
    batch = records({"vector": vectors})
    await write(database.connection, [batch.slice(0, 20), batch.slice(20)])
    rows = database.query("SELECT vector::real[] FROM t ORDER BY (_source->>'position')::int")
    np.testing.assert_array_equal(np.array([row for (row,) in rows], np.float32), values)
    kind = database.query(
        "SELECT format_type(atttypid, -1) FROM pg_attribute "
        "WHERE attrelid = 't'::regclass AND attname = 'vector'"
    )
    assert "vector" in kind[0][0] if with_pgvector else kind == [("real[]",)]


async def test_bad_vectors_are_refused(vectors):
    batch = records({
        "vector": pa.array(
            [[1, 2], [float("nan"), 1], None, [1, None], [float("inf"), 0], [3, 4]],
            pa.list_(pa.float32(), 2),
        )
    })
    refused = await write(vectors.connection, [batch])
    assert sorted(refused) == [1, 3, 4]
    assert {"null, NaN or infinity" in reason for reason in refused.values()} == {True}
    assert len(vectors.query("SELECT 1 FROM t")) == 3


@given(
    st.lists(
        st.none()
        | st.fixed_dictionaries({
            "text": st.none() | st.text(),
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "list": st.none() | st.lists(st.none() | st.text(max_size=4), max_size=3),
            "inner": st.none() | st.fixed_dictionaries({"flag": st.none() | st.booleans()}),
        }),
        max_size=6,
    ),
    st.integers(0, 6),
)
def test_json_texts_say_what_the_column_says(values, start):
    kind = pa.struct([
        ("text", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("list", pa.list_(pa.string())),
        ("inner", pa.struct([("flag", pa.bool_())])),
    ])
    column = pa.array(values, kind).slice(start)
    texts = json_texts(column).to_pylist()
    assert [None if text is None else json.loads(text) for text in texts] == column.to_pylist()
