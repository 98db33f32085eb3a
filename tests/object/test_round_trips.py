"""What is written of any primitive, in any format, is what is read again."""

import base64
import json
import tempfile
from datetime import UTC, datetime

import anyio
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain

from nvisy_connectors.object.local import LocalSink, LocalSinkParams, LocalSource, LocalSourceParams
from nvisy_dagster.sdk import Progress
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.edge_type import PRIMITIVES
from nvisy_dagster.sdk.envelope import payload, payload_schema, with_envelope
from nvisy_dagster.sdk.identity import root_ids

ROW = pa.schema({
    "id": pa.int64(),
    "small": pa.uint8(),
    "ok": pa.bool_(),
    "price": pa.decimal128(12, 2),
    "x": pa.float64(),
    "at": pa.timestamp("us", "UTC"),
    "text": pa.string(),
    "tags": pa.list_(pa.string()),
    "in": pa.struct({"n": pa.int32(), "of": pa.list_(pa.struct({"z": pa.float64()}))}),
})
"""Rows have any columns."""

FORMATS = ("jsonl", "csv", "parquet", "arrow")
TEXTS = st.text(max_size=12)


def values(kind):  # noqa: PLR0911 - one for each kind
    """Values of a type, null not among them."""
    types = pa.types
    if types.is_integer(kind):
        unsigned = types.is_unsigned_integer(kind)
        most = 2 ** (kind.bit_width - (not unsigned))
        return st.integers(0 if unsigned else -most, most - 1)
    if types.is_floating(kind):
        return st.floats(width=kind.bit_width, allow_nan=False, allow_infinity=False)
    if types.is_decimal(kind):
        return st.decimals(-(10**9), 10**9, places=kind.scale)
    if types.is_timestamp(kind):
        first, last = datetime(1700, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001 - the zone is below
        return st.datetimes(first, last, timezones=st.just(UTC))
    if types.is_struct(kind):
        return st.fixed_dictionaries({field.name: of(field) for field in kind})
    if types.is_fixed_size_list(kind):
        return st.lists(values(kind.value_type), min_size=3, max_size=3)
    if types.is_list(kind):
        return st.lists(of(kind.value_field), max_size=3)
    return {pa.string(): TEXTS, pa.bool_(): st.booleans()}.get(kind, st.binary(max_size=12))


def of(field):
    """Values of a field."""
    return st.none() | values(field.type) if field.nullable else values(field.type)


@st.composite
def records(draw, schema):
    count = draw(st.integers(1, 5))
    row = st.fixed_dictionaries({field.name: of(field) for field in schema})
    return draw(st.lists(row, min_size=count, max_size=count))


def is_binary(kind):
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def told(kind, form):
    """The type that a source of text is told: what it has no form for is text."""
    if is_binary(kind) or (form == "csv" and pa.types.is_nested(kind)):
        return "string"
    if pa.types.is_fixed_size_list(kind):
        return f"list<{kind.value_type}>"
    return str(kind).replace(" not null", "").replace("tz=", "")


def expected(value, kind, form):
    """What is read of a value."""
    if value is None or form not in {"jsonl", "csv"}:
        return value
    if is_binary(kind):
        return base64.b64encode(value).decode()
    return value


async def again(batch, schema, form):
    """What a source reads of what a sink wrote."""
    columns = {field.name: told(field.type, form) for field in schema}
    options = {"csv": {"columns": columns}, "jsonl": {"columns": columns}}.get(form, {})
    with tempfile.TemporaryDirectory() as folder:
        plain = {"csv": {"neutralize_formulas": False, "nested": "json"}} if form == "csv" else {}
        params = LocalSinkParams(path=folder, format=form, envelope=False, **plain)
        async with LocalSink(params, node_id="write") as sink:
            await sink.start(Progress("run", 0))
            await sink.write(batch)
            await sink.commit(1)
        found = await drain(
            LocalSource(LocalSourceParams(path=folder, format=form, **options), node_id="read")
        )
    return [row for batch in found for row in payload(batch.data).to_pylist()]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("primitive", sorted(PRIMITIVES))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_written_is_read_again(primitive, form, data):
    schema = ROW if primitive == "row" else payload_schema(schema_of(primitive, 3))
    rows = data.draw(records(schema))
    columns = pa.RecordBatch.from_pylist(rows, schema)
    positions = np.arange(len(rows))
    batch = with_envelope(
        columns, ids=root_ids("test:rows", positions), uri="test:rows", positions=positions
    )
    found = anyio.run(again, batch, schema, form)
    for row in found:
        for field in schema:
            if form == "csv" and pa.types.is_nested(field.type) and row[field.name] is not None:
                row[field.name] = json.loads(row[field.name])
    wanted = [
        {field.name: expected(row[field.name], field.type, form) for field in schema}
        for row in columns.to_pylist()
    ]
    assert found == wanted
