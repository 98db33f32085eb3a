"""What the sink does with names, tables, keys, and columns that do not fit."""

import re

import anyio
import pyarrow as pa
import pytest
from pydantic import ValidationError
from sql_records import records
from sql_writing import opened, write

from nvisy_connectors.sql.postgres import PostgresSink
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import (
    ConfigError,
    EdgeType,
    Progress,
)

pytestmark = pytest.mark.anyio

HOSTILE = "a\"b; DROP TABLE x; -- %s {y} ' ü"


async def test_hostile_names(database):
    schema, table = f"schema {HOSTILE}", f"table {HOSTILE}"
    quoted = '"{}"'.format(schema.replace('"', '""'))
    database.query(f"CREATE SCHEMA {quoted}")
    names = [HOSTILE, "select", "%(n)s", "{0}", "Ä", " ", "%"]
    for value in (1, 2):
        batch = records({name: [value] for name in names})
        chosen = {"schema": schema, "table": table, "columns": {"%": "%%"}}
        await write(database.connection, [batch], **chosen)
        async with PostgresSink(PostgresSinkParams(**chosen), database.connection) as sink:
            await sink.start(Progress("run", 0))
            await sink.commit_with_checkpoint(1, HOSTILE, b"document")
            assert await sink.stored_checkpoint(HOSTILE) == b"document"
    where = '{}."{}"'.format(quoted, table.replace('"', '""'))
    (row,) = database.rows(f"SELECT * FROM {where}")
    assert {name: row["%%" if name == "%" else name] for name in names} == dict.fromkeys(names, 2)
    async with PostgresSink(PostgresSinkParams(**chosen), database.connection) as sink:
        await sink.start(Progress("next", 0))
        await sink.remove(batch["_root_id"])
        await sink.commit(1)
    assert not database.rows(f"SELECT * FROM {where}")


async def test_the_last_of_a_key_wins(database):
    many = [records({"n": [start, start + 1], "k": ["a", "b"]}, start) for start in range(0, 40, 2)]
    both = records({"n": [100, 101, 102], "k": ["a", "c", "a"]}, 50)
    async with await opened(database.connection, key=["k"]) as sink:
        await sink.start(Progress("run", 0))
        async with anyio.create_task_group() as tasks:
            for batch in [*many, both]:
                tasks.start_soon(sink.write, batch)
        await sink.commit(1)
    assert database.query("SELECT k, n FROM t ORDER BY k") == [("a", 102), ("b", 39), ("c", 101)]


async def test_a_table_that_is_missing(database):
    with pytest.raises(ConfigError, match=r"no table public\.t, and 'create' is false"):
        await opened(database.connection, create=False)
    with pytest.raises(ConfigError) as error:
        await write(database.connection, [records({"n": [1]})], schema="nowhere")
    assert error.value.tag == "not_found"


async def test_a_table_of_your_own(database):
    database.query(
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN short AS varchar(3);"
        "CREATE TABLE t (id integer PRIMARY KEY, body text, price numeric(6, 2), at timestamp, "
        "mood mood, code short, uid uuid, doc json, extra text DEFAULT 'x')"
    )
    batch = records({
        "n": [1, 2],
        "text": ["a", "b"],
        "price": [1.239, 2.0],
        "mood": ["sad", "happy"],
        "code": ["abc", None],
        "uid": ["00000000-0000-0000-0000-000000000001", None],
        "doc": pa.array([{"a": [1]}, None]),
        "debug": ["no", "no"],
    })
    columns = {"n": "id", "text": "body", "debug": None, "_created_at": "at"}
    for _ in range(2):
        await write(database.connection, [batch], key=["id"], columns=columns, create=False)
    rows = database.query(
        "SELECT id, body, price::text, mood::text, code, uid::text, doc, extra, "
        "at::text FROM t ORDER BY id"
    )
    assert rows == [
        (
            1,
            "a",
            "1.24",
            "sad",
            "abc",
            "00000000-0000-0000-0000-000000000001",
            {"a": [1]},
            "x",
            "2024-05-17 12:30:15.123456",
        ),
        (2, "b", "2.00", "happy", None, None, None, "x", "2024-05-17 12:30:15.123456"),
    ]


MISFITS = [
    (
        "n text, _id uuid PRIMARY KEY",
        {},
        r"'n' of public\.t is of type text.*'n' of type int64.*`map`",
    ),
    ("n real, _id uuid PRIMARY KEY", {}, r"'n' of public\.t is of type real"),
    ("n bigint[], _id uuid PRIMARY KEY", {}, r"is of type bigint\[\]"),
    ("_id uuid PRIMARY KEY", {}, r"has no column 'n', for 'n' of type int64.*ADD COLUMN n bigint"),
    ("n bigint, _id uuid", {}, r'no primary key or unique index over exactly "_id"'),
    ("n bigint, _id uuid, UNIQUE (_id, n)", {}, r"no primary key or unique index"),
    ("n bigint PRIMARY KEY", {}, r"has no column '_id'"),
    (
        "n bigint, _id uuid PRIMARY KEY, m int NOT NULL",
        {},
        r"column 'm' of public\.t needs a value",
    ),
    (
        "m int, n bigint GENERATED ALWAYS AS (m) STORED, _id uuid PRIMARY KEY",
        {},
        r"only the server gives values to column 'n'",
    ),
    ("n bigint, _id uuid PRIMARY KEY", {"key": ["x"]}, r"'key' names 'x', which no column goes to"),
    ("n bigint, _id uuid PRIMARY KEY", {"columns": {"x": "y"}}, r"'columns' names 'x'"),
    ("n bigint, _id uuid PRIMARY KEY", {"columns": {"n": "_id"}}, r"'_id' and 'n' both go to"),
]


@pytest.mark.parametrize(("columns", "params", "told"), MISFITS)
async def test_misfits_are_told(database, columns, params, told):
    database.query(f"CREATE TABLE t ({columns})")
    with pytest.raises(ConfigError) as error:
        await write(database.connection, [records({"n": [1]})], **params)
    assert re.search(told, str(error.value), re.DOTALL), str(error.value)
    assert error.value.tag == "schema"
    assert not database.query("SELECT * FROM t")


async def test_several_misfits_are_told_at_once(database):
    database.query("CREATE TABLE t (n text, m text)")
    with pytest.raises(ConfigError) as error:
        await write(database.connection, [records({"n": [1], "m": [True]})])
    assert str(error.value).count("is of type text") == 2
    assert "no primary key" in str(error.value) or "no column '_id'" in str(error.value)


async def test_a_vector_of_another_dimension(vectors):
    vectors.query("CREATE TABLE t (_id uuid PRIMARY KEY, v vector(3))")
    batch = records({"v": pa.array([[1, 2]], pa.list_(pa.float32(), 2))})
    with pytest.raises(ConfigError, match=r"vector\(3\), but 'v' holds vectors of dimension 2"):
        await write(vectors.connection, [batch])


async def test_a_view_is_no_table(database):
    database.query("CREATE VIEW t AS SELECT 1 AS n")
    with pytest.raises(ConfigError, match="is no table"):
        await opened(database.connection)


def test_what_compiles():
    sink = PostgresSink(PostgresSinkParams(table="t", key=("gone",)))
    with pytest.raises(ConfigError, match="'gone'"):
        sink.check(EdgeType("row", records({"n": [1]}).schema))
    for wrong in (
        {"table": ""},
        {"table": "a\0"},
        {"table": "x" * 64},
        {"table": "t", "key": []},
        {"table": "t", "key": ["a", "a"]},
        {"table": "t", "columns": {"a": "c", "b": "c"}},
    ):
        with pytest.raises(ValidationError):
            PostgresSinkParams.model_validate(wrong)
