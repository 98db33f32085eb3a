"""`join` against DuckDB's own, of any kind, over keys of types that differ."""

import datetime as dt
import math
from collections import Counter
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular_batches import batch_of
from test_join import HOWS, cut, join, of_right, plain

from nvisy_connectors.tabular import joining

SMALL = st.integers(-3, 3)
DAYS = st.dates(dt.date(2024, 2, 27), dt.date(2024, 3, 1))
CENTS = st.integers(-200, 200).map(lambda n: Decimal(n * 50).scaleb(-2))
FLOATS = st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf, -math.inf])
KINDS = {
    "integers": (SMALL, pa.int8(), SMALL, pa.int64()),
    "unsigned": (st.integers(0, 3), pa.uint64(), SMALL, pa.int32()),
    "decimals": (CENTS, pa.decimal128(9, 2), SMALL, pa.int16()),
    "floats": (FLOATS, pa.float32(), FLOATS, pa.float64()),
    "texts": (st.text("aä ", max_size=2), pa.string(), st.text("aä ", max_size=2), pa.large_utf8()),
    "days": (DAYS, pa.date32(), DAYS, pa.date32()),
}


@st.composite
def tables(draw):
    """Two tables with up to three columns to compare, and one that tells their rows apart."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
    made = []
    for side in (0, 2):
        count = draw(st.integers(0, 12))
        columns = {
            f"k{place}": pa.array(
                draw(st.lists(st.none() | values, min_size=count, max_size=count)), kind
            )
            for place, (values, kind) in enumerate(KINDS[one][side : side + 2] for one in kinds)
        }
        name = "b" if side else "a"
        made.append(pa.record_batch({**columns, name: pa.array(range(count), pa.int64())}))
    return made


def told(row):
    """What may be compared: NaN is none of Python's equal values."""
    return tuple("nan" if value != value else value for value in row)  # noqa: PLR0124 - NaN


def place(row):
    """Where it belongs: in the order of the left, then of the right, the right alone at the end."""
    return [math.inf if row.get(side) is None else row[side] for side in ("a", "b")]


@settings(max_examples=60, deadline=None)
@given(
    sides=tables(),
    how=st.sampled_from(HOWS),
    places=st.tuples(*[st.integers(0, 12)] * 2),
    memory=st.booleans(),
)
def test_it_makes_what_duckdb_makes(tmp_path_factory, sides, how, places, memory):
    left, right = sides
    keys = [name for name in left.schema.names if name != "a"]
    columns = ", ".join([*keys, "a", *([] if how in {"semi", "anti"} else ["b"])])
    with duckdb.connect() as database:
        for name, side in (("l", left), ("r", right)):
            database.register(name, pa.Table.from_batches([side]))
        query = f"SELECT {columns} FROM l {how} JOIN r USING ({', '.join(keys)})"
        wanted = database.sql(query).fetchall()
    with pytest.MonkeyPatch.context() as patch:
        if not memory:
            patch.setattr(joining, "MOST_BYTES", -1)
        inputs = [
            cut(batch, at)
            for batch, at in zip((batch_of(left), of_right(right)), places, strict=True)
        ]
        made, rows = join(*inputs, tmp_path_factory.mktemp("s"), on=keys, how=how)
    found = [tuple(plain(row).values()) for row in rows]
    assert Counter(map(told, found)) == Counter(map(told, wanted))
    assert len({row["_id"] for row in rows}) == len(rows)
    assert list(map(place, rows)) == sorted(map(place, rows))
    traces = {(side, row[side]) for row in rows for side in ("a", "b") if row.get(side) is not None}
    assert made.traced() in {None, len(traces)}
