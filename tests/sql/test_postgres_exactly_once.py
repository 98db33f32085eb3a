"""Records and checkpoint in one transaction: processes, sessions and servers are killed.

The oracle reads the table without the engine. `append` shows every record that is written twice.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import postgres_target
import pytest
from living_files import living_json
from servers.postgres import PostgresServer, postgres_server
from sql_database import Database

from nvisy_dagster.engine.run import run_plan

ROWS = 2000
WANTED = Counter(range(0, ROWS, 2))
LINES = [f"count {ROWS} {ROWS} 0", f"even {ROWS} {ROWS // 2} {ROWS // 2}"]
COUNTS = [*LINES, f"out {ROWS // 2} {ROWS // 2} 0"]

FAILPOINTS = [
    "sink.before_commit",
    "sink.after_commit",
    *(
        pytest.param(place, marks=pytest.mark.soak)
        for place in (
            "sink.after_write",
            "checkpoint.before_write",
            "storage.before_rename",
            "checkpoint.after_write",
        )
    ),
]


def numbers(database: Database) -> Counter[int]:
    """What the table holds."""
    if not database.query("SELECT to_regclass('numbers')")[0][0]:
        return Counter()
    return Counter(n for (n,) in database.query("SELECT n FROM numbers"))


def kept_epoch(database: Database) -> int:
    """Epoch of the checkpoint that is kept beside the records."""
    if not database.query("SELECT to_regclass('_nvisy_checkpoints')")[0][0]:
        return 0
    return database.query("SELECT coalesce(max(epoch), 0) FROM _nvisy_checkpoints")[0][0]


def kept_cursor(database: Database) -> int:
    """How far the source had come, by that checkpoint."""
    if not kept_epoch(database):
        return 0
    found = database.query("SELECT document FROM _nvisy_checkpoints WHERE document IS NOT NULL")
    source = json.loads(bytes(found[0][0]))["sources"]["count"]
    return ROWS if source["done"] else source["cursor"]["after"]


def filed_epoch(folder: Path) -> int:
    """Epoch of the checkpoint in the stage's folder."""
    found = living_json(folder / "state", "checkpoint.json")
    return max((one["epoch"] for one in found), default=0)


def start(
    folder: Path, database: Database, mode: str, **environment: str
) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    paths = [here, here.parent, here.parent / "engine"]
    arguments = [folder, ROWS, database.server.port, database.name, mode]
    return subprocess.Popen(
        [sys.executable, str(here / "postgres_target.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_durable(folder: Path, database: Database) -> None:
    """Each epoch is there whole, with its checkpoint, or not at all; the file is not ahead."""
    found = numbers(database)
    assert set(found.values()) <= {1}, "records were written twice"
    assert sorted(found) == list(range(0, 2 * len(found), 2)), "an epoch is there in part"
    assert filed_epoch(folder) <= kept_epoch(database) <= filed_epoch(folder) + 1
    assert len(found) == kept_cursor(database) // 2, "the checkpoint is not that of the records"


@pytest.mark.parametrize(
    "passage", [1, *(pytest.param(n, marks=pytest.mark.soak) for n in (2, 3, 4, 5))]
)
@pytest.mark.parametrize("place", FAILPOINTS)
def test_killed_at_a_failpoint(
    tmp_path: Path, database: Database, place: str, passage: int
) -> None:
    killed = start(tmp_path, database, "append", NVISY_FAILPOINT=f"{place}:{passage}")
    killed.communicate(timeout=180)
    assert killed.returncode == -signal.SIGKILL
    check_durable(tmp_path, database)
    again = start(tmp_path, database, "append")
    output, errors = again.communicate(timeout=180)
    assert again.returncode == 0, errors
    assert numbers(database) == WANTED
    assert output.splitlines() == COUNTS


def test_the_kills_are_where_it_matters(tmp_path: Path, database: Database) -> None:
    """Killed right after its commit, a run goes on from a checkpoint that no file has."""
    killed = start(tmp_path, database, "append", NVISY_FAILPOINT="sink.after_commit:2")
    killed.communicate(timeout=180)
    assert (filed_epoch(tmp_path), kept_epoch(database)) == (1, 2)


def test_rows_without_their_checkpoint_are_noticed(tmp_path: Path, database: Database) -> None:
    """With the kept checkpoint gone, a run does not go on as if nothing were."""
    killed = start(tmp_path, database, "append", NVISY_FAILPOINT="sink.after_commit:2")
    killed.communicate(timeout=180)
    database.query("DELETE FROM _nvisy_checkpoints")
    again = start(tmp_path, database, "append")
    _, errors = again.communicate(timeout=180)
    assert again.returncode != 0
    assert "has no record of this run any more" in errors


Blow = Callable[[PostgresServer], bool]
"""Returns whether there was something to strike."""


def _terminate(server: PostgresServer) -> bool:
    return server.terminate_sessions() > 0


def _stop(server: PostgresServer) -> bool:
    server.stop()
    server.start()
    return True


def _kill(server: PostgresServer) -> bool:
    server.kill()
    server.start()
    return True


BLOWS: list[Blow] = [_terminate, _stop, _kill]


@pytest.fixture(scope="session")
def victim() -> Iterator[PostgresServer]:
    """A server of these tests' own."""
    with postgres_server() as running:
        yield running


class Striker(threading.Thread):
    """Strikes when the table holds so many rows, until the run is over.

    Args:
        server: Gets the blows.
        database: Holds the table.
        blow: One of `BLOWS`.
        moments: Rows at which it strikes.
    """

    def __init__(
        self, server: PostgresServer, database: Database, blow: Blow, moments: list[int]
    ) -> None:
        super().__init__()
        self._server, self._database = server, database
        self._blow, self._moments = blow, moments
        self.over = threading.Event()
        self.landed = 0

    def run(self) -> None:
        """Strike."""
        for moment in self._moments:
            while numbers(self._database).total() < moment and not self.over.is_set():
                time.sleep(0.005)
            # After the first blow it takes a moment until there is a session again.
            while not self.over.is_set():
                if self._blow(self._server):
                    self.landed += 1
                    break
                time.sleep(0.005)


@pytest.mark.parametrize("mode", ["append", "upsert"])
@pytest.mark.parametrize("blow", BLOWS)
@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.soak) for n in range(10))])
def test_server_struck_mid_run(
    tmp_path: Path, victim: PostgresServer, blow: Blow, mode: str, seed: int
) -> None:
    """Two blows in one run, which goes on by itself; nothing is lost, nothing is there twice."""
    moments = random.Random(seed)
    database = Database.emptied(victim)
    plan = postgres_target.plan(ROWS, mode, pause_seconds=0.02)
    chosen = sorted(moments.sample(range(100, 900, 100), 2))
    striker = Striker(victim, database, blow, chosen)
    striker.start()
    try:
        connections = {"database": postgres_target.connection(victim.port, database.name)}
        result = anyio.run(lambda: run_plan(plan, connections, storage=tmp_path / "state"))
    finally:
        striker.over.set()
        striker.join(30)
    assert striker.landed
    assert numbers(database) == WANTED
    counts = {node: m.counts for node, m in result.metrics.items()}
    assert counts["out"].records_in == counts["out"].records_out == ROWS // 2
    assert counts["count"].records_out == ROWS


def test_a_stopped_and_revived_worker_commits_nothing(tmp_path: Path, database: Database) -> None:
    zombie = start(tmp_path, database, "append", NVISY_LEASE_SECONDS="2")
    while numbers(database).total() < 200 and zombie.poll() is None:
        time.sleep(0.005)
    zombie.send_signal(signal.SIGSTOP)
    time.sleep(2.3)
    again = start(tmp_path, database, "append", NVISY_LEASE_SECONDS="2")
    output, errors = again.communicate(timeout=180)
    zombie.send_signal(signal.SIGCONT)
    _, told = zombie.communicate(timeout=180)
    assert again.returncode == 0, errors
    assert zombie.returncode != 0, told
    assert numbers(database) == WANTED
    assert output.splitlines() == COUNTS
