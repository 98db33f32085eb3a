"""Objects as they are: blobs."""

import os

import pytest
from object_records import drain
from pydantic import ValidationError

from nvisy_connectors.object.formats.media_types import type_of
from nvisy_connectors.object.local import LocalSink, LocalSinkParams, LocalSource, LocalSourceParams
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType, Progress
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import payload

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


def source(path, **params):
    return LocalSource(LocalSourceParams(path=str(path), format="binary", **params), node_id="read")


async def test_blobs_are_the_files_with_type_and_size(tmp_path):
    contents = {
        "a.pdf": b"%PDF-1.7 ...",
        "b.docx": b"PK\x03\x04 not really",
        "c": PNG,
        "d": os.urandom(1000),
        "empty.bin": b"",
        "sub/e.tar.gz": b"\x1f\x8b",
    }
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    batches = await drain(source(tmp_path, batch_rows=2))
    rows = [row for batch in batches for row in batch.data.to_pylist()]
    found = {row["_source"]["uri"].removeprefix(f"file://{tmp_path}/"): row for row in rows}
    assert {name: row["data"] for name, row in found.items()} == contents
    assert all(row["size"] == len(row["data"]) for row in rows)
    assert {name: row["mime_type"] for name, row in found.items()} == {
        "a.pdf": "application/pdf",
        "b.docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "c": "image/png",
        "d": None,
        "empty.bin": "application/octet-stream",
        "sub/e.tar.gz": "application/gzip",
    }
    assert batches[0].data.schema.equals(source(tmp_path).output().schema)


def test_types_do_not_depend_on_the_machine():
    assert type_of("x.MD", b"") == "text/markdown"
    assert type_of("noext", b"%PDF-1.4") == "application/pdf"
    assert type_of("weird.unknownending", b"plain words") is None


async def test_a_large_object_is_refused_unread(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x" * 100)
    (tmp_path / "b.bin").write_bytes(b"x" * 101)
    with pytest.raises(DataError, match=r"b.bin has 101 bytes; a blob may have 100") as caught:
        await drain(source(tmp_path, max_object_bytes=100))
    assert caught.value.tag == "too_large"
    assert "max_object_bytes" in caught.value.remedy
    reading = source(tmp_path, max_object_bytes=100)
    reading.bad_records = "reject"
    (batch,) = await drain(reading)
    assert payload(batch.data).to_pylist() == [
        {"data": b"x" * 100, "mime_type": "application/octet-stream", "size": 100}
    ]
    assert [(bad.tag, bad.data) for bad in batch.rejected] == [("too_large", None)]


def test_params_that_contradict():
    with pytest.raises(ValidationError, match="does not go with format 'parquet'"):
        LocalSourceParams(path="x", format="parquet", max_object_bytes=5)
    with pytest.raises(ValidationError, match="a blob has its own"):
        LocalSourceParams(path="x", format="binary", columns=["data"])
    with pytest.raises(ValidationError, match="a file has no columns"):
        LocalSinkParams(path="x", format="binary", envelope=True)


async def test_blobs_are_copied_byte_for_byte(tmp_path):
    (tmp_path / "in").mkdir()
    contents = [os.urandom(size) for size in (0, 1, 70_000)]
    for number, data in enumerate(contents):
        (tmp_path / "in" / f"{number}.bin").write_bytes(data)
    params = LocalSinkParams(path=str(tmp_path / "out"), format="binary")
    async with LocalSink(params, node_id="out") as sink:
        await sink.start(Progress("run", 0))
        for batch in await drain(source(tmp_path / "in")):
            await sink.write(batch.data)
        await sink.commit(1)
        await sink.finish()
    written = [path.read_bytes() for path in (tmp_path / "out").glob("*.bin")]
    assert sorted(written) == sorted(contents)


def test_a_sink_wants_the_column_data(tmp_path):
    sink = LocalSink(LocalSinkParams(path=str(tmp_path), format="binary"))
    with pytest.raises(ConfigError, match="no column 'data' of type binary"):
        sink.check(EdgeType("document", schema_of("document")))
    sink.check(EdgeType("blob", schema_of("blob")))
