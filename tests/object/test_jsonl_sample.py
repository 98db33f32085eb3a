"""The schema of a sample some lines of which are bad."""

import json
from unittest import mock

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats import jsonl_sample
from nvisy_connectors.object.formats.line_blocks import Block

scalars = st.sampled_from([None, 1, 2.5, -3, "text", "2024-01-02", True, 1 << 40, "é"])
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from("xy"), scalars)
rows = st.dictionaries(st.sampled_from(["a", "b", "c", "long name"]), values, max_size=4)
lines = rows.map(lambda row: json.dumps(row).encode()) | st.sampled_from([b"", b"oops", b'{"a": '])


def inferred(data: list[bytes]) -> pa.Schema | str:
    text = bytearray(b"\n".join(data) + b"\n")
    block = Block(ObjectInfo("k", len(text), "v", None), 0, len(text), 1, text)
    try:
        return jsonl_sample.infer_leniently([block])
    except (jsonl_sample.NoSchemaError, pa.ArrowInvalid) as error:
        return type(error).__name__


@settings(max_examples=300, deadline=None)
@given(st.lists(lines, max_size=12), st.lists(rows, min_size=1, max_size=3), st.integers(0, 400))
def test_a_few_lines_tell_what_all_would_tell(mixed, alike, few_bytes):
    # Rows that are alike first: then a few of them are often enough.
    data = [json.dumps(row).encode() for row in alike * 4] + mixed
    with mock.patch.object(jsonl_sample, "FEW_BYTES", few_bytes):
        found = inferred(data)
    with mock.patch.object(jsonl_sample, "_told_by_few", return_value=None):
        assert found == inferred(data)
