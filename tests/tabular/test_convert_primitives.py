"""`convert`: records of another primitive."""

import pyarrow as pa
import pytest
from conversions import convert, refused_rows
from tabular_batches import batch_of

from nvisy_connectors.tabular.convert import Convert, ConvertParams
from nvisy_dagster.sdk import PRIMITIVES, ConfigError, EdgeType
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import payload

TEXT = {"text": ["a", "b"]}
DATA = {"data": [b"a", b"b"], "mime_type": ["a/b", None], "size": [1, 1]}
NUMBERS = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))


@pytest.mark.parametrize(
    ("before", "columns", "to", "fields", "made"),
    [
        ("row", {"body": ["a"], "n": [1]}, "document", {"text": "body"}, {"text": "a", "n": 1}),
        ("row", {"n": [7]}, "document", {"text": "n * 2", "title": "'T'"}, {"text": "14", "n": 7}),
        ("document", TEXT, "row", {}, {"text": "a"}),
        ("document", TEXT, "chunk", {}, {"text": "a", "index": 0}),
        ("document", TEXT, "blob", {}, {"data": b"a", "size": 1}),
        ("document", TEXT, "raw", {}, {"data": b"a", "encoding": "utf-8"}),
        ("blob", DATA, "document", {}, {"text": "a", "mime_type": "a/b", "title": None}),
        ("raw", {"data": [b"a"]}, "document", {}, {"text": "a"}),
        ("image", {"data": [b"a"], "caption": ["c"]}, "document", {}, {"text": "c"}),
        ("embedding", {"vector": NUMBERS}, "row", {}, {"vector": [1.0, 2.0]}),
        (
            "row",
            {"vector": NUMBERS, "id": [1, 2]},
            "embedding",
            {"model": "'m'"},
            {"vector": [1.0, 2.0], "model": "m", "id": 1, "tokens": None},
        ),
        (
            "completion",
            {"prompt": ["q"], "text": ["a"], "model": ["m"]},
            "fine_tune_sample",
            {},
            {
                "messages": [
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a"},
                ],
                "model": "m",
            },
        ),
        (
            "row",
            {"d": [{"a": 1}], "ok": [True]},
            "structured_output",
            {"data": "d", "valid": "ok"},
            {"data": '{"a":1}', "valid": True},
        ),
    ],
)
def test_records_of_one_primitive_become_those_of_another(before, columns, to, fields, made):
    batch = batch_of(columns)
    found = convert(batch, before, to=to, fields=fields)
    row = payload(found).to_pylist()[0]
    assert made.items() <= row.items()
    # A column that became a field is not there twice.
    assert not {"body", "size", "caption", "d"} & (row.keys() - set(schema_of(to, 2).names))
    # A record of another primitive is another record, made of the one that came.
    assert found.column("_parent_ids").to_pylist() == [[i] for i in batch["_id"].to_pylist()]
    assert found.column("_root_id").equals(batch.column("_root_id"))
    assert not set(found["_id"].to_pylist()) & set(batch["_id"].to_pylist())


@pytest.mark.parametrize("to", PRIMITIVES)
def test_every_primitive_can_be_made_of_a_row(to):
    batch = batch_of({
        "text": ["a"],
        "data": pa.array([b"a"], pa.large_binary()),
        "mime_type": ["image/png"],
        "vector": NUMBERS.slice(0, 1),
        "prompt": ["q"],
        "messages": [[{"role": "user", "content": "q"}]],
    })
    needed = {
        "embedding": {"model": "'m'"},
        "completion": {"model": "'m'"},
        "structured_output": {"data": "'{}'", "valid": "true"},
        "tool_call_trace": {"tool": "'t'", "arguments": "'{}'"},
        "fine_tune_sample": {"messages": "messages"},
    }
    assert convert(batch, to=to, fields=needed.get(to, {})).num_rows == 1


def test_records_that_are_none_of_the_primitive_fail_by_themselves():
    batch = batch_of({"data": [b"a", b"\xff", None, b"d"], "n": ["1", "2", "3", "x"]})
    told = refused_rows(batch, to="document", columns={"n": "INTEGER"})
    assert list(told) == [1, 2, 3]
    assert "invalid UTF8" in told[1]
    assert told[2].startswith("text: ")
    assert told[3].startswith("column 'n': ")


@pytest.mark.parametrize(
    ("params", "message", "place"),
    [
        ({"to": "document"}, "nothing says what 'text' of a document is made of", ("fields",)),
        ({"to": "document", "fields": {"txt": "x"}}, "did you mean 'text'", ("fields", "txt")),
        ({"to": "row", "fields": {"a": "x"}}, 'add columns with a "map"', ("fields", "a")),
        (
            {"to": "document", "fields": {"text": "lower(nope)"}},
            "there is no column 'nope' (at character 7)",
            ("fields", "text"),
        ),
        (
            {"to": "embedding", "fields": {"vector": "[x]", "model": "'m'"}},
            'say it with "dimensions"',
            ("dimensions",),
        ),
        (
            {"to": "embedding", "fields": {"vector": "v", "model": "'m'"}, "dimensions": 3},
            "has 2 dimensions, not 3",
            ("dimensions",),
        ),
        (
            {"to": "chunk", "fields": {"text": "'a'", "index": "[1]"}},
            "it gives list<item: int32>, and 'index' is int32",
            ("fields", "index"),
        ),
        (
            {"to": "document", "fields": {"text": "(SELECT 1)"}},
            "subqueries are not allowed",
            ("fields", "text"),
        ),
    ],
)
def test_what_no_record_can_become_is_told_before_the_run(params, message, place):
    batch = batch_of({"x": [1, 2], "v": NUMBERS})
    with pytest.raises(ConfigError) as refused:
        Convert(ConvertParams.model_validate(params)).output(EdgeType("row", batch.schema))
    assert message in str(refused.value)
    assert refused.value.place == place


def test_a_column_of_a_primitive_that_changes_makes_rows_of_its_records():
    batch = batch_of({"text": ["1"], "n": ["2"]})

    def after(**columns):
        action = Convert(ConvertParams.model_validate({"columns": columns}))
        return action.output(EdgeType("document", batch.schema)).primitive

    assert after(n="INTEGER") == after(text="VARCHAR") == "document"
    assert after(text="INTEGER") == "row"
