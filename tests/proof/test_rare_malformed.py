"""One malformed line in a million: exactly that one is a dead letter, all others are written."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pytest

from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.run import run_plan

LINES = 1_000_000
"""Records of each of two files."""

Line = Callable[[int], bytes]


def json_line(key: int) -> bytes:
    return b'{"key": %d, "text": "record %d, \xc3\xbc", "score": %d.5}' % (key, key, key % 100)


def csv_line(key: int) -> bytes:
    return b'%d,"record %d, \xc3\xbc",%d.5' % (key, key, key % 100)


FORMATS: dict[str, tuple[bytes, Line, tuple[bytes, bytes], dict[str, Any]]] = {
    "jsonl": (
        b"",
        json_line,
        (b'{"key": 2, "text": "record', b'{"key": 1700000, "text": ["x"], "score": 0.5}'),
        {},
    ),
    "jsonl, declared": (
        b"",
        json_line,
        (b"\xff\xfe", b'{"key": 1700000, "text": "x", "score": 1e999}'),
        {"columns": {"key": "int64", "text": "string", "score": "float64"}},
    ),
    "csv": (
        b"key,text,score\n",
        csv_line,
        (b'2,"record" 2,1.5', b"1700000,x,0.5,more"),
        {},
    ),
}
"""Header, line of a key, two bad lines, and params."""


def lines_of(line: Line, keys: range, bad: dict[int, bytes]) -> Iterator[bytes]:
    for key in keys:
        yield bad.get(key) or line(key)


@pytest.mark.soak
@pytest.mark.parametrize("kind", FORMATS)
def test_the_letters_are_exactly_the_two_of_two_million(tmp_path: Path, kind: str) -> None:
    """One in the first block of the first file, one deep in the second."""
    header, line, wrong, params = FORMATS[kind]
    form = kind.partition(",")[0]
    bad = dict(zip((2, 1_700_000), wrong, strict=True))
    expected: list[tuple[str, int, int, bytes]] = []
    (tmp_path / "in").mkdir()
    for number, keys in enumerate((range(LINES), range(LINES, 2 * LINES))):
        path = tmp_path / "in" / f"{number}.{form}"
        path.write_bytes(header + b"\n".join(lines_of(line, keys, bad)) + b"\n")
        for key, raw in bad.items():
            if key in keys:
                before = sum(len(line(one)) + 1 for one in range(keys.start, key))
                at = key - keys.start + 1 + bool(header)
                expected.append((path.as_uri(), at, len(header) + before, raw))
    found = run(tmp_path, {"path": "in", "format": form, **params})
    assert found == expected
    rows = f"read_parquet('{tmp_path}/out/*.parquet')"
    sums = "count(*), count(DISTINCT key), sum(key), "
    sums += "count(*) FILTER (text = 'record ' || key || ', ü' AND score = key % 100 + 0.5)"
    every = 2 * LINES
    assert duckdb.sql(f"SELECT {sums} FROM {rows}").fetchall() == [
        (every - 2, every - 2, every * (every - 1) // 2 - sum(bad), every - 2)
    ]


def run(folder: Path, params: dict[str, Any]) -> list[tuple[str, int, int, bytes]]:
    """Files into Parquet; returns file, line, byte and bytes of each dead letter."""
    document = {
        "name": "rare",
        "nodes": [
            {"id": "read", "type": "source", "connector": "local", "params": params,
             "on_error": "dead_letter"},
            {"id": "out", "type": "sink", "connector": "local",
             "params": {"path": "out", "format": "parquet"}},
        ],
        "edges": [{"from": "read", "to": "out"}],
    }  # fmt: skip
    plan = compile_document(document, folder=folder)
    result = anyio.run(lambda: run_plan(plan, {}, storage=folder / "state"))
    assert result.metrics["read"].counts.dead == 2
    box = DeadLetterBox(folder / "state", "rare")
    records = [row["record"] for _, batch in box.read(box.letters()) for row in batch.to_pylist()]
    return sorted(
        (one["_source"]["uri"], one["_source"]["position"], json.loads(one["_metadata"])["byte"],
         one["data"])
        for one in records
    )  # fmt: skip
