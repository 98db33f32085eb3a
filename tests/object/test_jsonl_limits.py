"""What is read without Arrow, where it is long, wide or deep."""

import json

import pyarrow as pa
import pytest
from test_jsonl_rows import SCHEMA, kinds, table

from nvisy_connectors.object.formats import jsonl_rows
from nvisy_connectors.object.formats.jsonl_rows import ROW, SUSPECT, LineReader


def test_texts_of_any_length_have_room():
    texts = ["a", "b" * 63, "c" * 200, "d" * 3_000_000, "e" * 65, ""]
    made = [json.dumps({"text": text, "tags": [text, text]}).encode() for text in texts]
    reader = LineReader(SCHEMA, declared=True)
    for some in (made[3:], made):
        rows = reader.read(table(some))[1].select(["text", "tags"])
        assert rows.to_pylist() == list(map(json.loads, some))


def test_more_fields_than_are_kept_count_of():
    schema = pa.schema({f"f{number}": pa.int64() for number in range(1100)})
    first, late = ({f"f{number}": number for number in some} for some in (range(1024), [1024]))
    made = [json.dumps(value).encode() for value in (first, {}, late, first | late)]
    found, rows = LineReader(schema, declared=False).read(table(made))
    assert found.tolist() == [ROW, ROW, SUSPECT, SUSPECT]
    assert rows.to_pylist() == [dict.fromkeys(schema.names) | value for value in (first, {})]


@pytest.mark.parametrize("mark", [b"[", b'{"a":'])
def test_what_is_nested_deep_is_left_to_judgement(mark):
    deep = b'{"other": ' + mark * 1_000_000
    assert kinds([deep], declared=True) == [SUSPECT]
    assert LineReader(SCHEMA, declared=False).read(table([deep]), rescues=True)[0] == [SUSPECT]


def test_more_other_fields_than_are_told_apart():
    others = {f"n{number}": number for number in range(17)}
    few, many = (json.dumps(dict(list(others.items())[:some])).encode() for some in (16, 17))
    twice = many[:-1] + b', "n16": 0}'
    lines = table([few, many, twice])
    found, rows = LineReader(SCHEMA, declared=False).read(lines, rescues=True)
    assert found.tolist() == [ROW, SUSPECT, SUSPECT]
    assert json.loads(rows.column("_rescued_data")[0].as_py()) == dict(list(others.items())[:16])


def test_memory_for_unusually_long_texts_is_not_kept(monkeypatch):
    monkeypatch.setattr(jsonl_rows, "KEPT_BYTES", 10_000)
    reader = LineReader(SCHEMA, declared=False)
    reader.read(table([b'{"text": "short"}']))
    assert len(reader._scratch) == 1
    reader.read(table([b'{"text": "%b"}' % (b"x" * 20_000)]))
    assert not reader._scratch
