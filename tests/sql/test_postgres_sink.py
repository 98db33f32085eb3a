"""What the sink does with tables, keys, mismatches and records that the server refuses."""

import re

import anyio
import psycopg
import pyarrow as pa
import pytest
from pydantic import SecretStr, ValidationError
from sql_records import records
from sql_writing import write

from nvisy_connectors.sql.postgres import PostgresConnection, PostgresSink
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import (
    ConfigError,
    EdgeType,
    EpochLostError,
    Progress,
    TransientError,
)

pytestmark = pytest.mark.anyio

HOSTILE = "a\"b; DROP TABLE x; -- %s {y} ' ü"


def numbers(database, table="t", column="n"):
    return [n for (n,) in database.query(f"SELECT {column} FROM {table} ORDER BY 1")]


async def opened(connection, **params):
    sink = PostgresSink(PostgresSinkParams(**{"table": "t", **params}), connection, node_id="out")
    await sink.__aenter__()
    return sink


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


@pytest.mark.parametrize("mode", ["upsert", "append"])
async def test_refused_rows_are_told_and_the_others_written(database, mode):
    database.query(
        "CREATE TABLE other (k int PRIMARY KEY); INSERT INTO other VALUES (1);"
        "CREATE TABLE t (_id uuid PRIMARY KEY, n smallint CHECK (n <> 13), s varchar(3), j jsonb, "
        "k int REFERENCES other DEFERRABLE INITIALLY DEFERRED, u int UNIQUE)"
    )
    count = 200
    n, s = list(range(count)), ["ok"] * count
    j, k, u = ["{}"] * count, [1] * count, list(range(count))
    n[7], n[13], s[20], s[21] = 40_000, 13, "long", "a\0"
    j[30], j[31], k[40], u[50] = "{", '"\\u0000"', 2, 49
    wanted = {
        7: "out of range",
        13: "check constraint",
        20: "too long",
        21: "NUL",
        30: "json",
        31: "Unicode",
        40: "foreign key",
        50: "unique",
    }
    batches = records({"n": n, "s": s, "j": j, "k": k, "u": u})
    refused = await write(
        database.connection, [batches.slice(0, 100), batches.slice(100)], mode=mode
    )
    assert refused.keys() == wanted.keys()
    assert all(word in refused[row] for row, word in wanted.items()), refused
    assert numbers(database, column="u") == [i for i in range(count) if i not in wanted]


async def test_out_of_range_and_null_keys(database):
    batch = records({
        "k": ["a", None, "c", "d", "e", "f"],
        "at": pa.array([0, 0, 2**50, -(2**62), 1, 2], pa.timestamp("s", "UTC")),
        "day": pa.array([0, 0, 0, 0, -(2**31), 0], pa.date32()),
        "tags": [["x"], ["x"], ["x"], ["x"], ["a"], [None, "\0"]],
    })
    refused = await write(database.connection, [batch], key=["k"])
    assert {row: reason.split("'")[1] for row, reason in refused.items()} == {
        1: "k",
        2: "at",
        3: "at",
        4: "day",
        5: "tags",
    }
    assert database.query("SELECT k FROM t") == [("a",)]


async def test_remove_leaves_what_the_epoch_wrote(database):
    old = records({"n": range(6)})
    await write(database.connection, [old])
    async with await opened(database.connection) as sink:
        await sink.start(Progress("next", 0))
        await sink.write(records({"n": [100, 101]}))
        await sink.write(records({"n": [106]}, 6))
        await sink.remove(old["_root_id"].slice(0, 4))
        assert numbers(database) == list(range(6)), "others see it before its commit"
        await sink.commit(1)
        await sink.remove(old["_root_id"].slice(4, 1))
        await sink.remove(old["_root_id"].slice(4, 1))
        await sink.commit(2)
    assert numbers(database) == [5, 100, 101, 106]


async def test_a_server_that_only_reads_is_left_for_the_one_behind_its_address(database):
    """After a failover, the address leads to the new primary as soon as one connects anew."""
    batch = records({"n": range(3)})
    await write(database.connection, [batch])
    database.query("CREATE SEQUENCE tries")
    database.query("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF nextval('tries') = 1 THEN
            RAISE EXCEPTION 'cannot execute UPDATE in a read-only transaction'
              USING ERRCODE = 'read_only_sql_transaction';
          END IF; RETURN NULL; END $$
    """)
    database.query("CREATE TRIGGER refuse AFTER UPDATE ON t EXECUTE FUNCTION refuse()")
    own = "SELECT pid FROM pg_stat_activity WHERE application_name = 'nvisy'"
    async with await opened(database.connection) as sink:
        await sink.start(Progress("next", 0))
        before = database.query(own)
        with pytest.raises(TransientError, match="read-only"):
            await sink.write(batch)
        await sink.write(batch)
        await sink.commit(1)
        assert database.query(own) != before


async def test_removing_needs_the_root(database):
    database.query("CREATE TABLE t (_id uuid PRIMARY KEY, n bigint)")
    async with await opened(database.connection) as sink:
        await sink.start(Progress("run", 0))
        with pytest.raises(ConfigError, match="has no column '_root_id'"):
            await sink.remove(records({"n": [1]})["_root_id"])


async def test_a_lost_session_loses_its_epoch_and_says_so(database):
    async with await opened(database.connection, mode="append") as sink:
        await sink.start(Progress("run", 0))
        await sink.write(records({"n": [0]}))
        await sink.commit(1)
        # Nothing is lost yet: the next write gets a new session.
        database.server.terminate_sessions()
        with pytest.raises(TransientError) as error:
            await sink.write(records({"n": [1]}))
        assert not isinstance(error.value, EpochLostError)
        await sink.write(records({"n": [1]}))
        database.server.terminate_sessions()
        for _ in range(2):
            with pytest.raises(EpochLostError):
                await sink.write(records({"n": [2]}))
        with pytest.raises(EpochLostError):
            await sink.commit_with_checkpoint(2, "key", b"")
    assert numbers(database) == [0]


async def test_a_cancelled_call_cannot_be_half_committed(database):
    held, free = records({"n": [0]}), records({"n": [1]}, 1)
    await write(database.connection, [held])
    with psycopg.connect(database.url) as rival:
        rival.execute("UPDATE t SET n = 5")  # not committed: who writes the row must wait
        async with await opened(database.connection) as sink:
            await sink.start(Progress("run", 0))
            await sink.write(free)
            with anyio.move_on_after(0.3) as scope:
                await sink.write(records({"n": [7]}))
            assert scope.cancelled_caught
            with pytest.raises(EpochLostError):
                await sink.commit(1)
    assert numbers(database) == [5]


async def test_a_deadlock_costs_one_its_epoch_and_the_other_nothing(database):
    first, second = records({"n": [1]}), records({"n": [2]}, 1)
    await write(database.connection, [first, second])
    left, right = (
        PostgresSink(PostgresSinkParams(table="t"), database.connection, node_id=node)
        for node in ("left", "right")
    )
    async with left, right:
        await left.start(Progress("left", 0))
        await right.start(Progress("right", 0))
        await left.write(records({"n": [10]}))
        await right.write(records({"n": [20]}, 1))
        lost = []

        async def cross(sink, batch):
            try:
                await sink.write(batch)
            except EpochLostError as error:
                lost.append((sink, str(error)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cross, left, records({"n": [11]}, 1))
            tasks.start_soon(cross, right, records({"n": [21]}))
        ((loser, why),) = lost
        assert "deadlock" in why
        winner = left if loser is right else right
        await winner.commit(1)
        with pytest.raises(EpochLostError):
            await loser.commit(1)
    assert numbers(database) == ([10, 11] if winner is left else [20, 21])


class TestConnections:
    async def test_wrong_password(self, database):
        wrong = database.connection.model_copy(update={"password": SecretStr("nonsense-secret")})
        with pytest.raises(ConfigError) as error:
            await opened(wrong)
        assert error.value.tag == "auth"
        assert "nonsense-secret" not in str(error.value)

    async def test_no_such_database(self, database):
        with pytest.raises(ConfigError) as error:
            await opened(database.connection.model_copy(update={"database": "nowhere"}))
        assert error.value.tag == "not_found"

    async def test_nobody_listens(self, database):
        with pytest.raises(TransientError) as error:
            await opened(database.connection.model_copy(update={"port": 1}))
        assert error.value.tag == "connection"

    async def test_no_rights(self, database):
        database.query("CREATE ROLE weak LOGIN PASSWORD 'weak-password'")
        weak = database.connection.model_copy(
            update={"username": "weak", "password": SecretStr("weak-password")}
        )
        try:
            with pytest.raises(ConfigError, match="CREATE TABLE IF NOT EXISTS") as error:
                await write(weak, [records({"n": [1]})])
            assert error.value.tag == "auth"
        finally:
            database.query("DROP ROLE weak")

    async def test_by_url(self, database):
        connection = PostgresConnection(url=SecretStr(database.url), application_name="by url")
        await write(connection, [records({"n": [1]})])
        assert numbers(database) == [1]
        assert connection.location() == database.connection.location()
        assert database.server.password not in f"{connection!r} {connection.location()}"
        sink = PostgresSink(PostgresSinkParams(table="t"), connection)
        assert sink.location() == f"{connection.location()}/public.t"

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"host": "h"},
            {"host": "h", "database": "d"},
            {"url": "mysql://u@h/d"},
            {"url": "postgresql://u:secret-word@h:x/d"},
            {"url": "postgresql://h/d", "host": "h"},
            {"host": "h", "database": "d", "username": "u", "port": 0},
            {"host": "h", "database": "d", "username": "u", "sslmode": "maybe"},
        ],
    )
    def test_what_makes_no_sense(self, fields):
        with pytest.raises(ValidationError) as error:
            PostgresConnection.model_validate(fields)
        assert "secret-word" not in str(error.value)
