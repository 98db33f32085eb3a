"""Files that Apache Spark wrote, and the names that it keeps beside them."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from bad_lines import rejected_in, rows_of
from csv_tables import table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain, lines
from object_servers import connection_to
from spark_values import LINES, PARTITIONED, ROWS, TEXTS

from nvisy_connectors.object.glob import compile_glob
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_connectors.object.s3 import S3Source, S3SourceParams
from nvisy_dagster.sdk import ConfigError

pytestmark = pytest.mark.anyio

SAMPLES = Path(__file__).parent / "spark_samples"
CSV_TYPES = ["int64", "string", "string", "double", "bool", "date32[day]", "timestamp[us, tz=UTC]"]
PARQUET_TYPES = {
    "id": "int64",
    "full name": "string",
    "price": "decimal(7, 2)",
    "share": "decimal(18, 18)",
    "huge": "decimal(38, 0)",
    "score": "double",
    "ok": "bool",
    "day": "date",
    "at": "timestamp",
    "raw": "binary",
    "tags": "list<string>",
    "author": "struct<name: string, at: list<struct<city: string, zip: int32>>>",
}


async def read(path, form, **params):
    """Rows, and the schema; nothing is rejected."""
    source = LocalSource(LocalSourceParams(path=str(path), format=form, **params), node_id="read")
    source.bad_records = "reject"
    batches = await drain(source)
    assert rejected_in(batches) == []
    schema = batches[0].data.schema if batches else pa.schema([])
    return rows_of(batches), schema


def as_read(row, **other):
    """Pairs are what a map is in Arrow."""
    counts = None if row["counts"] is None else list(row["counts"].items())
    return row | {"counts": counts} | {name: change(row[name]) for name, change in other.items()}


def naive(at):
    return at and at.replace(tzinfo=None)


def to_milliseconds(at):
    return at and at.replace(microsecond=at.microsecond // 1000 * 1000)


@pytest.mark.parametrize(
    ("name", "kind", "at"),
    [
        ("snappy_int96", pa.timestamp("us"), naive),
        ("gzip_micros", pa.timestamp("us", "UTC"), None),
        ("zstd_legacy", pa.timestamp("us", "UTC"), None),
        ("plain_millis", pa.timestamp("ms", "UTC"), to_milliseconds),
    ],
)
async def test_parquet_of_every_type(name, kind, at):
    found, schema = await read(SAMPLES / "parquet" / name, "parquet")
    assert found == [as_read(row, **({"at": at} if at else {})) for row in ROWS]
    assert schema.field("at").type == kind
    assert schema.field("share").type == pa.decimal128(18, 18)


@pytest.mark.parametrize("name", ["snappy_int96", "zstd_legacy"])
async def test_parquet_with_declared_types(name):
    found, schema = await read(SAMPLES / "parquet" / name, "parquet", columns=PARQUET_TYPES)
    assert found == [{key: row[key] for key in PARQUET_TYPES} for row in ROWS]
    assert schema.field("at").type == pa.timestamp("us", "UTC")


async def test_parts_of_old_and_new_spark_are_one_table(tmp_path):
    """The lists of the one have other names within."""
    for name in ("gzip_micros", "zstd_legacy"):
        shutil.copytree(SAMPLES / "parquet" / name, tmp_path, dirs_exist_ok=True)
    found, _ = await read(tmp_path, "parquet")
    assert found == 2 * [as_read(row) for row in ROWS]


async def test_a_part_without_rows():
    found, _ = await read(SAMPLES / "parquet" / "parts", "parquet")
    found.sort(key=lambda row: row["id"])
    assert found == [{name: row[name] for name in ("id", "full name")} for row in ROWS]


async def test_partitions():
    found, schema = await read(
        SAMPLES / "parquet" / "partitioned", "parquet", partitions={"day": "date"}
    )
    assert sorted(found, key=lambda row: row["n"]) == PARTITIONED
    assert schema.field("day").type == pa.date32()


@pytest.mark.parametrize("name", ["header", "bare", "gzip", "doubled", "all_quoted"])
@pytest.mark.parametrize("batch_bytes", [90, 8 << 20])
async def test_csv(name, batch_bytes):
    bare = {"columns": list(LINES[0]), "csv": {"header": False}} if name == "bare" else {}
    found, types = await table(SAMPLES / "csv" / name, batch_bytes=batch_bytes, **bare)
    wanted = LINES
    if name == "all_quoted":  # Spark writes nulls as it writes empty texts
        wanted = [row | {key: row[key] or "" for key in ("name", "note")} for row in LINES]
    assert found == wanted
    assert list(types.values()) == CSV_TYPES


@pytest.mark.parametrize("name", ["plain", "nulls", "gzip", "bzip2"])
async def test_json_lines(name):
    found, schema = await read(SAMPLES / "json" / name, "jsonl")
    texts = {"day": lambda day: day and str(day), "at": _json_time}
    assert found == [row | {key: texts[key](row[key]) for key in texts} for row in LINES]
    types = {key: str(schema.field(key).type) for key in LINES[0]} | {"at": "timestamp"}
    found, _ = await read(SAMPLES / "json" / name, "jsonl", columns=types)
    assert found == [row | {"day": texts["day"](row["day"])} for row in LINES]


def _json_time(at):
    return at and at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def test_json_lines_of_decimals_and_nested_values():
    names = ("id", "full name", "price", "share", "huge", "ok", "at", "tags", "author")
    columns = {name: PARQUET_TYPES[name] for name in names}
    found, _ = await read(SAMPLES / "json" / "nested", "jsonl", columns=columns)
    wanted = [{name: row[name] for name in names} for row in ROWS]
    assert found == [row | {"at": to_milliseconds(row["at"])} for row in wanted]


async def test_json_lines_of_what_is_no_number():
    """Spark writes infinity as a text, which is a bad record where numbers are."""
    path = SAMPLES / "json" / "nested"
    source = LocalSource(LocalSourceParams(path=str(path), format="jsonl"), node_id="read")
    source.bad_records = "reject"
    batches = await drain(source)
    (bad,) = rejected_in(batches)
    assert (bad.position, "field 'score' is a text" in bad.reason) == (2, True)
    assert [row["id"] for row in rows_of(batches)] == [1, 3, 4]


async def test_texts():
    assert (SAMPLES / "text" / "_SUCCESS").exists()
    (document,), _ = await read(SAMPLES / "text", "text")
    assert document["text"].splitlines() == TEXTS


# What is kept beside the parts.


BESIDE = (
    "_SUCCESS",
    "_metadata",
    "_temporary/0/_temporary/attempt_1/part-9.jsonl",
    "_committed_17",
    "a/.part-1.jsonl.crc",
)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("glob", [None, "**", "**/*", "**/[!x]*"])
async def test_what_is_beside_the_parts_is_not_read(tmp_path, form, glob):
    for key in (*BESIDE, "a/part-1.jsonl", "_day=1/part-2.jsonl"):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text('"n"\n1\n' if form == "csv" else '{"n": 1}\n')
    source = LocalSource(
        LocalSourceParams(path=str(tmp_path), format=form, glob=glob), node_id="read"
    )
    found = [row for batch in await drain(source) for row in batch.data.to_pylist()]
    keys = [row["_source"]["uri"].removeprefix(f"{tmp_path.as_uri()}/") for row in found]
    assert keys == ["_day%3D1/part-2.jsonl", "a/part-1.jsonl"]


async def test_who_spells_such_a_name_out_reads_it(tmp_path):
    for key in ("_a.jsonl", "_b/c.jsonl", "d.jsonl"):
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).write_bytes(lines([{"key": key}]))

    async def keys(path, **params):
        return [row["key"] for row in (await read(path, "jsonl", **params))[0]]

    assert await keys(tmp_path) == ["d.jsonl"]
    assert await keys(tmp_path, glob="_*") == ["_a.jsonl"]
    assert await keys(tmp_path, glob="_b/*") == ["_b/c.jsonl"]
    assert await keys(tmp_path / "_b") == ["_b/c.jsonl"]
    assert await keys(tmp_path / "_a.jsonl") == ["_a.jsonl"]


async def test_a_folder_of_nothing_else(tmp_path):
    """Spark leaves a marker alone where a table has no rows; a name that holds something may not
    have been meant to be left out."""
    (tmp_path / "_SUCCESS").touch()
    for params in ({}, {"glob": "**/*.parquet"}):
        assert await read(tmp_path, "parquet", **params) == ([], pa.schema([]))
    (tmp_path / "_rows.jsonl").write_bytes(lines([{"n": 1}]))
    with pytest.raises(ConfigError, match=r"_rows.jsonl and all else .* left out"):
        await read(tmp_path, "jsonl")
    with pytest.raises(ConfigError, match=r"glob '\*.jsonl' matches none"):
        await read(tmp_path, "jsonl", glob="*.jsonl")


async def test_documents_may_have_such_names(tmp_path):
    for key in ("_index.md", "_posts/a.md", "__init__.py", "_SUCCESS", "_temporary/0/b.md"):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text(key)
    for form, column in (("text", "text"), ("binary", "data")):
        found = [row[column] for row in (await read(tmp_path, form))[0]]
        keys = ["__init__.py", "_index.md", "_posts/a.md"]
        assert found == (keys if form == "text" else [key.encode() for key in keys])


async def test_a_prefix_that_ends_within_a_name(s3_server, s3, place):
    for key in ("x_1.jsonl", "x.2.jsonl", "x/_SUCCESS", "x/.p.crc", "x_/_3.jsonl", "x_/4.jsonl"):
        s3.put(f"{place}/{key}", lines([{"key": key}]))
    connection = connection_to(s3_server)

    async def keys(prefix, **params):
        params = S3SourceParams(prefix=f"{place}/{prefix}", format="jsonl", **params)
        rows = rows_of(await drain(S3Source(params, connection, node_id="read")))
        return sorted(row["key"] for row in rows)

    assert await keys("x") == ["x.2.jsonl", "x_/4.jsonl", "x_1.jsonl"]
    assert await keys("x", glob="**/*.jsonl") == ["x.2.jsonl", "x_/4.jsonl", "x_1.jsonl"]
    assert await keys("x_/") == ["x_/4.jsonl"]
    with pytest.raises(ConfigError, match="left out"):
        await keys("x/")


names = st.text("ab_.=/", max_size=12)


@given(key=names, pattern=st.text("ab_.=/*?", min_size=1, max_size=8))
def test_a_glob_chooses_no_more_when_names_are_left_out(key, pattern):
    every = compile_glob(pattern).fullmatch(key) is not None
    fewer = compile_glob(pattern, r"\.|_(?![^/]*=)").fullmatch(key) is not None
    hidden = any(n[:1] == "." or (n[:1] == "_" and "=" not in n) for n in key.split("/"))
    assert fewer <= every
    assert fewer == every or hidden


# The escapes of its CSV files.


cells = st.text(st.sampled_from('\\",;\n a1'), max_size=8)


def as_spark_writes(value: str) -> str:
    if value and not any(mark in value for mark in '",\n') and value == value.strip():
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=8),
    batch_bytes=st.integers(5, 100),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
)
async def test_escapes_outside_of_quotes_are_letters(tmp_path, rows, batch_bytes, encoding):
    text = "".join(",".join(map(as_spark_writes, row)) + "\n" for row in [("a", "b"), *rows])
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode(encoding))
    marks = {"delimiter": ",", "quote": '"', "escape": "\\", "escape_bare": False}
    columns = dict.fromkeys("ab", "string")
    found, _ = await table(path, columns=columns, csv=marks, batch_bytes=batch_bytes)
    assert [tuple(row.values()) for row in found] == rows


@pytest.mark.parametrize(
    ("text", "value", "options"),
    [
        (r'1,C:\new,"\""', "C:\\new", {}),  # found: Python would have doubled it
        (r'1,C:\\new,"\""', "C:\\new", {}),
        (r'1,C:\\new,"\""', "C:\\\\new", {"escape_bare": False}),
        (r'1,C:\new,"\""', "C:new", {"escape_bare": True}),
        (r'1,\,"\""', "\\", {}),  # else it had too few fields
        (r'1,a\,b,"\""', "a,b", {}),
        (r"1,C:\new,x", "C:\\new", {}),
        (r'1,5\" \n pipe,"\""', '5\\" \\n pipe', {}),
        (r'1,"\\\n",x\y', "\\n", {"escape": "\\"}),
    ],
)
async def test_where_escapes_count(tmp_path, text, value, options):
    path = tmp_path / "x.csv"
    path.write_text(f"a,b,c\n{text}\n", encoding="utf-8")
    found, _ = await table(path, csv=options)
    assert [row["b"] for row in found] == [value]


async def test_lines_are_counted_where_escapes_are_letters(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1,"x\\\ny"\n2,C:\\n\\\nbad\n3,"\\""\n')
    params = LocalSourceParams(path=str(path), format="csv", csv={"escape_bare": False})
    source = LocalSource(params, node_id="read")
    source.bad_records = "reject"
    batches = await drain(source)
    found = [(row["a"], row["b"]) for row in rows_of(batches)]
    assert found == [(1, "x\ny"), (2, "C:\\n\\"), (3, '"')]
    (bad,) = rejected_in(batches)
    assert (bad.position, bad.data) == (5, b"bad")


def test_what_an_escape_is_told_for():
    with pytest.raises(ValueError, match="`escape_bare` needs an `escape`"):
        LocalSourceParams(path="x", format="csv", csv={"escape": "", "escape_bare": False})
