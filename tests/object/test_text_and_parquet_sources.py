"""Documents and Parquet files, and the paths and patterns that choose them."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_records import drain, records
from pydantic import ValidationError

from nvisy_connectors.object.glob import compile_glob
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk import ConfigError, DataError

pytestmark = pytest.mark.anyio


def source(path, **params):
    return LocalSource(LocalSourceParams(path=str(path), **params), node_id="read")


async def test_one_document_per_file_in_shared_batches(tmp_path):
    for i in range(500):
        (tmp_path / f"{i:03}.md").write_text(f"# Ü {i}", encoding="utf-8")
    (batch,) = await drain(source(tmp_path))
    assert batch.data.num_rows == 500
    assert batch.data.schema.equals(source(tmp_path).output().schema)
    row = batch.data.slice(7, 1).to_pylist()[0]
    assert (row["text"], row["title"], row["mime_type"]) == ("# Ü 7", "007", "text/markdown")
    assert row["_source"] == {"uri": (tmp_path / "007.md").as_uri(), "position": 0}


async def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffine")
    assert [row["text"] for row in await records(source(tmp_path))] == ["fine"]
    (tmp_path / "b.txt").write_bytes(b"ok\xff")
    with pytest.raises(DataError, match=r"b.txt is not UTF-8 text: .* at byte 2") as caught:
        await drain(source(tmp_path))
    assert list(caught.value.rows) == [1]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("**/*.md", ["a.md", "sub/b.md", "sub/deep/c.md"]),
        ("*.md", ["a.md"]),
        ("sub/**", ["sub/b.md", "sub/deep/c.md"]),
        ("sub/*", ["sub/b.md"]),
        ("**/deep/*", ["sub/deep/c.md"]),
        ("?.m[!x]", ["a.md"]),
        ("[a-b].md", ["a.md"]),
        ("x", []),
    ],
)
def test_globs(pattern, wanted):
    keys = ["a.md", "sub/b.md", "sub/deep/c.md", "a.txt"]
    assert [key for key in keys if compile_glob(pattern).fullmatch(key)] == wanted


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../../b"])
def test_globs_that_leave_the_folder_are_refused(pattern):
    with pytest.raises(ValidationError, match="glob"):
        source(".", glob=pattern)


async def test_links_do_not_lead_outside(tmp_path):
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a", encoding="utf-8")
    (tmp_path / "in" / ".hidden.txt").write_text("hidden", encoding="utf-8")
    (tmp_path / "in" / "same.txt").symlink_to("a.txt")
    (tmp_path / "in" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "nowhere.txt").symlink_to("missing")
    os.mkfifo(tmp_path / "in" / "pipe.txt")
    found = await records(source(tmp_path / "in"))
    assert [row["title"] for row in found] == ["a", "same"]
    (tmp_path / "in" / "x.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ConfigError, match="leads outside"):
        await drain(source(tmp_path / "in"))


async def test_a_file_as_path_and_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a b.txt").write_text("a", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (row,) = await records(source("./sub/../a b.txt"))
    assert row["_source"]["uri"] == f"{tmp_path.as_uri()}/a%20b.txt" == source("a b.txt").location()
    with pytest.raises(ConfigError, match=r"no file or folder .*nothing"):
        await drain(source("nothing"))
    with pytest.raises(ConfigError, match="`glob`"):
        await drain(source("a b.txt", glob="*"))


@pytest.fixture
def table():
    return pa.table({
        "n": pa.array(range(1000), pa.int32()),
        "s": [f"s{i}" for i in range(1000)],
        "d": pa.array([f"{i % 3}" for i in range(1000)]).dictionary_encode(),
    })


async def test_parquet_rows_keep_types_and_numbers(tmp_path, table):
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=300)
    batches = await drain(source(path, format="parquet", batch_rows=128))
    found = pa.Table.from_batches([batch.data for batch in batches])
    assert found.select(table.column_names).to_pylist() == table.to_pylist()
    assert found.schema.field("n").type == pa.int32()
    positions = found.column("_source").combine_chunks().field("position")
    assert positions.to_pylist() == list(range(1000))
    chosen = await drain(source(path, format="parquet", columns=["s", "n"]))
    assert chosen[0].data.schema.names[-2:] == ["s", "n"]


async def test_parquet_files_must_be_alike(tmp_path, table):
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.drop_columns("s"), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"b.parquet has no column 's'"):
        await drain(source(tmp_path, format="parquet"))
    found = await records(source(tmp_path, format="parquet", columns=["n"]))
    assert len(found) == 2000
    pq.write_table(pa.table({"n": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(
        ConfigError, match=r"column 'n' of .*b.parquet is string, in the first file int32"
    ):
        await drain(source(tmp_path, format="parquet", columns=["n"]))


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
async def test_a_broken_parquet_file_is_named(tmp_path, table, damage):
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    data = path.read_bytes()
    middle = bytes(b ^ 0x5A for b in data[4:400])
    path.write_bytes(
        {"cut": data[:-100], "noise": data[:4] + middle + data[400:], "empty": b""}[damage]
    )
    with pytest.raises(DataError, match=r"x.parquet is not a readable Parquet file"):
        await drain(source(path, format="parquet"))


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"format": "text", "columns": ["a"]}, "does not go with format 'text'"),
        ({"format": "jsonl", "columns": ["a"]}, "needs types"),
        ({"format": "jsonl", "columns": {"a": "int65"}}, "column 'a': unknown type 'int65'"),
        ({"format": "jsonl", "columns": {"a": "list<int64"}}, "column 'a': .*ends too early"),
        ({"format": "jsonl", "columns": {"a": "list<" * 5000}}, "nested"),
        ({"format": "parquet", "columns": {"a": "int65"}}, "column 'a': unknown type 'int65'"),
        ({"format": "parquet", "partitions": {"a": "float64"}}, "the name of a folder is no"),
        ({"format": "jsonl", "partitions": False}, "does not go with format 'jsonl'"),
        ({"format": "parquet", "columns": []}, "`columns` is empty"),
        ({"batch_rows": 0}, "greater than or equal to 1"),
    ],
)
def test_params_that_make_no_sense_are_refused(params, reason):
    with pytest.raises(ValidationError, match=reason):
        source(".", **params)


async def test_a_glob_that_matches_nothing_is_an_error_and_an_empty_folder_is_not(tmp_path):
    def read(**params):
        return LocalSource(LocalSourceParams(path=str(tmp_path), **params), node_id="read")

    assert await drain(read(glob="**/*.md")) == []
    (tmp_path / "a.md").write_text("text", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=rf"glob '\*\.mdd' matches none .*{tmp_path.name}"
    ) as caught:
        await drain(read(glob="*.mdd"))
    assert caught.value.remedy
    (batch,) = await drain(read(glob="*.md"))
    assert await drain(read(glob="*.md"), batch.cursor) == []
