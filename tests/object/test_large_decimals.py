"""Numbers with more digits than the decimals of their column: no record has another number."""

import json
from decimal import Decimal

import pytest
from bad_lines import rejected_in, rows_of
from object_records import drain

from nvisy_connectors.object.formats import jsonl_rows
from nvisy_connectors.object.local import LocalSource, LocalSourceParams

pytestmark = pytest.mark.anyio

FIT = ["9999999.99", "-9999999.9", "1", "0.25"]
LARGE = ["99999999.9", "999999999", "-10000000", "1e8"]


def source(path, form: str, column: str, **params):
    found = LocalSourceParams(path=str(path), format=form, columns={"d": column}, **params)
    reader = LocalSource(found, node_id="read")
    reader.bad_records = "reject"
    return reader


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(jsonl_rows, "library", lambda: None)
    jsonl_rows.line_reader.cache_clear()
    yield
    jsonl_rows.line_reader.cache_clear()


async def refuses(reader, values):
    batches = await drain(reader)
    bad = rejected_in(batches)
    assert [one.position for one in bad] == values
    assert all("decimal128(9, 2)" in one.reason for one in bad)
    for batch in batches:
        batch.data.validate(full=True)
    return [row["d"] for row in rows_of(batches)]


async def test_of_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["d", *FIT, *LARGE]) + "\n")
    found = await refuses(source(path, "csv", "decimal(9, 2)"), [6, 7, 8, 9])
    assert found == list(map(Decimal, FIT))


@pytest.mark.parametrize("quoted", [True, False])
async def test_of_json_lines(tmp_path, quoted):
    await jsonl(tmp_path, quoted=quoted)


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.usefixtures("uncompiled")
async def test_of_json_lines_that_arrow_reads(tmp_path, quoted):
    await jsonl(tmp_path, quoted=quoted)


async def jsonl(tmp_path, *, quoted):
    path = tmp_path / "x.jsonl"
    mark = '"' if quoted else ""
    path.write_text("".join(f'{{"d": {mark}{one}{mark}}}\n' for one in [*FIT, *LARGE]))
    found = await refuses(source(path, "jsonl", "decimal(9, 2)"), [5, 6, 7, 8])
    assert found == list(map(Decimal, FIT))


async def test_within_lists_and_structs_of_json_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"d": [{{"x": {one}}}]}}\n' for one in [*FIT, *LARGE]))
    reader = source(path, "jsonl", "list<struct<x: decimal(9, 2)>>")
    found = await refuses(reader, [5, 6, 7, 8])
    assert found == [[{"x": Decimal(one)}] for one in FIT]


async def test_what_is_too_large_is_rescued(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"d": {one}}}\n' for one in [*FIT, *LARGE]))
    drifting = {"jsonl": {"on_drift": "widen"}}
    rows = rows_of(await drain(source(path, "jsonl", "decimal(9, 2)", **drifting)))
    assert [row["d"] for row in rows] == [*map(Decimal, FIT), None, None, None, None]
    rest = [json.loads(row["_rescued_data"], parse_float=Decimal) for row in rows[len(FIT) :]]
    assert [one["d"] for one in rest] == list(map(Decimal, LARGE))
