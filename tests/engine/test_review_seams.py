"""Where one part of the engine meets another: runs that were taken for dead, above all."""

import os
import threading
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pyarrow as pa
import pytest
from counting import CounterSource, NoParams
from obstore.store import MemoryStore
from review_graphs import NO_PAUSE, action, sink, source

from nvisy_connectors.object import local_folder
from nvisy_connectors.object.bucket import Bucket
from nvisy_connectors.sql.postgres.errors import classify
from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.lease import FencedError, Lease
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import Capabilities, ConfigError, NvisyError, Progress, Sink, TransientError

pytestmark = pytest.mark.anyio

HOOKS: dict[str, Callable[[], None]] = {}
"""What happens once, at a place where a process may stand still for a long time."""


def passing(place: str) -> None:
    HOOKS.pop(place, lambda: None)()


class SlowSource(CounterSource):
    """Count; it may take long until it is open."""

    name = "slow"

    async def open(self) -> None:
        passing("open")

    def location(self) -> str | None:
        passing("location")
        return super().location()


class PatientSink(Sink[NoParams]):
    """Take everything; it may take long until it is started."""

    name = "patient"
    capabilities = Capabilities(write_mode="upsert")

    async def start(self, progress: Progress) -> None:
        passing("start")

    async def write(self, batch: pa.RecordBatch) -> None:
        pass

    async def commit(self, epoch: int) -> None:
        pass


def graph(nodes: list[dict[str, Any]], *edges: str, **rest: Any) -> Plan:
    def entries(group: str, module: str, *names: str) -> dict[str, EntryPoint]:
        return {name: EntryPoint(name, module, group) for name in names}

    connectors = "nvisy.connectors"
    registry = Registry(
        entries(connectors, __name__, "slow", "patient")
        | entries(connectors, "counting", "table")
        | entries(connectors, "nvisy_connectors.object.local", "local"),
        entries("nvisy.actions", "counting", "pay") | entries("nvisy.actions", "awkward", "picky"),
    )
    written = [dict(zip(("from", "to", "route"), edge.split(), strict=False)) for edge in edges]
    document = {"name": "g", "retry": NO_PAUSE, "nodes": nodes, "edges": written, **rest}
    return compile_graph(build_graph(document), registry=registry)


async def run(plan: Plan, folder: Path) -> None:
    await run_plan(plan, {}, storage=folder / "state")


async def overtaken(plan: Plan, folder: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run; at the place the process stands still until another run has done everything."""

    def stand_still() -> None:
        threading.Event().wait(0.4)
        monkeypatch.setenv("NVISY_LEASE_SECONDS", "30")
        other = threading.Thread(target=anyio.run, args=(run, plan, folder))
        other.start()
        other.join()

    monkeypatch.setenv("NVISY_LEASE_SECONDS", "0.3")
    monkeypatch.setattr(Lease, "_beat", lambda lease: None)
    monkeypatch.setitem(HOOKS, place, stand_still)
    with pytest.raises(FencedError, match="took over"):
        await run(plan, folder)


async def test_an_overtaken_run_leaves_published_objects_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = graph(
        [
            source("slow", "slow", rows=50),
            sink("local", path=str(tmp_path / "out"), format="jsonl"),
        ],
        "slow out",
    )
    await overtaken(plan, tmp_path, "open", monkeypatch)
    assert sum(len(f.read_text().splitlines()) for f in (tmp_path / "out").iterdir()) == 50


async def test_an_overtaken_run_leaves_dead_letters_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = graph(
        [
            source("slow", "slow", rows=50),
            {**action("picky"), "on_error": "dead_letter"},
            sink("patient"),
        ],
        "slow picky",
        "picky out",
    )
    await overtaken(plan, tmp_path, "start", monkeypatch)
    files = list((tmp_path / "state").rglob("dead_letters/*/picky/*.arrow"))
    assert sum(pa.ipc.open_file(file).read_all().num_rows for file in files) == 25


async def test_an_overtaken_run_leaves_materialized_records_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = graph(
        [
            source("slow", "slow", rows=50),
            {**action("pay", ledger=str(tmp_path / "ledger")), "materialize": True},
            sink("patient", "beside"),
            sink("table", path=str(tmp_path / "out.db")),
        ],
        "slow pay",
        "slow beside",
        "pay out",
    )
    await overtaken(plan, tmp_path, "start", monkeypatch)
    files = list((tmp_path / "state").rglob("edges/*/*.arrow"))
    assert sum(pa.ipc.open_file(file).read_all().num_rows for file in files) == 50


async def test_an_overtaken_run_leaves_the_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = graph([source("slow", "slow", rows=50), sink("patient")], "slow out")
    await overtaken(plan, tmp_path, "location", monkeypatch)
    assert list((tmp_path / "state").rglob("checkpoint.json"))


async def test_a_spool_is_taken_from_earlier_holders_of_a_bucket_too(tmp_path: Path) -> None:
    bucket = Bucket(MemoryStore(), "memory://lake")
    stood_still = await bucket.make_spool("run.out", 1)
    beside = await bucket.make_spool("run.out.x", 1)
    (stood_still / "0").write_text("what a later holder has written under other names")
    now = await bucket.make_spool("run.out", 2)
    try:
        assert not stood_still.exists()
        with pytest.raises(NvisyError):
            await bucket.publish(stood_still / "0", "part-run-00000001-0.jsonl")
        assert now.exists()
        assert beside.exists()
    finally:
        now.rmdir()
        beside.rmdir()


async def test_a_commit_that_times_out_while_a_slow_disk_works_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = graph(
        [
            source("slow", "slow", rows=50),
            {
                **sink("local", path=str(tmp_path / "out"), format="jsonl"),
                "timeout": {"call_seconds": 0.2},
            },
        ],
        "slow out",
    )
    monkeypatch.setattr(local_folder, "os", SlowDisk())
    await run(plan, tmp_path)
    assert sum(len(f.read_text().splitlines()) for f in (tmp_path / "out").iterdir()) == 50


class SlowDisk:
    """The module `os`, the first file of which takes long to be durable."""

    def __init__(self) -> None:
        self.seconds = iter([0.3, 0.17])

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        time.sleep(next(self.seconds, 0))
        os.fsync(descriptor)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('FATAL:  too many connections for role "nvisy"', TransientError),
        ('FATAL:  role "nvisy" does not exist', ConfigError),
        ('FATAL:  role "nvisy" is not permitted to log in', ConfigError),
    ],
)
def test_a_role_with_too_many_sessions_is_not_one_that_is_refused(
    said: str, kind: type[NvisyError]
) -> None:
    error = psycopg.OperationalError(f'connection to server at "db", port 5432 failed: {said}')
    assert isinstance(classify(error, "public.t"), kind)


@pytest.mark.parametrize("state", ["25P03", "25P04"])
def test_a_transaction_that_took_too_long_for_the_server_is_done_again(state: str) -> None:
    error = psycopg.errors.lookup(state)("terminating connection")
    failure = classify(error, "public.t")
    assert isinstance(failure, TransientError)
    assert "checkpoints" in str(failure.remedy)
