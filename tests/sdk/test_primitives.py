"""The primitives: models, their schemas, and the ways from one form to another and back."""

import datetime as dt
import json
from typing import Annotated, Literal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError
from record_strategies import DIMENSIONS, PAYLOAD_FIELDS, batches_of_records

from nvisy_dagster.sdk.arrow_schema import columns_of, model_schema, schema_of
from nvisy_dagster.sdk.edge_type import PRIMITIVES
from nvisy_dagster.sdk.envelope import ENVELOPE
from nvisy_dagster.sdk.errors import ConfigError, DataError
from nvisy_dagster.sdk.primitives import PRIMITIVE_MODELS, Chunk, Document, Embedding, Row
from nvisy_dagster.sdk.primitives.types import Arrow
from nvisy_dagster.sdk.records import (
    batch_to_records,
    record_to_row,
    records_to_batch,
    row_to_record,
)
from nvisy_dagster.sdk.serialization import from_ipc, from_json, to_ipc, to_json
from nvisy_dagster.sdk.validation import validate

every_primitive = pytest.mark.parametrize("primitive", PRIMITIVES)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_there_is_one_model_per_primitive_in_the_same_order():
    assert tuple(PRIMITIVE_MODELS) == PRIMITIVES


@every_primitive
def test_every_field_and_model_is_documented(primitive):
    model = PRIMITIVE_MODELS[primitive]
    assert model.__doc__
    undocumented = [name for name, info in model.model_fields.items() if not info.description]
    assert not undocumented or undocumented == ["columns"]


@every_primitive
def test_strategies_cover_every_field(primitive):
    payload = set(columns_of(primitive)) - set(ENVELOPE.names)
    assert payload == set(PAYLOAD_FIELDS[primitive])


@every_primitive
def test_schema_is_envelope_then_payload(primitive):
    schema = schema_of(primitive, DIMENSIONS)
    assert pa.schema(list(schema)[: len(ENVELOPE)]) == ENVELOPE
    assert set(schema.names[len(ENVELOPE) :]) == set(PAYLOAD_FIELDS[primitive])


def test_models_of_the_envelope_fit_its_arrow_schema():
    batch = records_to_batch([Row(tags=["a"], metadata={"b": 1})], "row")
    assert batch.schema == ENVELOPE
    validate(batch, "row")


def test_fixed_payload_columns():
    def payload(primitive, dimensions=None):
        fields = list(schema_of(primitive, dimensions))[len(ENVELOPE) :]
        return {f.name: (f.type, f.nullable) for f in fields}

    assert payload("chunk") == {
        "text": (pa.string(), False),
        "index": (pa.int32(), False),
        "start": (pa.int64(), True),
        "end": (pa.int64(), True),
        "tokens": (pa.int32(), True),
    }
    assert payload("blob") == {
        "data": (pa.large_binary(), False),
        "mime_type": (pa.string(), True),
        "size": (pa.int64(), True),
    }
    assert payload("embedding", 384) == {
        "text": (pa.string(), True),
        "vector": (pa.list_(pa.float32(), 384), False),
        "model": (pa.string(), False),
        "tokens": (pa.int32(), True),
    }


@pytest.mark.parametrize("dimensions", [None, 0, -1])
def test_schema_of_vectors_needs_their_dimension(dimensions):
    with pytest.raises(ConfigError, match="number of dimensions"):
        schema_of("embedding", dimensions)


def test_schema_of_any_model():
    class Inner(BaseModel):
        small: Annotated[int, Arrow(pa.int16())] | None

    class Outer(BaseModel):
        color: Literal["red", "blue"]
        at: dt.datetime
        inner: list[Inner]
        extra: dict[str, int] | None = None

    inner = pa.struct([pa.field("small", pa.int16())])
    assert model_schema(Outer) == pa.schema([
        pa.field("color", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("inner", pa.list_(pa.field("item", inner, nullable=False)), nullable=False),
        pa.field("extra", pa.string()),
    ])


def test_schema_of_a_model_names_the_field_that_cannot_be_stored():
    class Odd(BaseModel):
        either: Annotated[int | str, Field(description="x")]

    with pytest.raises(TypeError, match=r"Odd\.either: no Arrow type"):
        model_schema(Odd)


@every_primitive
@given(data=st.data())
@FEW
def test_models_survive_arrow_ipc_and_json(primitive, data):
    records = data.draw(batches_of_records(primitive))
    batch = records_to_batch(records, primitive)
    filled = {name: None for r in records for name in r.columns}
    expected = [r.model_copy(update={"columns": filled | r.columns}) for r in records]

    validate(batch, primitive, DIMENSIONS)
    assert batch_to_records(batch, primitive) == expected
    assert from_ipc(to_ipc(batch)).equals(batch, check_metadata=True)
    again = from_json(to_json(batch, primitive), primitive)
    assert batch_to_records(again, primitive) == expected
    assert again.schema == batch.schema
    for record in records:
        model = type(record)
        assert model.model_validate_json(record.model_dump_json()) == record
        assert row_to_record(record_to_row(record), primitive) == record


@every_primitive
@given(data=st.data())
@FEW
def test_slices_survive_too(primitive, data):
    records = data.draw(batches_of_records(primitive, min_size=2))
    batch = records_to_batch(records, primitive)
    part = batch.slice(1)
    validate(part, primitive, DIMENSIONS)
    assert batch_to_records(part, primitive) == batch_to_records(batch, primitive)[1:]
    assert to_json(part, primitive) == to_json(batch, primitive)[1:]
    assert from_ipc(to_ipc(part)).equals(part)


@every_primitive
def test_a_batch_may_be_empty(primitive):
    batch = records_to_batch([], primitive, schema_of(primitive, DIMENSIONS))
    validate(batch, primitive, DIMENSIONS)
    assert batch_to_records(batch, primitive) == []
    assert to_json(batch, primitive) == []
    assert from_json([], primitive, batch.schema).equals(batch)
    assert from_ipc(to_ipc(batch)).equals(batch)


def test_a_record_gets_an_id_and_is_its_own_root():
    one, two = Row(), Row()
    assert one.id != two.id
    assert one.root_id == one.id


def test_times_are_stored_in_utc_and_need_a_zone():
    there = dt.datetime(2024, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert Row(created_at=there).created_at == dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    with pytest.raises(ValidationError, match="timezone"):
        Row(created_at=dt.datetime(2024, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValidationError, match="out of range in UTC"):
        Row(created_at=dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=1))))


@pytest.mark.parametrize("name", ["_id", "text"])
def test_further_columns_cannot_hide_those_of_the_primitive(name):
    with pytest.raises(ValidationError, match=f"'{name}' is a column of every document"):
        Document(text="a", columns={name: 1})


def test_a_user_column_may_be_named_like_a_field_of_the_envelope():
    batch = records_to_batch([Row(columns={"id": 7, "source": "x", "columns": 1})], "row")
    assert batch.column("id").to_pylist() == [7]
    assert batch_to_records(batch, "row")[0].columns == {"id": 7, "source": "x", "columns": 1}


@pytest.mark.parametrize("vector", [[], [float("nan")], [1e39], [float("inf")]])
def test_a_vector_is_finite_in_32_bits_and_not_empty(vector):
    with pytest.raises(ValidationError, match="vector"):
        Embedding(vector=vector, model="m")


def test_vectors_of_one_batch_have_one_dimension():
    records = [Embedding(vector=[1.0] * size, model="m") for size in (2, 2, 3)]
    with pytest.raises(DataError) as caught:
        records_to_batch(records, "embedding")
    assert list(caught.value.rows) == [2]
    assert caught.value.rows[2].startswith("vector: ")


def test_a_misfit_among_further_columns_is_named():
    records = [Row(columns={"a": value}) for value in (1, "x", 2, "\ud800")]
    with pytest.raises(DataError) as caught:
        records_to_batch(records, "row")
    assert set(caught.value.rows) == {1, 3}
    assert all(reason.startswith("a: ") for reason in caught.value.rows.values())


def test_records_of_another_primitive_are_refused():
    with pytest.raises(TypeError, match="a row record cannot be in a batch of chunk"):
        records_to_batch([Row()], "chunk")


def test_the_json_form_is_readable():
    record = Chunk(
        id="00000000-0000-0000-0000-000000000001",
        text="é",
        index=0,
        created_at=dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC),
        metadata={"page": 3},
    )
    [line] = to_json(records_to_batch([record], "chunk"), "chunk")
    assert json.loads(line) == {
        "_id": "00000000-0000-0000-0000-000000000001",
        "_parent_ids": [],
        "_root_id": "00000000-0000-0000-0000-000000000001",
        "_source": None,
        "_created_at": "2024-01-02T03:00:00Z",
        "_tags": [],
        "_metadata": {"page": 3},
        "text": "é",
        "index": 0,
        "start": None,
        "end": None,
        "tokens": None,
    }
    assert "é" in line


@pytest.mark.parametrize("name", ["_id", "_root_id"])
def test_a_row_without_an_id_does_not_silently_get_a_new_one(name):
    batch = records_to_batch([Row()], "row").drop_columns([name])
    with pytest.raises(DataError) as caught:
        batch_to_records(batch, "row")
    assert caught.value.rows[0].startswith(f"{name}: ")


def test_reasons_of_one_row():
    row = record_to_row(Chunk(text="a", index=0)) | {"text": None, "index": -1}
    with pytest.raises(DataError, match="not a valid chunk record") as caught:
        row_to_record(row, "chunk")
    assert "text: " in caught.value.rows[0]
    assert "index: " in caught.value.rows[0]
