"""Records that the server refuses, and roots that are removed."""

import pyarrow as pa
import pytest
from sql_records import records
from sql_writing import opened, write

from nvisy_dagster.sdk import (
    ConfigError,
    Progress,
)

pytestmark = pytest.mark.anyio


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
    assert database.numbers(column="u") == [i for i in range(count) if i not in wanted]


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
        assert database.numbers() == list(range(6)), "others see it before its commit"
        await sink.commit(1)
        await sink.remove(old["_root_id"].slice(4, 1))
        await sink.remove(old["_root_id"].slice(4, 1))
        await sink.commit(2)
    assert database.numbers() == [5, 100, 101, 106]


async def test_removing_needs_the_root(database):
    database.query("CREATE TABLE t (_id uuid PRIMARY KEY, n bigint)")
    async with await opened(database.connection) as sink:
        await sink.start(Progress("run", 0))
        with pytest.raises(ConfigError, match="has no column '_root_id'"):
            await sink.remove(records({"n": [1]})["_root_id"])
