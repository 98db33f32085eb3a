"""The conformance suites, over the real disk and servers of every store, in every format."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_records import lines, rows
from object_servers import connection_to

from nvisy_connectors.object.azure import AzureSink, AzureSource
from nvisy_connectors.object.gcs import GcsSink, GcsSource
from nvisy_connectors.object.local import LocalSink, LocalSinkParams, LocalSource, LocalSourceParams
from nvisy_connectors.object.s3 import S3Sink, S3SinkParams, S3Source, S3SourceParams
from nvisy_dagster.sdk import EdgeType
from nvisy_dagster.sdk.testing import SinkConformance, SourceConformance

NAMES = ["a.md", "b c.txt", "sub-x.md", "sub/x.md", "sub/ü.md", "sub.md", "z/z/z.md"]


def contents(kind: str) -> dict[str, bytes]:
    """Files of a format, an empty one among them."""
    if kind in {"text", "binary"}:
        return {name: f"text of {name}".encode() * 5 for name in NAMES} | {"empty.md": b""}
    found = {}
    for place, name in enumerate(NAMES):
        values = [{"n": place * 100 + i, "name": f"ü{i}", "in": {"a": [i]}} for i in range(5)]
        if kind == "jsonl":
            found[name] = lines(values)
        else:
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(values), file, row_group_size=2)
            found[name] = file.getvalue()
    return found | ({"empty.jsonl": b""} if kind == "jsonl" else {})


KINDS = ["text", "binary", "jsonl", "parquet"]


def kinds(*now: str) -> list[object]:
    """All formats, of which these are tried each time; the others go through the same code."""
    return [one if one in now else pytest.param(one, marks=pytest.mark.soak) for one in KINDS]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


class TestLocalSource(SourceConformance):
    component = LocalSource

    @pytest.fixture
    def params(self, tmp_path, kind):
        for name, data in contents(kind).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return LocalSourceParams(path=str(tmp_path), format=kind, batch_bytes=64, batch_rows=2)


class TestLocalSourceWithinBlocks(SourceConformance):
    """Batches that end within a block of lines, so that cursors count rows in it."""

    component = LocalSource

    @pytest.fixture
    def params(self, tmp_path):
        for name, data in contents("jsonl").items():
            (tmp_path / name.replace("/", "-")).write_bytes(data)
        return LocalSourceParams(path=str(tmp_path), format="jsonl", batch_rows=3)


class BucketSourceConformance(SourceConformance):
    """Of the stores that `servers.stores` runs."""

    store = ""

    @pytest.fixture(params=kinds("jsonl"))
    def kind(self, request):
        return request.param

    @pytest.fixture
    def at(self, request):
        return request.getfixturevalue(f"{self.store}_store")

    @pytest.fixture
    def connection(self, at):
        return at.connection()

    @pytest.fixture
    def params(self, at, place, kind):
        for name, data in list(contents(kind).items())[2:6]:
            at.client.put(f"{place}/{name}", data)
        kwargs = {"prefix": f"{place}/", "format": kind, "batch_bytes": 64, "batch_rows": 2}
        return self.component.params_type(**kwargs)


class TestGcsSource(BucketSourceConformance):
    component = GcsSource
    store = "gcs"


class TestAzureSource(BucketSourceConformance):
    component = AzureSource
    store = "azure"


class TestS3Source(SourceConformance):
    component = S3Source

    @pytest.fixture(params=kinds("jsonl", "parquet"))
    def kind(self, request):
        return request.param

    @pytest.fixture
    def connection(self, s3_server):
        return connection_to(s3_server)

    @pytest.fixture
    def params(self, s3, place, kind):
        for name, data in list(contents(kind).items())[2:6]:
            s3.put(f"{place}/{name}", data)
        return S3SourceParams(prefix=f"{place}/", format=kind, batch_bytes=64, batch_rows=2)


def parsed(kind: str, data: bytes) -> list[dict]:
    """Rows of one part."""
    if kind in {"text", "binary"}:
        return [{"text": data.decode()}]
    if kind == "parquet":
        return pq.read_table(io.BytesIO(data)).to_pylist()
    return [json.loads(line) for line in data.splitlines()]


def parts_of(folder: Path, kind: str) -> list[dict]:
    """Rows of all parts in a folder."""
    files = sorted(folder.glob("part-*"))
    return [row for file in files for row in parsed(kind, file.read_bytes())]


class ObjectSinkConformance(SinkConformance):
    keeps_other_runs = False

    @pytest.fixture
    def rows(self, kind):
        made = rows()
        if kind != "binary":
            return made
        data = [text.encode() for text in made["text"].to_pylist()]
        return made.append_column("data", pa.array(data, pa.large_binary()))

    def key(self, row):
        return row["text"]

    def refused(self, rows):
        return [EdgeType("row", pa.schema(list(rows.schema)[:7]))]


class TestLocalSink(ObjectSinkConformance):
    component = LocalSink

    @pytest.fixture
    def params(self, tmp_path, kind):
        return LocalSinkParams(path=str(tmp_path / "new" / "folder"), format=kind)

    async def read_back(self, params, connection):
        return parts_of(Path(params.path), params.format)


class TestLocalSinkAppending(TestLocalSink):
    keeps_other_runs = True

    @pytest.fixture
    def params(self, tmp_path, kind):
        return LocalSinkParams(path=str(tmp_path), format=kind, mode="append", part_bytes=100)


class OverNetworkSink(ObjectSinkConformance):
    @pytest.fixture(params=kinds("jsonl", "binary"))
    def kind(self, request):
        return request.param


class BucketSinkConformance(OverNetworkSink):
    """Of the stores that `servers.stores` runs."""

    store = ""

    @pytest.fixture
    def connection(self, request):
        self.at = request.getfixturevalue(f"{self.store}_store")
        return self.at.connection()

    @pytest.fixture
    def params(self, place, kind):
        return self.component.params_type(prefix=place, format=kind)

    async def read_back(self, params, connection):
        found = self.at.objects(params.prefix).values()
        return [row for data in found for row in parsed(params.format, data)]


class TestGcsSink(BucketSinkConformance):
    component = GcsSink
    store = "gcs"


class TestAzureSink(BucketSinkConformance):
    component = AzureSink
    store = "azure"


class TestS3Sink(OverNetworkSink):
    component = S3Sink

    @pytest.fixture
    def connection(self, s3_server, s3):
        self.s3 = s3
        return connection_to(s3_server)

    @pytest.fixture
    def params(self, place, kind):
        return S3SinkParams(prefix=place, format=kind)

    async def read_back(self, params, connection):
        keys = sorted(o["path"] for page in self.s3.list(prefix=params.prefix) for o in page)
        found = [bytes(self.s3.get(key).bytes()) for key in keys]
        return [row for data in found for row in parsed(params.format, data)]
