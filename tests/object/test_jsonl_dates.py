"""Declared dates in JSON lines: texts of days, by themselves and within other values."""

import datetime as dt

import pyarrow as pa
import pytest
from bad_lines import places_of, rejected_in, rows_of, source
from object_records import drain

from nvisy_connectors.object.formats import jsonl_rows
from nvisy_dagster.sdk import DataError

pytestmark = pytest.mark.anyio

COLUMNS = {"n": "int64", "day": "date", "in": "struct<days: list<date>>"}
DAY = dt.date(2026, 1, 31)
LEAP = dt.date(2024, 2, 29)


@pytest.fixture(params=[True, False], autouse=True)
def _compiled(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(jsonl_rows, "library", lambda: None)
    jsonl_rows.line_reader.cache_clear()
    yield
    jsonl_rows.line_reader.cache_clear()


async def read(tmp_path, *texts, **params):
    (tmp_path / "x.jsonl").write_text("".join(f"{text}\n" for text in texts))
    return await drain(source(tmp_path / "x.jsonl", "jsonl", columns=COLUMNS, **params))


async def test_days_are_read_wherever_they_are(tmp_path):
    batches = await read(
        tmp_path,
        '{"n": 1, "day": "2026-01-31", "in": {"days": ["2026-01-31", null]}}',
        '{"n": 2, "day": "2024-02-29"}',
        '{"n": 3, "day": "2026-01-31T00:00:00"}',
        '{"n": 4, "day": "0001-01-01", "in": {"days": ["9999-12-31"]}}',
        "{}",
    )
    [batch] = batches
    wanted = pa.struct([("days", pa.list_(pa.date32()))])
    assert batch.data.schema.field("day").type == pa.date32()
    assert batch.data.schema.field("in").type == wanted
    assert rows_of(batches) == [
        {"n": 1, "day": DAY, "in": {"days": [DAY, None]}},
        {"n": 2, "day": LEAP, "in": None},
        {"n": 3, "day": DAY, "in": None},
        {"n": 4, "day": dt.date.min, "in": {"days": [dt.date.max]}},
        {"n": None, "day": None, "in": None},
    ]


BAD = [
    '"2026-01-31T05:00:00"',
    '"2026-02-30"',
    '"2026-1-3"',
    '"31.1.2026"',
    '"2026-01-31T00:00:00+02:00"',
    "20260131",
    '""',
    "true",
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("nested", [True, False])
async def test_what_is_no_day_is_one_bad_line(tmp_path, bad, nested):
    text = f'{{"in": {{"days": [{bad}]}}}}' if nested else f'{{"day": {bad}}}'
    batches = await read(tmp_path, *['{"n": 1, "day": "2026-01-31"}'] * 9, text, '{"n": 2}')
    assert [place for _, place in places_of(batches)] == [*range(1, 10), 11]
    assert [row["day"] for row in rows_of(batches)] == [DAY] * 9 + [None]
    [rejected] = rejected_in(batches)
    assert rejected.position == 10
    assert ("'in" if nested else "'day'") in rejected.reason
    loud = source(tmp_path / "x.jsonl", "jsonl", columns=COLUMNS)
    loud.bad_records = "fail"
    with pytest.raises(DataError, match=r"x\.jsonl, line 10 "):
        await drain(loud)


async def test_what_is_no_day_is_rescued(tmp_path):
    batches = await read(
        tmp_path,
        '{"n": 1, "day": "2026-01-31T05:00:00", "in": {"days": []}}',
        '{"n": 2, "day": "2026-01-31"}',
        jsonl={"on_drift": "widen"},
    )
    assert not rejected_in(batches)
    assert rows_of(batches) == [
        {"n": 1, "day": None, "in": {"days": []}, "_rescued_data": '{"day":"2026-01-31T05:00:00"}'},
        {"n": 2, "day": DAY, "in": None, "_rescued_data": None},
    ]
