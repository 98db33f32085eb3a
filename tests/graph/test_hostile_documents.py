"""Documents that want to break the reader: each gives one clear error, quickly."""

import os
import time
from pathlib import Path

import pytest

from nvisy_dagster.compiler import compile_document, compile_file
from nvisy_dagster.graph.connections import load_connections
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import build_graph, load_graph, parse_graph

DEEP = 100_000

# document, part of the first error's text
HOSTILE = {
    "deep arrays": (b"[" * DEEP, "nested deeper"),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested deeper"),
    "deep and closed": (b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested deeper"),
    "a little too deep": (b'{"a":' + b"[" * 101 + b"]" * 101 + b"}", "nested deeper"),
    "NaN": (b'{"nodes": [{"id": NaN}]}', "$.nodes[0].id: NaN is not JSON"),
    "Infinity": (b'{"a": -Infinity}', "$.a: -Infinity is not JSON"),
    "1e999": (b'{"a": [1e999]}', "$.a[0]: the number 1e999 is out of range"),
    "duplicate key": (b'{"nodes":[{"id":"a","id":"b"}]}', '$.nodes[0].id: the key "id" is here'),
    "surrogate": (b'{"a":"\\ud800"}', "$.a: half of a surrogate pair (\\ud800)"),
    "surrogate key": (b'{"\\udfff":1}', "$: half of a surrogate pair (\\udfff) in a key"),
    "long integer": (b'{"a":' + b"9" * 5000 + b"}", "$.a: an integer of 5,000 digits"),
    "2**63": (b'{"a":9223372036854775808}', "$.a: an integer of 19 digits does not fit 64 bits"),
    "50 MB": (b'{"a":"' + b"x" * 50_000_000 + b'"}', "larger than the limit of 16 MiB"),
    "BOM": (b"\xef\xbb\xbf{}", "starts with a UTF-8 byte order mark"),
    "UTF-16": ("{}".encode("utf-16"), "starts with a UTF-16 byte order mark"),
    "not UTF-8": (b'{"a":\n "\xff"}', "line 2, column 3: byte 0xff is not valid UTF-8"),
    "NUL": (b'{"a":\x00}', "line 1, column 6: a NUL byte"),
    "escaped NUL": (b'{"a":"\\u0000"}', "$.a: a NUL character"),
    "array": (b"[]", "a graph should be an object, not an array"),
    "string": (b'"x"', "a graph should be an object, not a string"),
    "empty": (b"", "the document is empty"),
    "blank": (b" \n\t", "the document is empty"),
    "cut off": (b'{"nodes":[{"id":"a"', "the document ends too early"),
    # Where and how it is told depends on the version of Python.
    "comma at the end": (b'{"a":1,\n}', ": not JSON: "),
    "comment": (b'{\n// x\n"a":1}', "line 2, column 1: not JSON: expected a key in double quotes"),
    "single quotes": (b"{'a':1}", "line 1, column 2: not JSON: expected a key in double quotes"),
    "two documents": (b"{} {}", "line 1, column 4: not JSON: the document ends before this"),
    "raw newline": (b'{"a":"\n"}', "a raw control character in a string"),
    "bad escape": (b'{"a":"\\x"}', "an escape that JSON does not know"),
    "too many nodes": (b'{"nodes":[' + b"0," * 100_001 + b"0]}", "$.nodes: should have at most"),
    "too many values": (b'{"a":[' + b"0," * 1_000_001 + b"0]}", "$: more than 1,000,000 values"),
    "too many keys": (
        b"{" + b",".join(b'"k%d":0' % i for i in range(5000)) + b"}",
        "$: should have at most 1,000 entries",
    ),
    "long words": (b'{"nodes":[{"id":"' + b"a" * 10**7 + b'","type":"x"}]}', 'unknown type "x"'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_gives_a_clear_error_quickly(name):
    document, expected = HOSTILE[name]
    start = time.process_time()
    with pytest.raises(GraphErrors) as caught:
        parse_graph(document)
    assert expected in str(caught.value.errors[0])
    assert time.process_time() - start < 4.0
    assert len(str(caught.value)) < 20_000


def test_the_deepest_allowed_document_is_only_wrong_in_what_it_says():
    with pytest.raises(GraphErrors, match="unknown key"):
        parse_graph(b'{"a":' + b"[" * 99 + b"]" * 99 + b"}")


def test_text_is_taken_as_well_as_bytes():
    with pytest.raises(GraphErrors, match="half of a surrogate pair"):
        parse_graph('{"a":"\ud800"}')
    with pytest.raises(GraphErrors, match="byte order mark"):
        parse_graph("\ufeff{}")


def test_every_unfit_value_is_reported_at_once():
    with pytest.raises(GraphErrors) as caught:
        parse_graph(b'{"a":[NaN,1,{"b":1e999}],"c":1,"c":2,"d":"\\ud800"}')
    assert [error.path for error in caught.value.errors] == ["$.c", "$.d", "$.a[0]", "$.a[2].b"]


def test_a_value_that_json_has_not_is_refused():
    with pytest.raises(GraphErrors, match="a set is not JSON"):
        build_graph({"nodes": {1}})
    with pytest.raises(GraphErrors, match="a key that is not a string"):
        build_graph({1: 2})


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(GraphErrors, match="No such file"):
        load_graph(tmp_path / "none.json")
    with pytest.raises(GraphErrors, match="it is a folder"):
        load_graph(tmp_path)


def test_a_large_file_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(GraphErrors, match="larger than the limit"):
        load_graph(tmp_path / "large.json")


@pytest.mark.parametrize("read", [load_graph, load_connections])
def test_what_never_ends_is_not_read(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(GraphErrors, match="it is a pipe, a device or a socket"):
            read(path)


def test_links_that_lead_in_a_circle_are_told(tmp_path):
    (tmp_path / "a.json").symlink_to("b.json")
    (tmp_path / "b.json").symlink_to("a.json")
    with pytest.raises(GraphErrors, match="links lead in a circle"):
        compile_file(tmp_path / "a.json")


def test_a_huge_key_does_not_fill_the_screen():
    with pytest.raises(GraphErrors) as caught:
        build_graph({"nodes": [{"id": "a", "type": "source", "connector": "c"}], "k" * 10**6: 1})
    assert len(str(caught.value)) < 500
    with pytest.raises(GraphErrors) as caught:
        compile_document({
            "nodes": [
                {"id": "s", "type": "source", "connector": "local", "params": {"path": "a"}},
                {
                    "id": "f",
                    "type": "action",
                    "action": "filter",
                    "params": {"where": "x" * 19_000},
                },
                {"id": "o", "type": "sink", "connector": "local", "params": {"path": "o"}},
            ],
            "edges": [{"from": "s", "to": "f"}, {"from": "f", "to": "o"}],
        })
    assert len(str(caught.value)) < 1000
