"""Previews: what a person can read of any record."""

import datetime as dt

import pyarrow as pa
import pytest

from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.translator.locations import location_key
from nvisy_dagster.translator.names import dagster_name, dagster_names
from nvisy_dagster.translator.preview import LONGEST_TEXT, preview_table


def test_long_and_binary_values_are_shortened():
    vector = pa.FixedSizeListArray.from_arrays(pa.array([0.123456] * 384, pa.float32()), 384)
    batch = pa.record_batch({
        "_id": pa.array([bytes(16)], pa.binary(16)),
        "text": ["x" * 1000],
        "vector": vector,
        "data": pa.array([b"12345"], pa.large_binary()),
        "struct": [{"a": 1, "b": b"12"}],
        "when": [dt.datetime(2024, 5, 1, tzinfo=dt.UTC)],
        "nothing": pa.nulls(1, pa.string()),
        "words": [["a", "b"]],
        "whole": [7],
        "secret": ["the key is hunter22!"],
    })

    table = preview_table(batch, Redactor(["hunter22"]))

    (record,) = table.records
    assert list(record.data) == [*batch.schema.names[1:], "_id"]
    assert record.data == {
        "text": "x" * LONGEST_TEXT + "...",
        "vector": "[0.1235, 0.1235, 0.1235, 0.1235, ... 384 values]",
        "data": "5 bytes",
        "struct": '{"a": 1, "b": "2 bytes"}',
        "when": "2024-05-01T00:00:00+00:00",
        "nothing": "",
        "words": "[a, b]",
        "whole": "7",
        "secret": "the key is ***!",
        "_id": "00000000-0000-0000-0000-000000000000",
    }


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("s3://bucket/raw//docs/", ["s3:bucket", "raw", "docs"]),
        ("file:///home/me/my%20docs", ["file:", "home", "me", "my docs"]),
        ("qdrant://localhost:6333/docs", ["qdrant:localhost:6333", "docs"]),
        ("${env:URL}/docs", ["location:${env:URL}/docs"]),
        ("https://${env:HOST}/docs", ["https:${env:HOST}", "docs"]),
    ],
)
def test_locations_have_keys(uri: str, key: list[str]):
    assert location_key(uri).path == key


def test_names_are_clean_and_unique():
    assert dagster_name("a.b-c d") == "a_b_c_d"
    assert dagster_name("class") == "class_"
    assert list(dagster_names(["a-b", "a_b", "a.b", "a_b_2"]).values()) == [
        "a_b",
        "a_b_2",
        "a_b_3",
        "a_b_2_2",
    ]
