"""Times as text: every digit and the moment stay, and what cannot be written is told."""

import datetime as dt
import json
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
from object_records import drain

from nvisy_connectors.object.formats.csv_writer import CsvWriter
from nvisy_connectors.object.formats.jsonl_writer import JsonlWriter
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_connectors.object.params import WriteParams
from nvisy_dagster.sdk import DataError
from nvisy_dagster.sdk.envelope import payload

pytestmark = pytest.mark.anyio

MOMENT = 1_704_067_200_123_456_789
ZONES = [None, "UTC", "Europe/Berlin", "America/New_York", "+05:30"]
WRITERS = {"jsonl": JsonlWriter, "csv": CsvWriter}
NESTED = {"csv": {"nested": "json"}}


def write(path, array, form):
    batch = pa.RecordBatch.from_arrays([pa.array(range(len(array))), array], names=["n", "t"])
    params = WriteParams(format=form, **(NESTED if form == "csv" else {}))
    with closing(WRITERS[form](path, batch.schema, params)) as writer:
        writer.write(batch)
    return path


def read_by_others(path, form):
    if form == "jsonl":
        return [json.loads(line)["t"] for line in path.read_text().splitlines()]
    return [line.partition(",")[2] or None for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ZONES)
async def test_a_moment_is_the_same_whatever_its_zone(tmp_path, form, unit, zone):
    factor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
    kind = pa.timestamp(unit, zone)
    array = pa.array([MOMENT // factor, -MOMENT // factor, None, 0], kind)
    path = write(tmp_path / f"x.{form}", array, form)
    params = LocalSourceParams(path=str(path), format=form, columns={"n": "int64", "t": str(kind)})
    [batch] = await drain(LocalSource(params, node_id="read"))
    assert payload(batch.data).column("t").equals(array)


@pytest.mark.parametrize("form", WRITERS)
def test_nanoseconds_of_a_day_stay(tmp_path, form):
    array = pa.array([1, 123_456_789, None, 86_399_999_999_999], pa.time64("ns"))
    found = read_by_others(write(tmp_path / "x", array, form), form)
    assert found == ["00:00:00.000000001", "00:00:00.123456789", None, "23:59:59.999999999"]


@pytest.mark.parametrize(
    ("unit", "counts", "texts"),
    [
        ("s", [5, -(2**53) - 1], ["5.0", "-9007199254740993.0"]),
        ("ms", [1500, 2**53 + 1], ["1.5", "9007199254740.993"]),
        ("us", [2**53 + 1, 0], ["9007199254.740993", "0.0"]),
        ("ns", [2**53 + 1, 10**9, 1, -1], ["9007199.254740993", "1.0", "1E-9", "-1E-9"]),
    ],
)
def test_spans_keep_their_digits_in_csv(tmp_path, unit, counts, texts):
    array = pa.array([None, *counts, None], pa.duration(unit))
    for column in (array, array.slice(1, len(counts))):
        found = read_by_others(write(tmp_path / "x", column, "csv"), "csv")
        assert [one for one in found if one is not None] == texts


FAR = {
    "seconds that are milliseconds": pa.array([0, MOMENT // 10**6, None, 1], pa.timestamp("s")),
    "with a zone": pa.array([0, MOMENT // 10**6, None, 1], pa.timestamp("s", "UTC")),
    "in microseconds": pa.array([0, -(2**62), None, 1], pa.timestamp("us")),
    "days": pa.array(np.array([0, 2**31 - 1, 0, 1], np.int32)).view(pa.date32()),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("nested", [True, False])
def test_a_time_that_is_too_far_is_a_bad_record(tmp_path, form, name, nested):
    array = FAR[name]
    if nested:
        array = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4]), array)
    path = tmp_path / "x"
    with pytest.raises(DataError) as caught:
        write(path, array, form)
    assert list(caught.value.rows) == [1]
    assert "year" in caught.value.rows[1]
    assert len(read_by_others(path, form)) == 3


def test_a_span_that_is_too_long_is_a_bad_record_of_jsonl(tmp_path):
    array = pa.array([1, 2**53], pa.duration("s"))
    with pytest.raises(DataError) as caught:
        write(tmp_path / "x", array, "jsonl")
    assert list(caught.value.rows) == [1]
    assert read_by_others(tmp_path / "x", "jsonl") == [dt.timedelta(seconds=1).total_seconds()]


INTERVALS = {
    (0, 0, 0): "P0D",
    (14, 3, 14_706_700_000_000): "P1Y2M3DT4H5M6.7S",
    (-14, 0, 0): "P-1Y-2M",
    (0, -1, 1): "P-1DT0.000000001S",
    (0, 0, -90_000_000_000): "PT-1M-30S",
    (12, 0, 3_600_000_000_000): "P1YT1H",
    (0, 0, 100_000_000_000_000_000_000 // 10**3): "PT27777H46M40S",
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("nested", [False, True])
def test_intervals_are_written_as_iso_8601_has_them(tmp_path, form, nested):
    array = pa.array([*INTERVALS, None], pa.month_day_nano_interval())
    if nested:
        places = pa.array(range(len(array) + 1), pa.int32())
        array = pa.StructArray.from_arrays([pa.ListArray.from_arrays(places, array)], ["l"])
    found = read_by_others(write(tmp_path / "x", array, form), form)
    if nested and form == "csv":
        found = [json.loads(one[1:-1].replace('""', '"')) for one in found]
    wanted = [*INTERVALS.values(), None]
    assert found == ([{"l": [one]} for one in wanted] if nested else wanted)
