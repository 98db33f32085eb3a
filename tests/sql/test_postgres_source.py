"""Types, keys, ids, conditions, errors: what the source reads, and what it refuses."""

import datetime as dt
import json
import uuid
from decimal import Decimal

import anyio
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from sql_reading import read, source
from sql_records import MOMENT, records
from sql_writing import write
from test_postgres_types import COLUMNS

from nvisy_connectors.sql.postgres import PostgresConnection, PostgresSink
from nvisy_connectors.sql.postgres import source as source_module
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import ConfigError, DataError, TransientError
from nvisy_dagster.sdk.identity import root_ids

pytestmark = pytest.mark.anyio

# Local times are what some of the columns hold.
# ruff: noqa: DTZ001

TYPES = {
    # type in PostgreSQL: (what is inserted, type in Arrow, what is read)
    "bool": ("true", pa.bool_(), True),
    "smallint": ("-32768", pa.int16(), -(2**15)),
    "integer": ("-2147483648", pa.int32(), -(2**31)),
    "bigint": ("9223372036854775807", pa.int64(), 2**63 - 1),
    "oid": ("4294967295", pa.int64(), 2**32 - 1),
    "real": ("1.5", pa.float32(), 1.5),
    "double precision": ("-1e300", pa.float64(), -1e300),
    "numeric(9,3)": ("-123456.789", pa.decimal128(9, 3), Decimal("-123456.789")),
    "numeric(5)": ("12345", pa.decimal128(5, 0), Decimal(12345)),
    "numeric(60,2)": ("1" * 58 + ".25", pa.decimal256(60, 2), Decimal("1" * 58 + ".25")),
    "numeric": ("3." + "14" * 40, pa.string(), "3." + "14" * 40),
    "numeric(3,-2)": ("12345", pa.string(), "12300"),
    "text": ("äöü 🎉\n'\"\\", pa.string(), "äöü 🎉\n'\"\\"),
    "varchar(3)": ("abc", pa.string(), "abc"),
    "char(3)": ("a", pa.string(), "a  "),
    '"char"': ("x", pa.string(), "x"),
    "name": ("n", pa.string(), "n"),
    "bytea": ("\\x00ff", pa.binary(), b"\0\xff"),
    "uuid": (
        "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        pa.uuid(),
        uuid.UUID("a0eebc999c0b4ef8bb6d6bb9bd380a11"),
    ),
    "date": ("4712-01-01 BC", pa.date32(), None),
    "date[]": ("{1969-12-31,NULL}", pa.list_(pa.date32()), [dt.date(1969, 12, 31), None]),
    "time": ("23:59:59.999999", pa.time64("us"), dt.time(23, 59, 59, 999_999)),
    "timetz": ("12:00+02", pa.string(), "12:00:00+02"),
    "timestamp": ("0001-01-01 00:00", pa.timestamp("us"), dt.datetime(1, 1, 1)),
    "timestamptz": ("2024-05-17 14:30:15.123456+02", pa.timestamp("us", "UTC"), MOMENT),
    "interval": ("1 year 2 days 03:00", pa.string(), "P1Y2DT3H"),
    "json": ('{"a": 1}', pa.string(), '{"a": 1}'),
    "jsonb": ('{"a":1}', pa.string(), '{"a": 1}'),
    "inet": ("10.0.0.1/8", pa.string(), "10.0.0.1/8"),
    "int4range": ("[1,3)", pa.string(), "[1,3)"),
    "mood": ("sad", pa.string(), "sad"),
    "mood[]": ("{sad,NULL}", pa.list_(pa.string()), ["sad", None]),
    "cents": ("1.25", pa.decimal128(4, 2), Decimal("1.25")),
    "pair": ("(1,x)", pa.string(), "(1,x)"),
    "bigint[]": ("{1,NULL,-3}", pa.list_(pa.int64()), [1, None, -3]),
    "text[]": ('{a,"",NULL,"{,}"}', pa.list_(pa.string()), ["a", "", None, "{,}"]),
    "numeric(5,2)[]": ("{1.5,NULL}", pa.list_(pa.decimal128(5, 2)), [Decimal("1.50"), None]),
    "uuid[]": ("{}", pa.list_(pa.uuid()), []),
    "vector(3)": ("[1,2,-3.5]", pa.list_(pa.float32(), 3), [1, 2, -3.5]),
    "halfvec(2)": ("[1,-0.5]", pa.list_(pa.float32(), 2), [1, -0.5]),
    "vector": ("[1,2]", pa.list_(pa.float32()), [1, 2]),
}


async def test_every_type(vectors):
    vectors.query("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    vectors.query("CREATE DOMAIN cents AS numeric(4, 2) CHECK (VALUE > 0)")
    vectors.query("CREATE TYPE pair AS (a int, b text)")
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(TYPES))
    vectors.query(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    values = ", ".join("'" + text.replace("'", "''") + "'" for text, _, _ in TYPES.values())
    nulls = ", ".join("NULL" for _ in TYPES)
    vectors.query(f"INSERT INTO t VALUES (1, {nulls}), (2, {values}), (3, {nulls})")
    table = await read(vectors.connection)
    assert table.schema.field("id").equals(pa.field("id", pa.int32(), nullable=False))
    for number, (name, (_, kind, wanted)) in enumerate(TYPES.items()):
        column = table.column(f"c{number}")
        assert column.type == kind, name
        assert column.is_null().to_pylist() == [True, False, True], name
        if wanted is not None:
            assert column[1].as_py() == wanted, name
    assert (
        table.column(f"c{list(TYPES).index('date')}").cast(pa.int32())[1].as_py() == -2440588 + 404
    )


async def test_what_the_sink_wrote_comes_back(database):
    batch = records({name: array for name, (_, array, _) in COLUMNS.items()})
    await write(database.connection, [batch])
    table = (await read(database.connection, key=("_id",))).to_pydict()
    origin = {
        row[0].bytes: row[1] for row in database.query("SELECT _id, _source->'position' FROM t")
    }
    assert len(origin) == 3
    order = [origin[uuid.UUID(uri["uri"].partition("=")[2]).bytes] for uri in table["_source"]]
    for name, (kind, array, wanted) in COLUMNS.items():
        found = [table[name][order.index(row)] for row in range(3)]
        if kind == "jsonb":
            found = [None if text is None else json.loads(text) for text in found]
        if name not in {"span", "float16"}:
            assert found == (wanted or array.to_pylist()), name


async def test_vectors_as_arrays_and_pgvector(vectors):
    values = np.random.default_rng(7).normal(size=(50, 3)).astype(np.float32)
    batch = records({"v": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3)})
    await write(vectors.connection, [batch])
    vectors.query(
        "ALTER TABLE t ADD n int UNIQUE NOT NULL "
        "GENERATED ALWAYS AS ((_source->>'position')::int) STORED"
    )
    found = (await read(vectors.connection, key=("n",))).column("v").combine_chunks()
    np.testing.assert_array_equal(found.flatten().to_numpy(), values.ravel())


async def test_ids_say_where_a_row_is(database):
    database.query("CREATE TABLE t (id bigint PRIMARY KEY, a text, b int, UNIQUE (b, a))")
    database.query("INSERT INTO t VALUES (-7, 'ä/ &', 5), (9, 'x', 6)")
    place = f"postgres://127.0.0.1:{database.server.port}/postgres/public.t"
    table = await read(database.connection)
    assert table["_source"].to_pylist() == [
        {"uri": place, "position": -7},
        {"uri": place, "position": 9},
    ]
    ids = [bytes(row.tobytes()) for row in root_ids(place, np.array([-7, 9]))]
    assert table["_id"].to_pylist() == table["_root_id"].to_pylist() == ids
    table = await read(database.connection, key=("a", "b"))
    assert table["_source"].to_pylist() == [
        {"uri": f"{place}?a=x&b=6", "position": 0},
        {"uri": f"{place}?a=%C3%A4%2F%20%26&b=5", "position": 0},
    ]


@pytest.mark.parametrize(
    "key", ["n", "n::text", "(n * 0.1)::numeric", "md5(n::text)::uuid", "-n::float8",
            "'2024-01-01'::timestamptz + n * interval '1 us'", "('x''\\' || n)::varchar(9)",
            "n::text::char(5)", "(n % 2 = 0), n"]
)  # fmt: skip
async def test_pages_by_any_key(database, key):
    database.query(f"CREATE TABLE s AS SELECT {key} FROM generate_series(1, 23) n")
    names = [name for (name,) in database.query(
        "SELECT quote_ident(attname) FROM pg_attribute "
        "WHERE attrelid = 's'::regclass AND attnum > 0"
    )]  # fmt: skip
    database.query(f"ALTER TABLE s RENAME TO t; ALTER TABLE t ADD PRIMARY KEY ({', '.join(names)})")
    table = await read(database.connection, batch_rows=5)
    assert len(set(table["_id"].to_pylist())) == table.num_rows == 23


async def test_large_rows_make_small_batches(database, monkeypatch):
    monkeypatch.setattr(source_module, "PIECE_BYTES", 100_000)
    database.query("CREATE TABLE t (id int PRIMARY KEY, body text)")
    database.query("INSERT INTO t SELECT n, repeat('x', 40000) FROM generate_series(1, 100) n")
    async with source(database.connection) as reader:
        batches = [batch async for batch in reader.read(None)]
        assert {batch.data.num_rows for batch in batches} == {3, 1}
        rest = []
        async for batch in reader.read(batches[20].cursor):
            rest += batch.data["id"].to_pylist()
    assert rest == list(range(64, 101))


async def test_conditions_and_columns(database):
    database.query('CREATE TABLE t (id int PRIMARY KEY, "Odd ""%s name" text, _id uuid, z int)')
    database.query("INSERT INTO t SELECT n, n, NULL, n % 3 FROM generate_series(1, 9) n")
    table = await read(database.connection, where="z = 1 OR t.id = 2 -- why not")
    assert table["id"].to_pylist() == [1, 2, 4, 7]
    assert table.schema.names[7:] == ["id", 'Odd "%s name', "z"]
    table = await read(database.connection, columns=("z",), where="false OR id > 7", batch_rows=1)
    assert table.select(["z"]).to_pydict() == {"z": [2, 0]}


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("idd > 1", "idd"),
        ("id >", "syntax error"),
        ("id > 'x'", "invalid input"),
        ("nextval('s') > 0", "read-only"),
        ("true)) TO STDOUT; COMMIT; CREATE TABLE hacked (); COPY ((SELECT 1", "multiple commands"),
    ],
)
async def test_bad_conditions(database, where, told):
    database.query(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE SEQUENCE s"
    )
    with pytest.raises((ConfigError, TransientError), match=told) as caught:
        await read(database.connection, where=where)
    assert told == "read-only" or "param 'where'" in caught.value.message
    assert database.query("SELECT to_regclass('hacked')") == [(None,)]


@pytest.mark.parametrize(
    ("params", "message", "remedy"),
    [
        ({"table": "orderz"}, "no table public.orderz", "did you mean 'orders'"),
        ({"table": "shop.orders"}, "no table", '"schema": "shop", "table": "orders"'),
        ({"columns": ("idd",)}, "'columns' names 'idd'", "did you mean 'id'"),
        ({"key": ("nr",)}, "'key' names 'nr'", "it has id"),
        ({"cursor_column": "upd"}, "'cursor_column' names 'upd'", "updated"),
        ({"cursor_column": "name"}, "of type text", "a time, a date or a whole number"),
        ({"columns": ("_id",)}, "reserved", "leave it out"),
        ({"table": "loose"}, "nothing tells the rows of public.loose apart", "'key'"),
    ],
)
async def test_params_that_do_not_fit(database, params, message, remedy):
    database.query("CREATE TABLE orders (id int PRIMARY KEY, name text, updated date, _id uuid)")
    database.query("CREATE TABLE loose (id int UNIQUE, name text)")
    with pytest.raises(ConfigError) as caught:
        await read(database.connection, **{"table": "orders", **params})
    assert message in caught.value.message
    assert remedy in (caught.value.remedy or "")


@pytest.mark.parametrize("rows", ["(1), (2), (2), (3)", "(1), (NULL), (2), (3)"])
@pytest.mark.parametrize("batch_rows", [1, 2, 3, 10])
async def test_a_key_that_tells_nothing_apart(database, rows, batch_rows):
    database.query(f"CREATE TABLE t (n int); INSERT INTO t VALUES {rows}")
    with pytest.raises(ConfigError, match=r"same key|is null"):
        await read(database.connection, key=("n",), batch_rows=batch_rows)


async def test_permission_denied(database):
    database.query("CREATE TABLE t (id int PRIMARY KEY)")
    database.query(
        "DROP ROLE IF EXISTS nobody_else; "
        "CREATE ROLE nobody_else LOGIN PASSWORD 'secret-secret'; "
        "GRANT USAGE ON SCHEMA public TO nobody_else"
    )
    fields = database.connection.model_dump() | {
        "username": "nobody_else",
        "password": "secret-secret",
    }
    with pytest.raises(ConfigError) as caught:
        await read(PostgresConnection.model_validate(fields), where="id > 0")
    assert caught.value.tag == "auth"


async def test_what_arrow_cannot_hold(database):
    database.query(
        "CREATE TABLE t "
        "(id int PRIMARY KEY, d date, m timestamptz, n numeric(4,1), a int[], h time)"
    )
    for row in (
        "1, '2024-01-01', now(), 1.5, '{1}', '01:00'",
        "2, 'infinity'",
        "3, NULL, '-infinity'",
        "4, NULL, NULL, 'NaN'",
        "5, NULL, NULL, NULL, '{{1},{2}}'",
        "6, NULL, NULL, NULL, NULL, '24:00'",
        "7",
        "8, NULL, '294246-01-01'",
    ):
        database.query(f"INSERT INTO t VALUES ({row})")
    with pytest.raises(DataError, match="key 2: column 'd' holds an infinite date"):
        await read(database.connection)
    async with source(database.connection, batch_rows=3) as reader:
        reader.bad_records = "reject"
        batches = [batch async for batch in reader.read(None)]
    assert [row for batch in batches for row in batch.data["id"].to_pylist()] == [1, 7, 8]
    rejected = [one for batch in batches for one in batch.rejected]
    assert [one.position for one in rejected] == [2, 3, 4, 5, 6]
    assert json.loads(rejected[0].data)["id"] == 2
    reasons = ["infinite date", "infinite time", "NaN", "several dimensions", "24:00"]
    assert all(word in one.reason for word, one in zip(reasons, rejected, strict=True))


async def test_goes_on_after_its_session_ended(database):
    database.query("CREATE TABLE t (id int PRIMARY KEY, x text)")
    database.query("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n")
    seen, ended = [], 0
    async with source(database.connection, batch_rows=500) as reader:
        cursor = None
        for _ in range(100):
            try:
                async for batch in reader.read(cursor):
                    seen += batch.data["id"].to_pylist()
                    cursor = batch.cursor
                    ended += database.server.terminate_sessions()
                break
            except TransientError as error:
                assert error.tag == "connection"  # noqa: PT017 - and it is tried again
    assert seen == list(range(1, 5001))
    assert ended >= 4


async def test_a_timeout_is_told_with_what_helps(database):
    database.query("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    address = PostgresConnection.model_validate({
        "url": f"{database.url}?options=-cstatement_timeout%3D200"
    })
    with pytest.raises(TransientError, match="batch_rows") as caught:
        await read(address, where="pg_sleep(30) IS NOT NULL")
    assert caught.value.tag == "timeout"


async def test_cancelled_the_server_stops_too(database):
    database.query("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    with anyio.move_on_after(0.5):
        async with source(database.connection) as reader:
            reader.params = reader.params.model_copy(update={"where": "pg_sleep(60) IS NOT NULL"})
            async for _ in reader.read(None):
                pass
    await anyio.sleep(0.2)
    left = database.query("SELECT query FROM pg_stat_activity WHERE application_name = 'nvisy'")
    assert left == []


async def test_an_altered_table_is_told(database):
    database.query("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
    async with source(database.connection, batch_rows=1) as reader:
        rows = reader.read(None)
        first = await anext(rows)
        await rows.aclose()
        database.query("ALTER TABLE t ADD x text")
        with pytest.raises(ConfigError, match="altered"):
            await anext(reader.read(first.cursor))


def test_sink_and_source_meet_on_the_lineage_page(database):
    read_from = source(database.connection, table="t", schema="s").location()
    sink = PostgresSink(PostgresSinkParams(table="t", schema="s"), database.connection)
    assert read_from == sink.location()
    assert read_from is not None
    assert database.connection.password.get_secret_value() not in read_from


async def test_a_server_that_only_reads_is_read(database):
    database.query("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    database.query("ALTER SYSTEM SET default_transaction_read_only = on")
    database.query("SELECT pg_reload_conf()")
    try:
        assert (await read(database.connection)).num_rows == 1
    finally:
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")
