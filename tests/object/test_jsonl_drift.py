"""Lines of JSON that do not fit the columns that were settled before them."""

import datetime as dt
import json

import pytest
from bad_lines import rejected_in, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain, lines
from pydantic import ValidationError

from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats import jsonl_rows
from nvisy_connectors.object.formats.jsonl_drift import rescuer, widened
from nvisy_connectors.object.formats.jsonl_parse import infer_lines
from nvisy_connectors.object.formats.jsonl_salvage import salvage
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk import ConfigError, DataError

pytestmark = pytest.mark.anyio

RESCUED = "_rescued_data"
EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
GOOD = {"id": 1, "price": 1.5, "name": "tea", "at": None, "in": {"a": 1}, "tags": [{"t": 1}]}
DRIFTED = [
    ({"id": 1, "new": {"x": [1.10, None]}}, {"id": 1}, {"new": {"x": [1.1, None]}}),
    ({"id": 2.5, "price": 2}, {"price": 2.0}, {"id": 2.5}),
    ({"id": "x", "name": "ü"}, {"name": "ü"}, {"id": "x"}),
    ({"id": 2**63}, {}, {"id": 2**63}),
    ({"id": 1, "in": {"a": 2, "b": 3}}, {"id": 1, "in": {"a": 2}}, {"in": {"b": 3}}),
    ({"in": {"a": "z"}}, {"in": {"a": None}}, {"in": {"a": "z"}}),
    ({"in": 5, "name": None}, {}, {"in": 5}),
    ({"id": 3, "at": 5}, {"id": 3}, {"at": 5}),
    (
        {"tags": [{"t": 1, "u": 2}, 7, {"t": 3}]},
        {"tags": [{"t": 1}, None, {"t": 3}]},
        {"tags": [{"t": 1, "u": 2}, 7, {"t": 3}]},
    ),
]


def source(path, *, rejects=True, **params):
    read = LocalSource(LocalSourceParams(path=str(path), format="jsonl", **params), node_id="read")
    read.bad_records = "reject" if rejects else "raise"
    return read


def drifting(drift, **more):
    return {"jsonl": {"on_drift": drift, "sample_bytes": 1000}, "batch_bytes": 900, **more}


def made(path, *values):
    """A file of which the sample shows only good lines."""
    path.write_bytes(lines([GOOD] * 50) + lines(values))
    return path


def whole(fits):
    return dict.fromkeys(GOOD) | fits


def rescued(rows):
    return [row[RESCUED] and json.loads(row[RESCUED]) for row in rows]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("rejects", [True, False])
async def test_widening_keeps_what_fits_and_the_rest_as_json(
    tmp_path, monkeypatch, compiled, rejects
):
    if not compiled:
        monkeypatch.setattr(jsonl_rows, "is_compiled", lambda: False)
    jsonl_rows.line_reader.cache_clear()
    path = made(tmp_path / "x.jsonl", *(line for line, _, _ in DRIFTED), GOOD)
    batches = await drain(source(path, rejects=rejects, **drifting("widen")))
    jsonl_rows.line_reader.cache_clear()
    rows = rows_of(batches)
    assert rejected_in(batches) == []
    assert rescued(rows) == [None] * 50 + [rest for _, _, rest in DRIFTED] + [None]
    kept = [{name: row[name] for name in GOOD} for row in rows]
    assert kept == [GOOD] * 50 + [whole(fits) for _, fits, _ in DRIFTED] + [GOOD]
    positions = [p for b in batches for p in b.data.column("_source").field("position").to_pylist()]
    assert positions == list(range(1, 52 + len(DRIFTED)))


async def test_text_comes_where_the_sample_had_only_nulls(tmp_path):
    path = made(tmp_path / "x.jsonl", {"at": "now"})
    [*_, last] = rows_of(await drain(source(path, **drifting("widen"))))
    assert last == whole({"at": "now"}) | {RESCUED: None}


async def test_numbers_are_rescued_as_they_were_written(tmp_path):
    text = '{"n":12345678901234567890.12345,"m":[1.50000000000000000000001,123456789012345678901]}'
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines([GOOD] * 50) + text.encode() + b"\n")
    [*_, last] = rows_of(await drain(source(path, **drifting("widen"))))
    assert last[RESCUED] == text


@pytest.mark.parametrize(
    "line", [b'{"id": 1', b'{"new": "\\ud800"}', b'{"new": NaN}', b'{"new": 1, "new": 2}', b"[1]"]
)
async def test_what_is_no_json_is_still_a_bad_line(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines([GOOD] * 50) + line + b"\n" + lines([GOOD, {"new": 1}]))
    batches = await drain(source(path, **drifting("widen")))
    assert [(one.position, one.data) for one in rejected_in(batches)] == [(51, line)]
    assert rescued(rows_of(batches)) == [None] * 51 + [{"new": 1}]
    with pytest.raises(DataError, match=r"x\.jsonl, line 51 "):
        await drain(source(path, rejects=False, **drifting("widen")))


DECLARED = {
    "id": "int64",
    "at": "timestamp[us, UTC]",
    "cost": "decimal(6, 2)",
    "in": "struct<a: int8>",
}


async def test_declared_columns_ignore_other_fields_and_rescue_values(tmp_path):
    values = [
        {"id": "one", "at": "2026-01-01T00:00:00Z", "new": 1},
        {"id": 2, "at": "yesterday", "cost": 1.25, "in": {"a": 300, "b": 1}},
        {"id": 3, "cost": 1.125},
    ]
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(values))
    read = source(path, columns=DECLARED, **drifting("widen"))
    [batch] = await drain(read)
    assert batch.data.schema.equals(read.output().schema)
    rows = rows_of([batch])
    assert rescued(rows) == [{"id": "one"}, {"at": "yesterday", "in": {"a": 300}}, {"cost": 1.125}]
    assert [row["id"] for row in rows] == [None, 2, 3]
    assert rows[0]["at"].year == 2026
    assert str(rows[1]["cost"]) == "1.25"


json_scalars = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3)
)
json_values = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abt"), inner),
    max_leaves=5,
)
objects = st.dictionaries(st.sampled_from([*GOOD, "new", "other"]), json_values, max_size=4)


def filled(value):
    """A value without the fields that are null."""
    if isinstance(value, dict):
        return {name: filled(one) for name, one in value.items() if one is not None}
    return value


def together(fits, rest):
    """What fits, with the rest put back."""
    if isinstance(fits, dict) and isinstance(rest, dict):
        return {
            name: together(fits[name], rest[name])
            if name in fits and name in rest
            else rest.get(name, fits.get(name))
            for name in [*fits, *rest]
        }
    return rest


def known_in_lists(value):
    """A list of what was read has a null for each field of the sample that there was not."""
    return [filled(one) for one in value] if isinstance(value, list) else value


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(objects, min_size=1, max_size=6), place=st.integers(0, 5))
async def test_nothing_is_lost_and_a_read_goes_on_from_anywhere(tmp_path, values, place):
    path = made(tmp_path / "x.jsonl", *values)
    batches = await drain(source(path, batch_rows=2, **drifting("widen")))
    assert rejected_in(batches) == []
    rows = rows_of(batches)
    for row, value in zip(rows[50:], values, strict=True):
        rest = json.loads(row.pop(RESCUED) or "{}")
        fits = {name: known_in_lists(one) for name, one in filled(row).items()}
        found = together(fits, rest)
        wanted = {name: one if name in rest else known_in_lists(one) for name, one in value.items()}
        assert filled(found) == filled(wanted) or _but_empty(found) == _but_empty(wanted)
    at = len(batches) - 1 - min(place, len(batches) - 1)
    rest = await drain(source(path, batch_rows=3, **drifting("widen")), batches[at].cursor)
    assert [row for batch in rest for row in batch.data.to_pylist()] == [
        row for batch in batches[at + 1 :] for row in batch.data.to_pylist()
    ]


def salvaged(schema, data, *, compiled):
    """What a block holds: the rows by their lines, with what was rescued, and the bad lines."""
    block = Block(ObjectInfo("x", len(data), "1", EPOCH), 0, len(data), 1, bytearray(data))
    jsonl_rows.line_reader.cache_clear()
    jsonl_rows.line_reader(schema, declared=False).makes_rows = compiled
    made = rescuer(schema, declared=False)(salvage(block, schema, declared=False, rescues=True))
    jsonl_rows.line_reader.cache_clear()
    rows = made.rows.to_pylist()
    for row in rows:
        row[RESCUED] = row[RESCUED] and json.loads(row[RESCUED])
    return dict(zip(made.numbers.tolist(), rows, strict=True)), {
        bad.line.number: bad.drifted for bad in made.bad
    }


raw_lines = st.one_of(
    objects.map(lambda value: json.dumps(value, ensure_ascii=False).encode()),
    objects.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([
        b'{"id": 1.0}',
        b'{"id": 1e2, "new": [ 1 , { } ] }',
        b'{"id": -0.5, "in": {"a": {"q": 1}, "z": {}}, "more": "\\ud83d\\ude00"}',
        b'{"in": {"a": 1, "b": [{"c": "}"}]}, "id": "\\""}',
        b'{"new": 1, "new": 2}',
        b'{"new": "\\ud800"}',
        b'{"\\u0069d": 5}',
        b'{"new": NaN}',
        b'{"new": 01}',
        b'{"new": tru}',
        b'{"id": "x", "id": 2}',
        b'{"in": {"x": 1}, "tags": [{"u": 1}], "y": 2}',
        b'{"price": 123456789012345678901234567890, "id": 9223372036854775808}',
        b"{" + b",".join(b'"f%d": %d' % (i, i) for i in range(30)) + b"}",
        b'{"in": {"b": 1}, "in": 5}',
        b"{}",
        b"oops",
        b"",
    ]),
)


@settings(max_examples=70, deadline=None)
@given(found=st.lists(raw_lines, max_size=8))
def test_the_compiled_reader_rescues_what_the_other_one_does(found):
    schema = widened(infer_lines([json.dumps(GOOD).encode()]))
    data = b"\n".join(found)
    assert repr(salvaged(schema, data, compiled=True)) == repr(
        salvaged(schema, data, compiled=False)
    )


def _but_empty(value):
    """Without objects that hold nothing: all of their fields are elsewhere, or were null."""
    if isinstance(value, dict):
        held = {name: _but_empty(one) for name, one in value.items()}
        return {name: one for name, one in held.items() if one not in ({}, None)}
    return value


async def test_failing_at_drift_names_all_and_bad_lines_do_not_fail(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines([GOOD] * 50) + b"oops\n" + lines([GOOD]))
    batches = await drain(source(path, **drifting("fail")))
    assert [one.position for one in rejected_in(batches)] == [51]
    start = path.stat().st_size
    path.write_bytes(path.read_bytes() + lines([{"in": {"a": "z"}}]))
    with pytest.raises(DataError) as caught:
        await drain(source(path, **drifting("fail")))
    place = f"{path.as_uri()}, line 53 (byte {start}): "
    assert f"{place}field 'in.a' is a text, and the column is int64" in str(caught.value)
    assert "`columns`" in str(caught.value)
    assert '"on_drift": "widen"' in str(caught.value)
    assert caught.value.tag == "drift"


@pytest.mark.parametrize("drift", [None, "dead_letter"])
async def test_a_drifting_line_is_a_bad_one_with_its_place(tmp_path, drift):
    (tmp_path / "a").mkdir()
    made(tmp_path / "a" / "1.jsonl")
    (tmp_path / "a" / "2.jsonl").write_bytes(lines([GOOD, {"id": 0.5}, GOOD]))
    batches = await drain(source(tmp_path / "a", **drifting(drift)))
    [bad] = rejected_in(batches)
    assert bad.uri.endswith("2.jsonl")
    assert (bad.position, bad.data, bad.tag) == (2, b'{"id": 0.5}', "drift")
    assert "field 'id' is a number, and the column is int64" in bad.reason
    assert len(rows_of(batches)) == 52


async def test_a_larger_sample_shows_more(tmp_path):
    path = made(tmp_path / "x.jsonl", {"id": 0.5, "new": 1})
    [*_, last] = rows_of(await drain(source(path, jsonl={"sample_bytes": 10_000}, batch_bytes=900)))
    assert (last["id"], last["new"]) == (0.5, 1)


async def test_the_name_of_the_column_is_taken(tmp_path):
    path = made(tmp_path / "x.jsonl")
    path.write_bytes(lines([{RESCUED: "{}"}]))
    with pytest.raises(ConfigError, match=r"_rescued_data.*on_drift"):
        await drain(source(path, **drifting("widen")))
    assert rows_of(await drain(source(path))) == [{RESCUED: "{}"}]
    with pytest.raises(ConfigError, match=r"_rescued_data.*on_drift"):
        source(path, columns={RESCUED: "string"}, jsonl={"on_drift": "widen"}).output()


def test_jsonl_options_go_with_jsonl():
    with pytest.raises(ValidationError, match=r"`jsonl` does not go with format 'csv'"):
        LocalSourceParams(path="x", format="csv", jsonl={"on_drift": "fail"})
