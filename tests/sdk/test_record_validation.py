"""Validation names each bad record and its reason, and agrees with pydantic."""

from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from nvisy_dagster.sdk.arrow_schema import _model_shape, model_schema
from nvisy_dagster.sdk.constraints import mark_suspects
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.errors import DataError
from nvisy_dagster.sdk.identity import root_ids
from nvisy_dagster.sdk.primitives.types import Int32, MimeType
from nvisy_dagster.sdk.validation import validate

VALID = {
    "chunk": {"text": ["a"] * 4, "index": pa.array([0, 1, 2, 3], pa.int32())},
    "embedding": {
        "vector": pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.float32(), 2)),
        "model": ["m"] * 4,
    },
    "tool_call_trace": {
        "tool": ["search"] * 4,
        "arguments": ["{}"] * 4,
        "result": ["1", "null", None, '"x"'],
        "started_at": pa.array([0, 1, None, 2], pa.timestamp("us", "UTC")),
        "duration_seconds": [0.0, 1.5, None, 2],
    },
    "image": {
        "data": pa.array([b""] * 4, pa.large_binary()),
        "mime_type": ["image/png"] * 4,
        "width": pa.array([1, 2, None, 3], pa.int32()),
    },
    "fine_tune_sample": {
        "messages": pa.array(
            [[{"role": "user", "content": "hi"}]] * 4,
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        )
    },
}


def _batch(primitive, **columns):
    payload = pa.record_batch(VALID[primitive] | columns)
    places = np.arange(len(payload))
    return with_envelope(payload, ids=root_ids("x", places), uri="x", positions=places)


def _rows(batch, primitive, dimensions=None):
    with pytest.raises(DataError) as caught:
        validate(batch, primitive, dimensions)
    return caught.value.rows


def _replaced(batch, name, values):
    return batch.set_column(batch.schema.get_field_index(name), name, values)


@pytest.mark.parametrize("primitive", VALID)
def test_valid_batches_pass(primitive):
    validate(_batch(primitive), primitive)


VECTOR = pa.list_(pa.float32(), 2)
MESSAGES = VALID["fine_tune_sample"]["messages"].type
MOMENT = pa.timestamp("us", "UTC")


@pytest.mark.parametrize(
    ("primitive", "column", "values", "bad", "reason"),
    [
        ("chunk", "text", ["a", None, "a", None], {1, 3}, "text: Input should be a valid string"),
        (
            "chunk",
            "index",
            pa.array([0, 1, 2, -1], pa.int32()),
            {3},
            "index: Input should be greater than or equal to 0",
        ),
        (
            "chunk",
            "start",
            pa.array([None, -5, 2, 1], pa.int64()),
            {1},
            "start: Input should be greater than or equal to 0",
        ),
        (
            "image",
            "mime_type",
            ["image/png", "png", "a/b", "image/"],
            {1, 3},
            "mime_type: String should match pattern",
        ),
        ("tool_call_trace", "tool", ["a", "", "b", "c"], {1}, "tool: String should have at least"),
        (
            "tool_call_trace",
            "duration_seconds",
            [0.0, float("nan"), float("inf"), None],
            {1, 2},
            "duration_seconds: Input should be a finite number",
        ),
        (
            "tool_call_trace",
            "arguments",
            ["{}", "{", "[]", "{}"],
            {1, 2},
            "arguments: ",
        ),
        ("tool_call_trace", "result", ["1", "nope", None, "NaN"], {1, 3}, "result: not valid JSON"),
        (
            "tool_call_trace",
            "started_at",
            pa.array([0, 2**62, None, -(2**62)], MOMENT),
            {1, 3},
            "started_at: date value out of range",
        ),
        (
            "embedding",
            "vector",
            pa.array([[1, 2], [float("nan"), 1], [0, 0], [1, float("-inf")]], VECTOR),
            {1, 3},
            "vector[",
        ),
        (
            "embedding",
            "vector",
            pa.array([[1, 2], None, [None, 0], [1, 1]], VECTOR),
            {1, 2},
            "vector",
        ),
        (
            "fine_tune_sample",
            "messages",
            pa.array(
                [
                    [{"role": "user", "content": "a"}] * 3,
                    [{"role": "user", "content": "a"}, {"role": "robot", "content": "a"}],
                    [],
                    [{"role": "tool", "content": "a"}],
                ],
                MESSAGES,
            ),
            {1, 2},
            "messages",
        ),
    ],
)
def test_each_bad_record_is_named_with_its_reason(primitive, column, values, bad, reason):
    batch = _batch(primitive, **{column: values})
    rows = _rows(batch, primitive)
    assert set(rows) == bad
    assert all(text.startswith(reason) for text in rows.values()), rows
    # The same rows are named, by their new index, wherever the batch is cut.
    sliced = batch.slice(1)
    assert set(_rows(sliced, primitive)) == {row - 1 for row in bad}


def test_nested_reasons_have_a_path():
    messages = pa.array(
        [[{"role": "user", "content": "a"}, {"role": "robot", "content": None}]] * 4, MESSAGES
    )
    reason = _rows(_batch("fine_tune_sample", messages=messages), "fine_tune_sample")[0]
    assert "messages[1].role: Input should be 'system'" in reason
    assert "messages[1].content: Input should be a valid string" in reason


def test_values_are_not_repeated_in_reasons():
    rows = _rows(_batch("image", mime_type=["secret value"] * 4), "image")
    assert "secret" not in str(rows)


def test_the_message_tells_how_many_and_the_first():
    batch = _batch("chunk", index=pa.array([0, -1, -2, 3], pa.int32()))
    with pytest.raises(DataError, match=r"2 of 4 rows are not valid chunk records; row 1: index"):
        validate(batch, "chunk")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.drop_columns(["text"]), "text: the column is missing"),
        (lambda b: b.drop_columns(["_id"]), "_id: the column is missing"),
        (
            lambda b: _replaced(b, "index", pa.array([0, 1, 2, 3], pa.int64())),
            "index: expected int32, found int64",
        ),
        (
            lambda b: _replaced(b, "_id", b.column("_id").cast(pa.binary())),
            "_id: expected fixed_size_binary[16], found binary",
        ),
        (lambda b: b.append_column("text", b.column("text")), "text: the column is there 2 times"),
    ],
)
def test_wrong_columns_fail_every_row(change, reason):
    assert _rows(change(_batch("chunk")), "chunk") == dict.fromkeys(range(4), reason)


def test_wrong_dimensions_fail_every_row():
    rows = _rows(_batch("embedding"), "embedding", 3)
    assert rows == dict.fromkeys(range(4), "vector: expected 3 dimensions, found 2")
    validate(_batch("embedding"), "embedding", 2)


def test_lists_are_not_vectors():
    batch = _batch("embedding", vector=pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32())))
    assert "expected fixed_size_list<float>[2]" in _rows(batch, "embedding", 2)[0]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("_id", None, "_id: "),
        ("_root_id", None, "_root_id: "),
        ("_parent_ids", [None], "_parent_ids[0]: "),
        ("_source", {"uri": None, "position": 1}, "_source.uri: "),
        ("_tags", [None], "_tags[0]: "),
        ("_metadata", "[1]", "_metadata: Input should be a valid dictionary"),
        ("_metadata", "{", "_metadata: not valid JSON"),
    ],
)
def test_the_envelope_is_validated(column, value, reason):
    batch = _batch("chunk")
    values = batch.column(column).to_pylist()
    values[2] = value
    bad = _replaced(batch, column, pa.array(values, batch.schema.field(column).type))
    rows = _rows(bad, "chunk")
    assert list(rows) == [2]
    assert rows[2].startswith(reason)


def test_further_columns_and_missing_nullable_ones_are_fine():
    batch = _batch("chunk", extra=[float("nan")] * 4).drop_columns(["_tags"])
    validate(batch, "chunk")


def test_null_envelope_lists_are_fine_where_the_envelope_allows_them():
    batch = _replaced(_batch("chunk"), "_tags", pa.nulls(4, pa.list_(pa.string())))
    validate(batch, "chunk")


class Limits(BaseModel):
    """One field per kind of constraint."""

    model_config = ConfigDict(allow_inf_nan=False)

    ge: Annotated[int, Ge(-2)]
    gt: Annotated[int, Gt(-2)] | None
    le: Annotated[float, Le(2)]
    lt: Annotated[float | None, Lt(2)]
    small: Int32
    shortest: Annotated[str, Field(min_length=2)]
    longest: Annotated[str, StringConstraints(max_length=2)]
    content: Annotated[bytes, Field(min_length=1, max_length=2)]
    mime_type: MimeType | None
    word: Annotated[str, Field(pattern=r"^\w\W*$")]
    anywhere: Annotated[str, Field(pattern="[ab]c?")]
    choice: Literal["a", "b"]
    number: Literal[1, 2] | None
    even: Annotated[int, AfterValidator(lambda x: x if x % 2 == 0 else 1 / 0)] = 0
    items: Annotated[list[Annotated[int, Ge(0)]], Field(max_length=2)]


short = st.text("aébc/ 1!\n", max_size=4)
ROWS = st.lists(
    st.fixed_dictionaries({
        "ge": st.integers(-4, 4),
        "gt": st.none() | st.integers(-4, 4),
        "le": st.floats(width=32) | st.sampled_from([1.0, 2.0, 3.0]),
        "lt": st.none() | st.floats(-4, 4) | st.just(2.0),
        "small": st.none() | st.integers(-(2**31), 2**31 - 1),
        "shortest": short,
        "longest": st.none() | short,
        "content": st.binary(max_size=4),
        "mime_type": st.none() | short | st.just("a/b"),
        "word": short,
        "anywhere": short,
        "choice": st.none() | st.sampled_from(["a", "b", "c", ""]),
        "number": st.none() | st.integers(0, 3),
        "items": st.none() | st.lists(st.integers(-1, 3) | st.none(), max_size=3),
    }),
    min_size=1,
    max_size=6,
)


@given(rows=ROWS, start=st.integers(0, 2))
def test_columns_suspect_whatever_pydantic_refuses(rows, start):
    shapes = _model_shape(Limits).fields
    rows = rows[start:]
    schema = model_schema(Limits)
    for name in rows[0] if rows else ():
        # A slice, so that offsets of the array are honoured.
        padded = [*[row[name] for row in rows[:1]] * 3, *(row[name] for row in rows)]
        array = pa.array(padded, schema.field(name).type).slice(3)
        suspects = set()
        mark_suspects(array, shapes[name], lambda indexes, s=suspects: s.update(indexes.tolist()))
        for index, row in enumerate(rows):
            refused = _refuses(name, row[name])
            if refused:
                assert index in suspects, (name, row[name])
            elif name != "word":
                assert index not in suspects, (name, row[name])


def _refuses(name, value):
    try:
        Limits.__pydantic_validator__.validate_assignment(Limits.model_construct(), name, value)
    except ValidationError:
        return True
    return False


def test_a_function_that_arrow_cannot_run_makes_every_value_a_suspect():
    suspects = set()
    shape = _model_shape(Limits).fields["even"]
    mark_suspects(pa.array([2, 4, 5]), shape, lambda indexes: suspects.update(indexes.tolist()))
    assert suspects == {0, 1, 2}
