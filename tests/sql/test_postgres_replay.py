"""Dead letters of the source: the rows are read again by their keys, as they are by then."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from postgres_replay_target import STORAGE, plan
from sql_database import Database
from sql_reading import source

from nvisy_dagster.engine.dead_letter import letter_ids
from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox
from nvisy_dagster.engine.replay import Replay, ReplayResult
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.sdk import ConfigError, Decoded, RejectedRecord

pytestmark = pytest.mark.anyio

TARGET = Path(__file__).parent / "postgres_replay_target.py"


async def run(folder: Path, database: Database, **params: Any) -> RunResult:
    connections = {"database": database.connection}
    return await run_plan(plan(folder, **params), connections, storage=folder / STORAGE)


async def replay(folder: Path, database: Database, **params: Any) -> ReplayResult:
    again = Replay(plan(folder, **params), folder / STORAGE, "again")
    return await again.run({"database": database.connection})


def letters(folder: Path) -> list[dict[str, Any]]:
    return DeadLetterBox(folder / STORAGE, "g").letters(ALL).to_pylist()


def became(folder: Path) -> dict[int, tuple[str, int, str | None]]:
    return {one["position"]: (one["status"], one["attempt"], one["tag"]) for one in letters(folder)}


def written(folder: Path) -> list[dict[str, Any]]:
    files = (folder / "out").glob("*")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(rows, key=str)


async def test_rows_are_read_again_as_they_are_now(tmp_path, database):
    database.query("CREATE TABLE t (id int PRIMARY KEY, d date, gone bool DEFAULT false)")
    database.query(
        "INSERT INTO t SELECT n, CASE WHEN n % 2 = 0 THEN 'infinity' ELSE '2024-01-01' END::date "
        "FROM generate_series(1, 12) n"
    )
    params = {"where": "NOT gone", "columns": ["id", "d"]}
    await run(tmp_path, database, **params)
    assert {row["id"] for row in written(tmp_path)} == {1, 3, 5, 7, 9, 11}
    database.query("UPDATE t SET d = '2025-02-02' WHERE id IN (2, 4)")
    database.query("UPDATE t SET d = '2025-02-02', gone = true WHERE id = 6")
    database.query("DELETE FROM t WHERE id = 8")
    result = await replay(tmp_path, database, **params)
    assert not result.refused
    assert (result.letters, result.through, result.failed) == (6, 2, 4)
    assert [row for row in written(tmp_path) if row["id"] in {2, 4}] == [
        {"id": 2, "d": "2025-02-02"},
        {"id": 4, "d": "2025-02-02"},
    ]
    assert became(tmp_path) == {
        2: ("replayed", 1, "validation"),
        4: ("replayed", 1, "validation"),
        6: ("open", 2, "not_found"),
        8: ("open", 2, "not_found"),
        10: ("open", 2, "validation"),
        12: ("open", 2, "validation"),
    }
    told = {one["position"]: one["message"] for one in letters(tmp_path)}
    place = f"postgres://127.0.0.1:{database.server.port}/postgres/public.t"
    assert told[8] == (
        f"the row {place}, key 8: it is gone, or does not meet the condition of the source any more"
    )
    assert told[10].startswith("column 'd' holds an infinite date")


async def test_rows_of_any_key_are_found(tmp_path, database):
    keys = [("ä/ &=?", 1, "a'b\\"), ("", 2, ""), ("x", 3, "y"), ("x", 3, "z")]
    database.query("CREATE TABLE t (a text, b int, c varchar(9), d date, PRIMARY KEY (a, b, c))")
    for key in keys:
        database.query("INSERT INTO t VALUES (%s, %s, %s, 'infinity')", key)
    await run(tmp_path, database)
    before = {one["letter_id"] for one in letters(tmp_path)}
    assert len(before) == 4
    database.query("UPDATE t SET d = '2024-01-01' WHERE c <> 'z'")
    result = await replay(tmp_path, database)
    assert (result.letters, result.through, result.failed) == (4, 3, 1)
    assert {(row["a"], row["b"], row["c"]) for row in written(tmp_path)} == set(keys[:3])
    assert {one["letter_id"] for one in letters(tmp_path)} == before


async def test_a_run_that_gets_a_row_through_closes_its_letter(tmp_path, database):
    database.query("CREATE TABLE t (id bigint PRIMARY KEY, b text UNIQUE NOT NULL, d date)")
    database.query("INSERT INTO t VALUES (-7, 'x y', 'infinity'), (8, 'z', 'infinity')")
    for name, params in (("number", {}), ("text", {"key": ["b"]})):
        folder = tmp_path / name
        folder.mkdir()
        database.query("UPDATE t SET d = 'infinity'")
        await run(folder, database, **params)
        rejected = {one["letter_id"] for one in letters(folder)}
        database.query("UPDATE t SET d = '2024-01-01' WHERE id = 8")
        await run(folder, database, **params)
        assert sorted(one["status"] for one in letters(folder)) == ["open", "superseded"]
        database.query("UPDATE t SET d = '2024-01-01'")
        async with source(database.connection, **params) as reader:
            [batch] = [batch.data async for batch in reader.read(None)]
        # A letter's id is made of that of the record which the row would have been.
        assert set(letter_ids("rows", batch).to_pylist()) == rejected


async def test_what_cannot_be_found_is_told(tmp_path, database):
    database.query("CREATE TABLE t (id int PRIMARY KEY, b text UNIQUE NOT NULL, d date)")
    database.query("CREATE TABLE other (id int PRIMARY KEY, d date)")
    database.query("INSERT INTO t VALUES (1, 'one', 'infinity')")
    database.query("INSERT INTO other VALUES (1, '2024-01-01')")
    await run(tmp_path, database)
    for params, told in (
        ({"key": ["b"]}, "the source tells rows apart by other columns now: b"),
        ({"table": "other"}, f"the source reads {place(database, 'other')} now"),
    ):
        result = await replay(tmp_path, database, **params)
        assert (result.through, result.failed) == (0, 1)
        [letter] = letters(tmp_path)
        assert letter["message"] == f"the row {place(database, 't')}, key 1: {told}"
    assert written(tmp_path) == []


def place(database: Database, table: str) -> str:
    return f"postgres://127.0.0.1:{database.server.port}/postgres/public.{table}"


async def decoded(
    database: Database, rejected: list[RejectedRecord], **params: Any
) -> list[Decoded]:
    async with source(database.connection, **params) as reader:
        return [found async for found in reader.decode(rejected)]


async def test_letters_are_cut_in_the_same_way_whatever_the_rows_hold(database):
    database.query("CREATE TABLE t (id int PRIMARY KEY, x text)")
    database.query("INSERT INTO t SELECT n, 'x' FROM generate_series(1, 300) n WHERE n % 3 > 0")
    wanted = [RejectedRecord(place(database, "t"), n, None, "") for n in range(1, 301)]
    small = await decoded(database, wanted)
    # As large as several pieces of what the server sends.
    database.query("UPDATE t SET x = repeat(md5(id::text), 8000)")
    large = await decoded(database, wanted)
    for found in (small, large):
        assert [one.data.num_rows + len(one.rejected) for one in found] == [128, 128, 44]
        assert sum(one.data.num_rows for one in found) == 200
        assert {one.position % 3 for some in found for one in some.rejected} == {0}
    assert np.array_equal(
        np.sort([row for one in large for row in one.data["id"].to_pylist()]),
        [n for n in range(1, 301) if n % 3],
    )


async def test_an_uncertain_key_that_finds_two_rows_is_refused(database):
    database.query("CREATE TABLE t (id int, x text)")
    database.query("INSERT INTO t VALUES (1, 'a'), (1, 'b'), (2, 'c')")
    with pytest.raises(ConfigError, match=r"several rows of public\.t have the same key"):
        await decoded(database, [RejectedRecord(place(database, "t"), 1, None, "")], key=("id",))
    [found] = await decoded(
        database, [RejectedRecord(place(database, "t"), 2, None, "")], key=("id",)
    )
    assert found.data["x"].to_pylist() == ["c"]


@pytest.mark.parametrize(
    "failpoint",
    [pytest.param("checkpoint.after_write:1", marks=pytest.mark.soak), "sink.after_commit:2"],
)
async def test_killed_and_resumed_no_row_is_lost_or_doubled(tmp_path, database, failpoint):
    database.query("CREATE TABLE t (id int PRIMARY KEY, d date)")
    database.query("INSERT INTO t SELECT n, 'infinity' FROM generate_series(1, 3000) n")
    await run(tmp_path, database)
    database.query("UPDATE t SET d = '2024-01-01' WHERE id <> 777")
    assert in_a_process(tmp_path, database, failpoint) == -signal.SIGKILL
    # What is left out now changes nothing of how the others are cut.
    box = DeadLetterBox(tmp_path / STORAGE, "g")
    listed = box.letters()
    box.mark(listed.filter(pc.less_equal(listed["position"], 100)), "discarded")
    assert in_a_process(tmp_path, database) == 0
    found = sorted(row["id"] for row in written(tmp_path))
    assert found == sorted(set(found))
    assert set(found) >= {n for n in range(101, 3001) if n != 777}
    assert [p for p, (status, *_) in became(tmp_path).items() if status == "open"] == [777]


def in_a_process(folder: Path, database: Database, failpoint: str = "") -> int:
    environment = {**os.environ, "NVISY_FAILPOINT": failpoint, "NVISY_LEASE_SECONDS": "5"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(TARGET), str(folder), str(database.server.port), database.name],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode
