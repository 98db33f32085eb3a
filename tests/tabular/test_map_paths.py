"""`map` over JSON text and structs."""

from typing import Any

import pyarrow as pa
import pytest
from tabular_batches import batch_of
from tabular_calls import mapped

TEXTS = ['{"a": {"b": [{"p": 1.5}, {"p": 2}]}, "n": null, "x y": "5"}', "{}", None]


@pytest.mark.parametrize(
    ("expression", "kind", "values"),
    [
        ("j ->> '$.a.b[0].p'", pa.string(), ["1.5", None, None]),
        ("(j ->> '$.a.b[1].p')::INTEGER", pa.int32(), [2, None, None]),
        ("(j ->> '$.a.b[*].p')::DOUBLE[]", pa.list_(pa.float64()), [[1.5, 2.0], [], None]),
        ("j ->> 'x y'", pa.string(), ["5", None, None]),
        ("(j ->> '$.\"x y\"')::TINYINT", pa.int8(), [5, None, None]),
        ("json_exists(j, '$.n')", pa.bool_(), [True, False, None]),
        ("s.a.b", pa.int64(), [1, None, None]),
        ("to_json(s) ->> '$.a.b'", pa.string(), ["1", None, None]),
    ],
)
def test_paths(expression: str, kind: pa.DataType, values: list[Any]):
    batch = batch_of({"j": TEXTS, "s": [{"a": {"b": 1}}, {"a": None}, None]})
    column = mapped(batch, set={"v": expression}, select=["v"]).column("v")
    assert column.type.equals(kind)
    assert column.to_pylist() == values


def test_columns_are_taken_out_of_json_text_and_replace_it():
    batch = batch_of({"id": [1], "payload": ['{"name": "Ana", "age": 7}']})
    made = mapped(
        batch,
        set={"name": "payload ->> '$.name'", "age": "(payload ->> '$.age')::INTEGER"},
        drop=["payload"],
        rename={"id": "key"},
    )
    assert made.select(["key", "name", "age"]).to_pylist() == [{"key": 1, "name": "Ana", "age": 7}]
    assert "payload" not in made.schema.names
