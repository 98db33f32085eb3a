"""Incremental reads by a cursor column: what is new, what changed, what came late, what left."""

import psycopg
import pyarrow as pa
import pytest
from postgres_source_target import incremental, registry
from sql_reading import changes, kept, sent, source

from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.sdk import Bookmark, ConfigError, DataError

pytestmark = pytest.mark.anyio

NOW = "clock_timestamp()"


@pytest.fixture
def table(database):
    """Rows by a time; those of one moment are many."""
    database.query(f"CREATE TABLE t (id int PRIMARY KEY, word text, at timestamptz DEFAULT {NOW})")
    database.query("CREATE INDEX ON t (at)")
    database.query("INSERT INTO t SELECT n, 'old', '2024-01-01' FROM generate_series(1, 10) n")
    return database


def counts(found):
    names = ("new", "changed", "removed", "unchanged")
    return tuple(sum(getattr(change.counts, name) for change in found) for name in names)


async def test_new_and_changed_rows(table):
    first = await changes(table.connection, cursor_column="at", batch_rows=3)
    assert sent(first) == list(range(1, 11))
    again = await changes(table.connection, kept(first), cursor_column="at", batch_rows=3)
    assert sent(again) == []
    assert counts(again) == (0, 0, 0, 10)  # all of one moment: the window has them all
    table.query("INSERT INTO t VALUES (11, 'new'), (12, 'new')")
    table.query(f"UPDATE t SET word = 'changed', at = {NOW} WHERE id = 4")
    third = await changes(table.connection, kept(again), cursor_column="at", batch_rows=3)
    assert sorted(sent(third)) == [4, 11, 12]
    assert counts(third) == (0, 3, 0, 9)
    fourth = await changes(table.connection, kept(third), cursor_column="at", batch_rows=3)
    assert sent(fourth) == []
    assert counts(fourth)[3] == 3  # those of long ago are not read any more


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date", "bigint", "int2"])
async def test_ties_at_the_edge_are_not_lost(database, kind):
    numbers = kind in {"bigint", "int2"}
    value = "7" if numbers else "'2024-01-01'"
    database.query(f"CREATE TABLE t (id int PRIMARY KEY, at {kind})")
    database.query(f"INSERT INTO t SELECT n, {value} FROM generate_series(1, 20) n")
    # The lag is none: only what is of the very same value is read again.
    params = {"cursor_column": "at", "batch_rows": 3} | ({} if numbers else {"lag_seconds": 0})
    first = await changes(database.connection, **params)
    assert len(sent(first)) == 20
    database.query(f"INSERT INTO t SELECT n, {value} FROM generate_series(21, 40) n")
    second = await changes(database.connection, kept(first), **params)
    assert sent(second) == list(range(21, 41))
    assert counts(second)[3] == 20


async def test_a_commit_that_comes_late(table):
    with psycopg.connect(table.url) as late:
        late.execute("INSERT INTO t VALUES (100, 'late', now())")
        table.query("INSERT INTO t VALUES (11, 'soon')")
        params = {"cursor_column": "at", "lag_seconds": 0}
        first = await changes(table.connection, **params)
        assert sent(first) == list(range(1, 12))
        late.commit()
    # Even without a lag: the transaction was seen, and how old it was.
    second = await changes(table.connection, kept(first), **params)
    assert sent(second) == [100]


async def test_a_late_commit_that_nobody_sees_is_what_the_lag_is_for(table):
    table.query(f"INSERT INTO t VALUES (11, 'soon', {NOW})")
    first = await changes(table.connection, cursor_column="at")
    # As if its transaction had begun two minutes before the run, and been another user's.
    table.query(f"INSERT INTO t VALUES (100, 'late', {NOW} - interval '2 min')")
    table.query(f"INSERT INTO t VALUES (101, 'too late', {NOW} - interval '20 min')")
    assert sent(await changes(table.connection, kept(first), cursor_column="at")) == [100]


async def test_serial_numbers_wait_for_who_is_writing(database, monkeypatch):
    monkeypatch.setattr("nvisy_connectors.sql.postgres.highest.SETTLE_SECONDS", 0.3)
    database.query("CREATE TABLE t (id serial PRIMARY KEY, word text)")
    database.query("INSERT INTO t (word) SELECT 'x' FROM generate_series(1, 10)")
    first = await changes(database.connection, cursor_column="id", batch_rows=3)
    with psycopg.connect(database.url) as late:
        late.execute("INSERT INTO t (word) VALUES ('late')")
        database.query("INSERT INTO t (word) VALUES ('soon')")
        second = await changes(database.connection, kept(first), cursor_column="id")
        assert sent(second) == [12]
        late.commit()
    third = await changes(database.connection, kept(second), cursor_column="id")
    assert sent(third) == [11]
    fourth = await changes(database.connection, kept(third), cursor_column="id")
    assert (sent(fourth), counts(fourth)) == ([], (0, 0, 0, 1))


async def test_a_serial_that_settles_is_complete_at_once(database):
    import threading

    database.query("CREATE TABLE t (id serial PRIMARY KEY, word text)")
    with psycopg.connect(database.url) as late:
        late.execute("INSERT INTO t (word) VALUES ('late')")
        database.query("INSERT INTO t (word) VALUES ('soon')")
        timer = threading.Timer(0.5, late.commit)
        timer.start()
        assert sent(await changes(database.connection, cursor_column="id")) == [1, 2]
        timer.join()


async def test_a_row_dated_ahead_hides_nothing(table):
    table.query("INSERT INTO t VALUES (50, 'ahead', '2999-01-01'), (51, 'never', 'infinity')")
    params = {"cursor_column": "at", "columns": ("id", "word")}
    first = await changes(table.connection, **params)
    table.query("INSERT INTO t VALUES (52, 'now')")
    second = await changes(table.connection, kept(first), **params)
    assert sent(second) == [52]


async def test_a_table_that_was_filled_anew(database):
    database.query("CREATE TABLE t (id serial PRIMARY KEY)")
    database.query("INSERT INTO t SELECT FROM generate_series(1, 10)")
    first = await changes(database.connection, cursor_column="id")
    database.query("TRUNCATE t RESTART IDENTITY")
    database.query("INSERT INTO t SELECT FROM generate_series(1, 4)")
    second = await changes(database.connection, kept(first), cursor_column="id")
    assert sent(second) == [1, 2, 3, 4]


async def test_an_empty_table_and_nulls(table):
    table.query("DELETE FROM t")
    empty = await changes(table.connection, cursor_column="at")
    assert sent(empty) == []
    table.query(f"INSERT INTO t VALUES (1, 'x', NULL), (2, 'y', {NOW})")
    second = await changes(table.connection, kept(empty), cursor_column="at")
    assert sent(second) == [1, 2]
    table.query("INSERT INTO t VALUES (3, 'x', NULL)")
    assert sent(await changes(table.connection, kept(second), cursor_column="at")) == []


async def test_what_leaves_the_condition_is_gone(table):
    table.query("ALTER TABLE t ADD deleted_at timestamptz")
    params = {"cursor_column": "at", "where": "deleted_at IS NULL -- not deleted"}
    first = await changes(table.connection, **params)
    ids = dict(zip(sent(first), sent(first, "_id"), strict=True))
    table.query(f"UPDATE t SET deleted_at = now(), at = {NOW} WHERE id IN (3, 5)")
    second = await changes(table.connection, kept(first), **params)
    gone = [one for change in second if change.gone is not None for one in change.gone.to_pylist()]
    assert sent(second) == []
    assert gone == [ids[3], ids[5]]
    third = await changes(table.connection, kept(second), **params)
    assert sent(third) == []
    # Everything is to be read again: what left before that is told, too.
    table.query("UPDATE t SET deleted_at = now() WHERE id = 7")
    bookmark = Bookmark(last=kept(third), trusted=False)
    async with source(table.connection, **params) as reader:
        fresh = [change async for change in reader.read_changes(None, bookmark)]
    gone = [one for change in fresh if change.gone is not None for one in change.gone.to_pylist()]
    assert sent(fresh) == [1, 2, 4, 6, 8, 9, 10]
    assert gone == [ids[3], ids[5], ids[7]]


async def test_goes_on_from_every_cursor(table):
    first = await changes(table.connection, cursor_column="at")
    table.query("INSERT INTO t SELECT n, 'n', '2025-01-01' FROM generate_series(11, 30) n")
    bookmark = Bookmark(last=kept(first), trusted=True)
    for given in (Bookmark(), bookmark):
        async with source(table.connection, cursor_column="at", batch_rows=4) as reader:
            whole = [change async for change in reader.read_changes(None, given)]
            for place, change in enumerate(whole):
                cursor = type(change.cursor).model_validate_json(change.cursor.model_dump_json())
                rest = [one async for one in reader.read_changes(cursor, given)]
                assert sent(rest) == sent(whole[place + 1 :]), place
                assert pa.Table.from_batches(kept(whole)).equals(
                    pa.Table.from_batches([*kept(whole[: place + 1]), *kept(rest)])
                )


def test_without_a_cursor_column_no_run_begins(tmp_path):
    document = incremental(tmp_path)
    del document["nodes"][0]["params"]["cursor_column"]
    with pytest.raises(GraphErrors) as caught:
        compile_graph(build_graph(document), registry=registry())
    [error] = caught.value.errors
    assert error.path == "$.nodes[0].params"
    assert "'cursor_column' is missing" in error.message


async def test_what_it_needs(database):
    database.query("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
    with pytest.raises(ConfigError, match="'cursor_column' is missing"):
        await changes(database.connection)


async def test_a_bad_row_in_the_window_is_told_once_it_changes(table):
    table.query("ALTER TABLE t ADD d date")
    first = await changes(table.connection, cursor_column="at")
    table.query("INSERT INTO t VALUES (11, 'x', now(), 'infinity')")
    with pytest.raises(DataError, match="key 11"):
        await changes(table.connection, kept(first), cursor_column="at")
