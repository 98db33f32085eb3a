"""CSV as it is written, and read back."""

import csv
import datetime as dt
import decimal
import io
import json
from contextlib import closing

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from object_records import drain, rows
from object_servers import connection_to

from nvisy_connectors.object.formats.csv_writer import CsvWriter
from nvisy_connectors.object.local import LocalSink, LocalSinkParams, LocalSource, LocalSourceParams
from nvisy_connectors.object.params import WriteParams
from nvisy_connectors.object.s3 import S3Sink, S3SinkParams, S3Source, S3SourceParams
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType
from nvisy_dagster.sdk.envelope import payload
from nvisy_dagster.sdk.testing import SinkConformance, SourceConformance

DATA = b'n,name\n1,"a\nb"\n2,"x, ""y"""\n\n3,\xc3\xbc\r\n4,"\n\n"\n5,z'


def written(path, batch, **options):
    with closing(CsvWriter(path, batch.schema, WriteParams(format="csv", csv=options))) as writer:
        writer.write(batch)
    return path.read_bytes()


def batch_of(**columns):
    return pa.RecordBatch.from_pydict(columns)


TYPES = {
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint8": (pa.uint8(), st.integers(0, 255)),
    "float64": (pa.float64(), st.floats(allow_nan=False)),
    "float32": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.text(st.characters(codec="utf-8"), max_size=9)),
    "date": (pa.date32(), st.dates(dt.date(1, 1, 1))),
    "time": (pa.time64("us"), st.times()),
    "decimal(10, 2)": (pa.decimal128(10, 2), st.decimals("-9999", "9999", places=2)),
    "timestamp[us]": (pa.timestamp("us"), st.datetimes()),
    "timestamp[ns]": (pa.timestamp("ns"), st.integers(-(2**62), 2**62)),
    "timestamp[us, UTC]": (
        pa.timestamp("us", "UTC"),
        st.datetimes(timezones=st.just(dt.UTC)),
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", TYPES)
async def test_what_is_written_is_read_back(tmp_path_factory, kind):
    arrow, values = TYPES[kind]
    seen = []

    @settings(max_examples=25, deadline=None, database=None)
    @given(
        found=st.lists(values | st.none(), min_size=1, max_size=12),
        quoting=st.sampled_from(["needed", "all"]),
        delimiter=st.sampled_from([",", ";", "\t", "|", ":", " "]),
        line_end=st.sampled_from(["\n", "\r\n"]),
        null_value=st.sampled_from(["", "NULL"]),
        bom=st.booleans(),
    )
    def collect(found, **options):
        seen.append((found, options))

    collect()
    for found, options in seen:
        column = pa.array(found, arrow)
        batch = batch_of(a=column, b=column)
        path = tmp_path_factory.mktemp("x") / "x.csv"
        written(path, batch, neutralize_formulas=False, **options)
        reading = {"delimiter": options["delimiter"], "null_values": [options["null_value"]]}
        reading |= {"quote": '"', "escape": ""}
        params = LocalSourceParams(
            path=str(path), format="csv", columns=dict.fromkeys("ab", kind), csv=reading
        )
        batches = await drain(LocalSource(params, node_id="read"))
        back = pa.concat_batches([payload(one.data) for one in batches])
        assert back.equals(batch), (options, back.to_pydict(), batch.to_pydict())


@given(
    values=st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=2,
                             max_size=2), max_size=9)
)  # fmt: skip
@settings(deadline=None)
def test_python_reads_what_is_written(tmp_path_factory, values):
    columns = batch_of(a=[v[0] for v in values], b=pa.array([v[1] for v in values], pa.string()))
    path = tmp_path_factory.getbasetemp() / "x.csv"
    text = written(path, columns, neutralize_formulas=False).decode()
    text = text.replace("\0", "?")  # which older ones cannot read
    wanted = [[value.replace("\0", "?") for value in row] for row in values]
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == wanted


def test_formulas_are_neutralized(tmp_path):
    texts = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", "\rx", "a=1", "-12.5", "+49", "-", "'=1"]
    batch = batch_of(**{"=name": texts, "n": [-1.5] * len(texts)})
    found = list(csv.reader(io.StringIO(written(tmp_path / "x", batch).decode(), newline="")))
    assert found[0] == ["'=name", "n"]
    safe = ["'=1+1", "'+1+1", "'-1+1", "'@SUM(A1)", "'\tx", "'\rx", *texts[6:9], "'-", "'=1"]
    assert found[1:] == [[text, "-1.5"] for text in safe]
    raw = written(tmp_path / "x", batch, neutralize_formulas=False).decode()
    assert [row[0] for row in csv.reader(io.StringIO(raw, newline=""))] == ["=name", *texts]


def test_other_types(tmp_path):
    batch = batch_of(
        binary=[b"\0\xff", None],
        span=pa.array([dt.timedelta(seconds=1.5), None]),
        word=pa.array(["=a", None]).dictionary_encode(),
        price=[decimal.Decimal("1.50"), None],
        tags=[["ü", None], None],
        none=pa.nulls(2),
    )
    data = written(tmp_path / "x", batch, nested="json").decode()
    assert data.splitlines() == [
        "binary,span,word,price,tags,none",
        'AP8=,1.5,"\'=a",1.50,' + '"[""ü"",null]",',
        ",,,,,",
    ]
    assert written(tmp_path / "x", batch_of(a=["x", None])) == b'a\nx\n""\n'
    vectors = batch_of(v=pa.array([[1.0], [float("nan")], [2.0]], pa.list_(pa.float32(), 1)))
    with pytest.raises(DataError) as caught:
        written(tmp_path / "x", vectors, nested="json")
    assert list(caught.value.rows) == [1]
    assert (tmp_path / "x").stat().st_size


def test_nested_columns_are_refused_before_the_run(tmp_path):
    incoming = EdgeType("row", rows().schema)
    sink = LocalSink(LocalSinkParams(path=str(tmp_path), format="csv"), node_id="write")
    with pytest.raises(ConfigError, match=r"column 'tags' is list.* one value") as caught:
        sink.check(incoming)
    assert '"nested": "json"' in caught.value.remedy
    options = {"nested": "json"}
    params = LocalSinkParams(path=str(tmp_path), format="csv", csv=options, envelope=True)
    LocalSink(params, node_id="write").check(incoming)


class TestLocalSource(SourceConformance):
    component = LocalSource

    @pytest.fixture(params=[{"batch_bytes": 9}, {"batch_rows": 2}])
    def params(self, tmp_path, request):
        for name in "abc":
            (tmp_path / f"{name}.csv").write_bytes(DATA)
        (tmp_path / "empty.csv").write_bytes(b"")
        return LocalSourceParams(path=str(tmp_path), format="csv", **request.param)


class TestS3Source(SourceConformance):
    component = S3Source

    @pytest.fixture
    def connection(self, s3_server):
        return connection_to(s3_server)

    @pytest.fixture
    def params(self, s3, place):
        for name in "ab":
            s3.put(f"{place}/{name}", DATA)
        return S3SourceParams(prefix=f"{place}/", format="csv", batch_bytes=16, batch_rows=2)


def parsed(data: bytes) -> list[dict]:
    found = csv.DictReader(io.StringIO(data.decode(), newline=""))
    return [
        {
            "text": row["text"],
            "number": int(row["number"]) if row["number"] else None,
            "score": float(row["score"]),
            "tags": json.loads(row["tags"]),
        }
        for row in found
    ]


class CsvSinkConformance(SinkConformance):
    keeps_other_runs = False

    @pytest.fixture
    def rows(self):
        return rows()

    def key(self, row):
        return row["text"]

    def refused(self, rows):
        return [EdgeType("row", pa.schema(list(rows.schema)[:7]))]


class TestLocalSink(CsvSinkConformance):
    component = LocalSink

    @pytest.fixture
    def params(self, tmp_path):
        return LocalSinkParams(path=str(tmp_path / "new"), format="csv", csv={"nested": "json"})

    async def read_back(self, params, connection):
        files = sorted((self.build(params, connection).resolve(params.path)).glob("part-*.csv"))
        return [row for file in files for row in parsed(file.read_bytes())]


class TestS3Sink(CsvSinkConformance):
    component = S3Sink

    @pytest.fixture
    def connection(self, s3_server, s3):
        self.s3 = s3
        return connection_to(s3_server)

    @pytest.fixture
    def params(self, place):
        return S3SinkParams(prefix=place, format="csv", csv={"nested": "json"})

    async def read_back(self, params, connection):
        keys = sorted(o["path"] for page in self.s3.list(prefix=params.prefix) for o in page)
        return [row for key in keys for row in parsed(bytes(self.s3.get(key).bytes()))]
