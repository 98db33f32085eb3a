"""Graphs that read PostgreSQL, killed and cut off; the oracle reads tables and files by itself."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import postgres_source_target
import pytest

ROWS = 3000
FAILPOINTS = [
    "sink.before_commit:2",
    pytest.param("sink.after_write:7", marks=pytest.mark.soak),
    pytest.param("checkpoint.after_write:3", marks=pytest.mark.soak),
]


def start(folder, database, graph, **environment):
    here = Path(__file__).parent
    paths = [here, here.parent, here.parent / "engine"]
    arguments = [folder, database.server.port, database.name, graph]
    return subprocess.Popen(
        [sys.executable, str(here / "postgres_source_target.py"), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "NVISY_LEASE_SECONDS": "1",
            **environment,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    _, told = process.communicate(timeout=180)
    assert process.returncode in {0, -signal.SIGKILL}, told
    return process.returncode == 0


def fill(database):
    database.query("CREATE TABLE t (id uuid PRIMARY KEY, n int, text text)")
    database.query(
        f"INSERT INTO t SELECT md5(n::text)::uuid, n, 'x' FROM generate_series(0, {ROWS - 1}) n"
    )


def written(folder):
    files = (folder / "out").glob("*.jsonl")
    lines = [line for file in files for line in file.read_text().splitlines()]
    return Counter(json.loads(line)["n"] for line in lines)


def there(folder):
    """Names of the parts; what is in them may be gone a moment later."""
    return {file.name for file in (folder / "out").glob("*.jsonl")}


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_in_the_middle_of_the_table(database, tmp_path, failpoint):
    fill(database)
    assert not ended(start(tmp_path, database, "to_files", NVISY_FAILPOINT=failpoint))
    assert ended(start(tmp_path, database, "to_files"))
    assert written(tmp_path) == Counter(range(ROWS))


def test_killed_at_any_moment(database, tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    fill(database)
    for _ in range(2):
        parts = there(tmp_path)
        process = start(tmp_path, database, "to_files")
        # However long it takes to start, it comes some way, and not to its end.
        while process.poll() is None and there(tmp_path) == parts:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        process.kill()
        if ended(process):
            break
    else:
        assert ended(start(tmp_path, database, "to_files"))
    assert written(tmp_path) == Counter(range(ROWS))


def test_its_sessions_end_all_the_time(database, tmp_path):
    fill(database)
    over = threading.Event()
    terminated = 0

    def terminate():
        nonlocal terminated
        while not over.wait(0.03):
            terminated += database.server.terminate_sessions()

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        postgres_source_target.run(tmp_path, database.server.port, database.name, "to_files")
    finally:
        over.set()
        thread.join()
    assert terminated > 0
    assert written(tmp_path) == Counter(range(ROWS))


def test_changed_rows_replace_what_was_made_of_them(database, tmp_path):
    """Random edits, each run killed somewhere; then the words are those of the rows."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    database.query(
        "CREATE TABLE t (id int PRIMARY KEY, text text, gone bool DEFAULT false, "
        "at timestamptz DEFAULT clock_timestamp())"
    )
    database.query("CREATE INDEX ON t (at, id)")
    database.query(
        "INSERT INTO t SELECT n, substr(repeat(md5(n::text), 3), 1, 1 + n % 90) "
        "FROM generate_series(1, 300) n"
    )
    points = [
        "sink.after_write",
        "sink.after_remove",
        "sink.before_commit",
        "sink.after_commit",
        "checkpoint.after_write",
        "bookmark.touched",
        "bookmark.before_current",
        "bookmark.after_current",
    ]
    for _ in range(4):
        point = f"{chance.choice(points)}:{chance.randint(1, 2)}"
        ended(start(tmp_path, database, "incremental", NVISY_FAILPOINT=point))
        edit(database, chance)
        result = postgres_source_target.run(
            tmp_path, database.server.port, database.name, "incremental"
        )
        edit(database, chance)
    result = postgres_source_target.run(
        tmp_path, database.server.port, database.name, "incremental"
    )
    counts = result.metrics["rows"].counts
    assert counts.records_in < 150  # and not all that is there
    wanted = dict(database.query("SELECT id, text FROM t WHERE NOT gone"))
    found = dict(database.query(
        "SELECT id, string_agg(text, '' ORDER BY index) FROM words GROUP BY id"
    ))  # fmt: skip
    assert found == wanted


def edit(database, chance):
    ids = chance.sample(range(1, 301), 20)
    database.query(
        "UPDATE t SET text = substr(md5(random()::text), 1, 1 + (random() * 30)::int), "
        "at = clock_timestamp() WHERE id = ANY(%s)",
        [ids[:12]],
    )
    database.query(
        "UPDATE t SET gone = NOT gone, at = clock_timestamp() WHERE id = ANY(%s)", [ids[12:]]
    )
    database.query("INSERT INTO t (id, text) SELECT max(id) + 1, 'anewone' FROM t")
