"""Hypothesis strategies for records of every primitive."""

import datetime as dt

from hypothesis import strategies as st

from nvisy_dagster.sdk.primitives import PRIMITIVE_MODELS, Message, Record, SourcePosition

DIMENSIONS = 3

texts = st.text(max_size=12)
names = st.text("abcdefgh_", min_size=1, max_size=8)
int32 = st.integers(0, 2**31 - 1)
int64 = st.integers(0, 2**63 - 1)
positive = st.integers(1, 2**31 - 1)
seconds = st.floats(0, allow_nan=False, allow_infinity=False)
moments = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=st.timezones())  # noqa: DTZ001
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)
mime_types = st.sampled_from(["image/png", "audio/x-wav", "text/plain; charset=utf-8"])
vectors = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    min_size=DIMENSIONS,
    max_size=DIMENSIONS,
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    content=texts,
)


def _maybe(strategy):
    return st.none() | strategy


ENVELOPE_FIELDS = {
    "id": st.uuids(),
    "parent_ids": st.lists(st.uuids(), max_size=3),
    "root_id": st.uuids(),
    "source": _maybe(
        st.builds(SourcePosition, uri=texts, position=_maybe(st.integers(-(2**63), 2**63 - 1)))
    ),
    "created_at": _maybe(moments),
    "tags": st.lists(texts, max_size=3),
    "metadata": json_objects,
}
PAYLOAD_FIELDS = {
    "document": {
        "text": texts,
        "title": _maybe(texts),
        "mime_type": _maybe(texts),
        "language": _maybe(texts),
    },
    "chunk": {
        "text": texts,
        "index": int32,
        "start": _maybe(int64),
        "end": _maybe(int64),
        "tokens": _maybe(int32),
    },
    "row": {},
    "blob": {"data": st.binary(max_size=20), "mime_type": _maybe(texts), "size": _maybe(int64)},
    "embedding": {
        "text": _maybe(texts),
        "vector": vectors,
        "model": texts,
        "tokens": _maybe(int32),
    },
    "completion": {
        "text": texts,
        "model": texts,
        "prompt": _maybe(texts),
        "finish_reason": _maybe(texts),
        "prompt_tokens": _maybe(int32),
        "completion_tokens": _maybe(int32),
    },
    "structured_output": {
        "data": json_values,
        "schema_name": _maybe(texts),
        "valid": st.booleans(),
        "error": _maybe(texts),
        "model": _maybe(texts),
    },
    "tool_call_trace": {
        "tool": st.text(min_size=1, max_size=5),
        "arguments": json_objects,
        "result": json_values,
        "error": _maybe(texts),
        "call_id": _maybe(texts),
        "started_at": _maybe(moments),
        "duration_seconds": _maybe(seconds),
    },
    "image": {
        "data": st.binary(max_size=20),
        "mime_type": mime_types,
        "width": _maybe(positive),
        "height": _maybe(positive),
        "caption": _maybe(texts),
    },
    "audio": {
        "data": st.binary(max_size=20),
        "mime_type": mime_types,
        "sample_rate": _maybe(positive),
        "channels": _maybe(positive),
        "duration_seconds": _maybe(seconds),
        "transcript": _maybe(texts),
    },
    "fine_tune_sample": {"messages": st.lists(messages, min_size=1, max_size=3)},
    "raw": {"data": st.binary(max_size=20), "encoding": _maybe(texts)},
}
# One type per column, as in a batch; the second column is not there in every record.
FURTHER_COLUMNS = st.fixed_dictionaries(
    {"id": st.integers(-(2**63), 2**63 - 1)}, optional={"Título": texts}
)


def records(primitive: str) -> st.SearchStrategy[Record]:
    return st.builds(
        PRIMITIVE_MODELS[primitive],
        **ENVELOPE_FIELDS,
        **PAYLOAD_FIELDS[primitive],
        columns=FURTHER_COLUMNS,
    )


def batches_of_records(primitive: str, min_size: int = 1) -> st.SearchStrategy[list[Record]]:
    return st.lists(records(primitive), min_size=min_size, max_size=4)
