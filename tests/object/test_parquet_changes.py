"""Values of Parquet files that a declared type would make others of: they are bad records."""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_lines import rejected_in, rows_of, source
from object_records import drain

pytestmark = pytest.mark.anyio

MORNING = dt.datetime(2024, 1, 1, 10, 30)  # noqa: DTZ001 - some have no zone
MIDNIGHT = dt.datetime(2024, 1, 1)  # noqa: DTZ001
IN_BERLIN = pa.timestamp("us", "Europe/Berlin")
NEW_YEAR_IN_BERLIN = dt.datetime(2023, 12, 31, 23, tzinfo=dt.UTC)
DAY = dt.date(2024, 1, 1)
FAR = pa.array([0, 2**62], pa.timestamp("us"))

# The first of two values fits, the second does not.
CASES = {
    "a date": (pa.array([MIDNIGHT, MORNING]), "date", DAY),
    "a date of nanoseconds": (
        pa.array([0, 1], pa.timestamp("ns")), "date", dt.date(1970, 1, 1)),
    "a date in Berlin": (
        pa.array([NEW_YEAR_IN_BERLIN, MIDNIGHT.replace(tzinfo=dt.UTC)], IN_BERLIN), "date", DAY),
    "a time": (pa.array([dt.datetime(1970, 1, 1, 10), MORNING]), "time", dt.time(10)),  # noqa: DTZ001
    "a far time": (FAR, "timestamp[ns]", dt.datetime(1970, 1, 1)),  # noqa: DTZ001
    "a truth of a number": (pa.array([1, 2]), "bool", True),
    "a truth of a fraction": (pa.array([0.0, 0.5]), "bool", False),
    "a text": (pa.array(["inf", "9e308"]), "float64", float("inf")),
    "a small text": (pa.array(["1e38", "9e38"]), "float32", pytest.approx(1e38)),
    "a float": (pa.array([1e38, 9e38]), "float32", pytest.approx(1e38)),
    "floats in a list": (pa.array([[1.5, None], [1.5, 9e38]]), "list<float32>", [1.5, None]),
    "floats in a struct": (
        pa.array([{"x": 1.5, "y": [0.5]}, {"x": 0.5, "y": [9e38]}]),
        "struct<y: list<float32>, x: float64>",
        {"y": [0.5], "x": 1.5},
    ),
    "decimals in a list": (
        pa.array([[0.5], [0.25]]), "list<decimal(3,1)>", [Decimal("0.5")]),
    "vectors": (
        pa.array([[1.5], [9e38]], pa.list_(pa.float64(), 1)), "list<float32>", [1.5]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("before", [0, 3])
async def test_what_a_cast_would_change_is_a_bad_record(tmp_path, name, before):
    values, kind, wanted = CASES[name]
    column = pa.concat_arrays([pa.nulls(before, values.type), values, values.slice(0, 1)])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"v": column}), path)
    batches = await drain(source(path, "parquet", columns={"v": kind}))
    assert [row["v"] for row in rows_of(batches)] == [None] * before + [wanted] * 2
    [bad] = rejected_in(batches)
    assert bad.position == before + 1
    assert "column 'v': " in bad.reason


async def test_what_fits_is_kept(tmp_path):
    lists = pa.array([[1.5], None, [], [None, float("inf")]])
    table = pa.table({"l": lists, "b": pa.array([0, 1, None, 0]), "d": pa.array([MIDNIGHT] * 4)})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = {"l": "list<float32>", "b": "bool", "d": "date"}
    batches = await drain(source(tmp_path, "parquet", columns=columns))
    assert rejected_in(batches) == []
    found = rows_of(batches)
    assert [row["l"] for row in found] == lists.to_pylist()
    assert [row["b"] for row in found] == [False, True, None, False]
    assert [row["d"] for row in found] == [DAY] * 4
