"""JSON lines and IPC bytes: what is refused, and how the place is named."""

import datetime as dt
import json
from decimal import Decimal

import pyarrow as pa
import pytest

from nvisy_dagster.sdk.errors import DataError
from nvisy_dagster.sdk.primitives import Embedding, Row, StructuredOutput, ToolCallTrace
from nvisy_dagster.sdk.records import records_to_batch
from nvisy_dagster.sdk.serialization import from_ipc, from_json, to_ipc, to_json

ID = "0189d7a0-0000-7000-8000-000000000001"


def _line(**columns):
    base = {"_id": ID, "_root_id": ID, "_parent_ids": []}
    return json.dumps(base | columns)


def _reason(line, primitive="row", schema=None):
    with pytest.raises(DataError) as caught:
        from_json([_line(a=1, text="x", index=0), line], primitive, schema)
    assert list(caught.value.rows) == [1]
    return caught.value.rows[1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "Expecting value"),
        ("[1]", "expected a JSON object"),
        ("{", "Expecting property name"),
        (_line(a=float("nan")), "NaN is not JSON"),
        (_line(a=float("-inf")), "-Infinity is not JSON"),
        (_line(a=0).replace('"a": 0', '"a": 1e999'), "1e999 is too large for a float"),
        (_line(a=1).replace('"a": 1', '"a": 1, "a": 2'), "duplicate key 'a'"),
        (_line(a=0).replace('"a": 0', '"a": ' + "9" * 5000), "Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
        (_line(a=2**70), "a: "),
        (_line(a="\ud800"), "a: "),
        (_line(_id="nope"), "_id: not a UUID"),
        (_line(_id=5), "_id: expected a text, found a number"),
        (_line(_id=None), "_id: "),
        (_line(_parent_ids=ID), "_parent_ids: expected a list"),
        (_line(_parent_ids=["x"]), "_parent_ids: not a UUID"),
        (_line(_created_at="yesterday"), "_created_at: Invalid isoformat string"),
        (_line(_created_at="2024-01-01T00:00:00"), "_created_at: the timestamp has no timezone"),
        (_line(_tags=["a", 1]), "_tags: expected a text, found a number"),
        (_line(_tags="abc"), "_tags: expected a list, found a text"),
        (_line(_source={"uri": "x", "line": 3}), "_source: unknown field 'line'"),
        (_line(_metadata=[1]), "_metadata: Input should be a valid dictionary"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(line, reason):
    assert _reason(line).startswith(reason)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"text": None, "index": 0}, "text: Input should be a valid string"),
        ({"index": 0}, "text: Input should be a valid string"),
        ({"text": "x", "index": 1.5}, "index: expected an integer"),
        ({"text": "x", "index": True}, "index: expected an integer"),
        ({"text": "x", "index": "1"}, "index: expected an integer"),
        ({"text": "x", "index": 2**31}, "index: "),
        ({"text": "x", "index": -1}, "index: Input should be greater than or equal to 0"),
    ],
)
def test_values_of_the_primitive_are_not_converted(columns, reason):
    assert _reason(_line(**columns), "chunk").startswith(reason)


def test_all_bad_lines_are_told_at_once():
    with pytest.raises(DataError, match="2 of 3 rows are not valid row records") as caught:
        from_json(["x", _line(), "y"], "row")
    assert set(caught.value.rows) == {0, 2}


def test_infinite_and_broken_values_are_not_written():
    batch = records_to_batch(
        [Row(columns={"v": value}) for value in (1.0, float("nan"), float("inf"))], "row"
    )
    with pytest.raises(DataError) as caught:
        to_json(batch)
    assert set(caught.value.rows) == {1, 2}
    assert all(reason.startswith("v: ") for reason in caught.value.rows.values())
    broken = batch.set_column(
        batch.schema.get_field_index("_metadata"), "_metadata", pa.array(["{}", "{", None])
    )
    with pytest.raises(DataError) as caught:
        to_json(broken)
    assert caught.value.rows[1].startswith("_metadata: not valid JSON")


def test_json_fields_are_json_not_text():
    record = StructuredOutput(data={"a": [1, None]}, valid=True)
    [line] = to_json(records_to_batch([record], "structured_output"), "structured_output")
    assert json.loads(line)["data"] == {"a": [1, None]}
    trace = ToolCallTrace(tool="t", arguments={"q": "\u2028"}, result="text")
    batch = records_to_batch([trace], "tool_call_trace")
    assert from_json(to_json(batch, "tool_call_trace"), "tool_call_trace").equals(batch)


def test_a_line_is_one_line():
    batch = records_to_batch([Row(columns={"a": "x\ny\r\x00"}, metadata={"b": "\n"})], "row")
    [line] = to_json(batch)
    assert "\n" not in line
    assert from_json([line], "row").equals(batch)


def test_a_schema_keeps_the_types_of_further_columns():
    values = {
        "at": dt.datetime(2024, 5, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "naive": dt.datetime(2024, 5, 1, 2, 3, 4),  # noqa: DTZ001
        "day": dt.date(2024, 5, 1),
        "time": dt.time(1, 2, 3),
        "took": dt.timedelta(seconds=1.5),
        "price": Decimal("12.30"),
        "data": b"\xff\x00",
        "nested": [{"x": b"a", "y": None}],
    }
    batch = records_to_batch([Row(columns=values), Row(columns=dict.fromkeys(values))], "row")
    lines = to_json(batch)
    assert from_json(lines, "row", batch.schema).equals(batch)
    assert from_json(lines, "row").column("data").to_pylist() == ["/wA=", None]


def test_a_schema_refuses_what_is_not_base64():
    schema = records_to_batch([Row(columns={"a": b"x"})], "row").schema
    good = _line(a="eA==")
    with pytest.raises(DataError) as caught:
        from_json([good, _line(a="!")], "row", schema)
    assert caught.value.rows == {1: caught.value.rows[1]}
    assert caught.value.rows[1].startswith("a: not base64")


def test_vectors_of_lines_have_one_dimension():
    one = to_json(records_to_batch([Embedding(vector=[1, 2], model="m")], "embedding"), "embedding")
    two = to_json(records_to_batch([Embedding(vector=[1], model="m")], "embedding"), "embedding")
    with pytest.raises(DataError) as caught:
        from_json([*one, *two], "embedding")
    assert caught.value.rows[1].startswith("vector: ")


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"\xff\xff\xff\xff\x10\x00\x00\x00" + b"\0" * 64]
)
def test_bytes_that_are_not_ipc_are_refused(data):
    with pytest.raises(DataError, match="not an Arrow IPC stream"):
        from_ipc(data)


def test_cut_or_corrupted_ipc_is_refused_or_harmless():
    batch = records_to_batch([Row(columns={"a": "é" * 9})] * 3, "row")
    data = to_ipc(batch)
    for cut in range(0, len(data) - 16, 31):
        with pytest.raises(DataError):
            from_ipc(data[:cut])
    text = data.find("é".encode())
    with pytest.raises(DataError, match="UTF8"):
        from_ipc(data[:text] + b"\xff" + data[text + 1 :])
