"""Byte order marks amid JSON lines, as there are where files were put together."""

import subprocess
import sys

import pytest
from bad_lines import places_of, rejected_in, rows_of
from object_records import drain

from nvisy_connectors.object.formats import jsonl_rows
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk import DataError

pytestmark = pytest.mark.anyio

BOM = b"\xef\xbb\xbf"
COLUMNS = [{}, {"columns": {"a": "int64", "b": "string"}}]
GOOD = [b'{"a": 1}', BOM + b'{"a": 2, "b": "x"}', BOM, BOM + b" \t", b'{"a": 3}']
REFUSED = [b" " + BOM + b'{"a": 1}', BOM + BOM + b'{"a": 1}', b'{"a": 1}' + BOM, BOM + b"null"]


@pytest.fixture(params=["compiled", "uncompiled"], autouse=True)
def way(request, monkeypatch):
    if request.param == "uncompiled":
        monkeypatch.setattr(jsonl_rows, "library", lambda: None)
    jsonl_rows.line_reader.cache_clear()
    yield
    jsonl_rows.line_reader.cache_clear()


def source(path, *, rejects=True, drift=None, **params):
    jsonl = {"jsonl": {"on_drift": drift}} if drift else {}
    found = LocalSourceParams(path=str(path), format="jsonl", **jsonl, **params)
    reader = LocalSource(found, node_id="read")
    reader.bad_records = "reject" if rejects else "raise"
    return reader


@pytest.mark.parametrize("drift", [None, "widen"])
@pytest.mark.parametrize("rejects", [True, False])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("count", [1, 3])
async def test_marks_before_lines_change_nothing(tmp_path, rejects, columns, count, drift):
    for number in range(count):
        (tmp_path / f"{number}.jsonl").write_bytes(BOM + b"\n".join(GOOD) + b"\n")
    batches = await drain(source(tmp_path, rejects=rejects, drift=drift, **columns))
    assert rejected_in(batches) == []
    found = [(row["a"], row["b"]) for row in rows_of(batches)]
    assert found == [(1, None), (2, "x"), (3, None)] * count
    assert [position for _, position in places_of(batches)] == [1, 2, 5] * count


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("line", REFUSED)
async def test_marks_elsewhere_make_bad_lines(tmp_path, line, place, columns):
    path = tmp_path / "x.jsonl"
    good = [b'{"a": 1, "b": "x"}', BOM + b'{"a": 2, "b": "y"}', b'{"a": 3}']
    path.write_bytes(b"\n".join([*good[:place], line, *good[place:]]))
    if place == 0:
        path.write_bytes(BOM + path.read_bytes())
    batches = await drain(source(path, **columns))
    assert [row["a"] for row in rows_of(batches)] == [1, 2, 3]
    assert [one.position for one in rejected_in(batches)] == [place + 1]
    with pytest.raises(DataError, match=f"line {place + 1} "):
        await drain(source(path, rejects=False, **columns))


NULLS = """
import pyarrow as pa
from nvisy_connectors.object.formats.jsonl_parse import infer_lines, parse
from nvisy_connectors.object.formats.line_blocks import Block
data = bytearray({data!r})
block = Block(None, 9, 9 + len(data), 2, data)
for call in (
    lambda: infer_lines([data]),
    lambda: parse(block, pa.schema({{"a": pa.int64()}}), declared=True),
):
    try:
        call()
    except pa.ArrowInvalid:
        print("refused")
"""


@pytest.mark.parametrize("data", [BOM + b"null", BOM + b" \nnull\n", BOM + b"\n" + BOM + b"null"])
def test_no_null_behind_a_mark_kills_the_process(data):
    made = subprocess.run(
        [sys.executable, "-c", NULLS.format(data=data)], capture_output=True, text=True, check=False
    )
    assert (made.returncode, made.stdout) == (0, "refused\nrefused\n"), made.stderr
