"""Numbers that are too large for a column of floats: no record has infinity in their place."""

import json
from decimal import Decimal
from fractions import Fraction
from math import inf, isinf

import numpy as np
import pyarrow as pa
import pytest
from bad_lines import rejected_in, rows_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from object_records import drain

from nvisy_connectors.object.formats import jsonl_rows
from nvisy_connectors.object.formats.csv_types import convert
from nvisy_connectors.object.formats.floats import as_number
from nvisy_connectors.object.formats.jsonl_check import checker
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk import DataError

pytestmark = pytest.mark.anyio

LAST = "1.7976931348623157e308"
LAST_SINGLE = "3.4028235677973366e38"
"""Nearer to the largest number than to infinity, if only when it is not rounded to a double."""
FIT = {
    "float64": ["0.5", "-1e308", LAST, f"-{LAST}", "0.0000001e315"],
    "float32": ["0.5", "-1e38", LAST_SINGLE, f"-{LAST_SINGLE}"],
}
LARGE = {
    "float64": ["9e308", "-9e308", "1.7976931348623159e308", "1" + "0" * 400, "9" * 5000],
    "float32": ["9e38", "-9e38", "3.4028235677973367e38", "1" + "0" * 50, "9e308", "1e39"],
}
WAYS = ["compiled", "uncompiled"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    if request.param == "uncompiled":
        monkeypatch.setattr(jsonl_rows, "library", lambda: None)
    jsonl_rows.line_reader.cache_clear()
    yield request.param
    jsonl_rows.line_reader.cache_clear()


def source(path, form: str, *, rejects=True, **params):
    reader = LocalSource(LocalSourceParams(path=str(path), format=form, **params), node_id="read")
    reader.bad_records = "reject" if rejects else "raise"
    return reader


def jsonl(path, values, shape="{}"):
    path.write_text("".join(f'{{"a": {shape.format(one)}}}\n' for one in values))
    return path


def csv(path, values):
    path.write_text("\n".join(["a", *values]) + "\n")
    return path


async def read(reader, first: int, kind: str):
    """The values of what was read; all from a position on are refused."""
    batches = await drain(reader)
    bad = rejected_in(batches)
    assert [one.position for one in bad] == list(range(first, first + len(LARGE[kind])))
    assert all("a" in one.reason for one in bad)
    return [row["a"] for row in rows_of(batches)]


def floats(kind: str):
    most = float(np.finfo(kind).max)
    return [float(np.clip(float(one), -most, most).astype(kind)) for one in FIT[kind]]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", ["{}", '[{{"x": [0.0, {}]}}]'])
@pytest.mark.parametrize("kind", FIT)
async def test_of_json_lines(tmp_path, kind, shape):
    path = jsonl(tmp_path / "x.jsonl", [*FIT[kind], *LARGE[kind]], shape)
    column = kind if shape == "{}" else f"list<struct<x: list<{kind}>>>"
    found = await read(source(path, "jsonl", columns={"a": column}), len(FIT[kind]) + 1, kind)
    assert found == [one if shape == "{}" else [{"x": [0.0, one]}] for one in floats(kind)]


@pytest.mark.usefixtures("way")
async def test_of_json_lines_whose_columns_are_inferred(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [*FIT["float64"], *LARGE["float64"]])
    assert await read(source(path, "jsonl"), 6, "float64") == floats("float64")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("columns", [{"columns": {"a": "float64"}}, {}])
async def test_of_json_lines_end_the_run_where_bad_records_do(tmp_path, columns):
    path = jsonl(tmp_path / "x.jsonl", ["0.5", "9e308"])
    with pytest.raises(DataError, match=r"line 2 .*'a'.* out of the range of double"):
        await drain(source(path, "jsonl", rejects=False, **columns))


@pytest.mark.usefixtures("way")
async def test_infinity_that_was_written_stays(tmp_path):
    values = ["Infinity", "-Infinity", "9e308", "1e30"]
    path = jsonl(tmp_path / "x.jsonl", values)
    batches = await drain(source(path, "jsonl", columns={"a": "float64"}))
    assert [row["a"] for row in rows_of(batches)] == [inf, -inf, 1e30]
    assert [one.position for one in rejected_in(batches)] == [3]


@pytest.mark.usefixtures("way")
async def test_other_fields_of_json_lines_may_be_large(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1, "b": 9e308}\n{"a": Infinity, "b": 9e308}\n')
    batches = await drain(source(path, "jsonl", columns={"a": "float64"}))
    assert [row["a"] for row in rows_of(batches)] == [1, inf]
    assert rejected_in(batches) == []


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", FIT)
async def test_of_json_lines_are_rescued(tmp_path, kind):
    large = [one for one in LARGE[kind] if len(one) < 4000]
    path = jsonl(tmp_path / "x.jsonl", [*FIT[kind], *large])
    widen = {"jsonl": {"on_drift": "widen"}}
    batches = await drain(source(path, "jsonl", columns={"a": kind}, **widen))
    rows = rows_of(batches)
    assert rejected_in(batches) == []
    assert [row["a"] for row in rows] == [*floats(kind), *[None] * len(large)]
    rescued = [row["_rescued_data"] for row in rows[len(FIT[kind]) :]]
    found = [json.loads(one, parse_float=Decimal)["a"] for one in rescued]
    assert found == list(map(Decimal, large))


@pytest.mark.parametrize("kind", FIT)
async def test_of_csv(tmp_path, kind):
    path = csv(tmp_path / "x.csv", [*FIT[kind], *LARGE[kind]])
    found = await read(source(path, "csv", columns={"a": kind}), len(FIT[kind]) + 2, kind)
    assert found == floats(kind)


async def test_of_csv_whose_columns_are_inferred(tmp_path):
    path = csv(tmp_path / "x.csv", [*["0.5"] * 500, "9e308", "1e309", "-inf"])
    batches = await drain(source(path, "csv"))
    assert [row["a"] for row in rows_of(batches)] == [*[0.5] * 500, -inf]
    assert [one.position for one in rejected_in(batches)] == [502, 503]


async def test_of_csv_end_the_run_where_bad_records_do(tmp_path):
    path = csv(tmp_path / "x.csv", ["0.5", "9e38"])
    with pytest.raises(DataError, match=r"line 3 .*'a' is float, and '9e38'"):
        await drain(source(path, "csv", rejects=False, columns={"a": "float32"}))


async def test_infinity_that_was_written_in_csv_stays(tmp_path):
    values = ["inf", "-INF", "Infinity", "9e308", "1e30", '"inf"']
    path = csv(tmp_path / "x.csv", values)
    batches = await drain(source(path, "csv", columns={"a": "float64"}))
    assert [row["a"] for row in rows_of(batches)] == [inf, -inf, inf, 1e30, inf]
    assert [one.position for one in rejected_in(batches)] == [5]


async def test_of_csv_with_decimal_commas(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a;b\n0,5;x\n9,5e308;x\n1,5e308;x\n")
    params = {"columns": {"a": "float64"}, "csv": {"decimal_point": ","}}
    batches = await drain(source(path, "csv", **params))
    assert [row["a"] for row in rows_of(batches)] == [0.5, 1.5e308]
    assert [one.position for one in rejected_in(batches)] == [3]


@settings(deadline=None)
@given(
    digits=st.integers(1, 10**30),
    exponent=st.integers(-330, 330),
    kind=st.sampled_from([pa.float32(), pa.float64()]),
)
@example(digits=10**9, exponent=300, kind=pa.float64())
@example(digits=34028235677973366, exponent=22, kind=pa.float32())
@example(digits=34028235677973367, exponent=22, kind=pa.float32())
def test_what_is_too_large_is_what_would_become_infinity(digits, exponent, kind):
    bound = {32: 2**128 - 2**103, 64: 2**1024 - 2**970}[kind.bit_width]
    is_large = digits * Fraction(10) ** exponent >= bound
    texts = pa.array([f"{digits}e{exponent}", "0.5"])
    values, good = convert(texts, kind)
    assert good.tolist() == [not is_large, True]
    assert values[0].is_valid is not is_large
    assert not isinf(values[0].as_py() or 0)
    check = checker(kind, declared=True)
    assert bool(check(as_number(texts[0].as_py()))) is is_large
