"""Asked to stop, a run commits what is under way and ends; the next one does nothing again.

The sinks of these tests append, and the actions keep a ledger: what is done twice is seen.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from counting import numbers_in
from pausing import registry
from review_graphs import NO_PAUSE, action, sink, source

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine import running_stage
from nvisy_dagster.engine.drain import RunStoppedError, StopRequest
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.engine.wiring import Wiring
from nvisy_dagster.graph.load import build_graph

pytestmark = pytest.mark.anyio

SELDOM = {"interval_seconds": 1000.0}
"""No barrier but the last one."""


def graph(nodes: list[dict[str, Any]], *edges: str, **rest: Any) -> Plan:
    written = [dict(zip(("from", "to", "route"), edge.split(), strict=False)) for edge in edges]
    document = {"name": "g", "retry": NO_PAUSE, "nodes": nodes, "edges": written, **rest}
    return compile_graph(build_graph(document), registry=registry())


async def run(plan: Plan, folder: Path, stop: StopRequest | None = None) -> RunResult:
    return await run_plan(plan, {}, storage=folder / "state", stop=stop)


async def stopped(plan: Plan, folder: Path, when: Callable[[], bool]) -> RunStoppedError:
    """Run until it is so, ask it to stop, and return how it ended."""
    stop = StopRequest()
    ends: list[RunStoppedError] = []

    async def attempt() -> None:
        with pytest.raises(RunStoppedError) as caught:
            await run(plan, folder, stop)
        ends.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt)
        with anyio.fail_after(60):
            while not when():  # noqa: ASYNC110 - a file tells no event
                await anyio.sleep(0.005)
        stop.request()
    assert ends[0].tag == "cancelled"
    return ends[0]


def ledger(folder: Path) -> list[int]:
    path = folder / "ledger"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def cursors(folder: Path) -> dict[str, Any]:
    """Where the sources of the checkpoints stand, read without the engine."""
    found: dict[str, Any] = {}
    for path in (folder / "state").rglob("checkpoint.json"):
        found |= json.loads(path.read_text())["sources"]
    return found


def billed(folder: Path, **params: Any) -> dict[str, Any]:
    return action("billed", ledger=str(folder / "ledger"), **params)


def appending(folder: Path, node_id: str = "out", **params: Any) -> dict[str, Any]:
    return sink("appending", node_id, path=str(folder / f"{node_id}.db"), **params)


async def test_what_is_under_way_is_committed_and_never_done_again(tmp_path: Path) -> None:
    plan = graph(
        [
            source(rows=600, batch_rows=20, pause_seconds=0.01),
            billed(tmp_path, seconds=0.05),
            appending(tmp_path, write_seconds=0.02),
        ],
        "count billed",
        "billed out",
        checkpoint=SELDOM,
    )
    end = await stopped(plan, tmp_path, lambda: len(ledger(tmp_path)) >= 100)
    assert end.drained
    done = numbers_in(tmp_path / "out.db")
    assert 100 <= len(done) < 600
    assert done == list(range(len(done)))
    assert cursors(tmp_path)["count"] == {"cursor": {"after": len(done)}, "done": False}
    assert sorted(ledger(tmp_path)) == done

    result = await run(plan, tmp_path)
    assert result.resumed
    assert numbers_in(tmp_path / "out.db") == list(range(600))
    assert sorted(ledger(tmp_path)) == list(range(600))
    assert result.metrics["out"].counts.records_in == 600


async def test_an_idle_source_is_cut_where_it_waits(tmp_path: Path) -> None:
    more = tmp_path / "more"
    plan = graph(
        [source("idle", "idle", more=str(more)), billed(tmp_path), appending(tmp_path)],
        "idle billed",
        "billed out",
        checkpoint=SELDOM,
    )

    def idling() -> bool:
        return len(ledger(tmp_path)) == 100

    started = time.monotonic()
    assert (await stopped(plan, tmp_path, idling)).drained
    assert time.monotonic() - started < 15
    assert numbers_in(tmp_path / "out.db") == list(range(100))
    more.touch()
    await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(200))
    assert len(ledger(tmp_path)) == 200


async def test_a_source_that_never_gave_anything_begins_at_its_beginning(tmp_path: Path) -> None:
    plan = graph(
        [source(rows=100, pause_seconds=0.5), appending(tmp_path)], "count out", checkpoint=SELDOM
    )
    database = tmp_path / "out.db"
    assert (await stopped(plan, tmp_path, database.exists)).drained
    assert numbers_in(database) == []
    await run(plan, tmp_path)
    assert numbers_in(database) == list(range(100))


async def test_a_second_stop_after_one_without_progress(tmp_path: Path) -> None:
    """The position of a source that gave nothing is no position; it must survive being cut."""
    plan = graph(
        [source(rows=100, pause_seconds=0.3), appending(tmp_path)], "count out", checkpoint=SELDOM
    )
    for _ in range(2):
        assert (await stopped(plan, tmp_path, (tmp_path / "out.db").exists)).drained
    await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(100))


async def test_past_the_limit_it_stops_at_once(tmp_path: Path) -> None:
    plan = graph(
        [
            source(rows=300, batch_rows=20),
            billed(tmp_path),
            appending(tmp_path, write_seconds=0.6),
        ],
        "count billed",
        "billed out",
        checkpoint=SELDOM,
        timeout={"drain_seconds": 0.2},
    )
    started = time.monotonic()
    end = await stopped(plan, tmp_path, lambda: len(ledger(tmp_path)) >= 100)
    assert time.monotonic() - started < 6
    assert not end.drained
    assert "did not end within 0.2 s" in end.message
    assert numbers_in(tmp_path / "out.db") == []
    await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(300))


async def test_no_time_to_drain(tmp_path: Path) -> None:
    plan = graph(
        [source(rows=300, batch_rows=20, pause_seconds=0.01), appending(tmp_path)],
        "count out",
        checkpoint={"interval_rows": 40},
        timeout={"drain_seconds": 0},
    )
    end = await stopped(plan, tmp_path, lambda: "count" in cursors(tmp_path))
    assert not end.drained
    await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(300))


async def test_sources_that_ended_before_stay_ended(tmp_path: Path) -> None:
    quick = source("quick", rows=100, batch_rows=50)
    plan = graph(
        [quick, source(rows=400, batch_rows=10, pause_seconds=0.02), appending(tmp_path)],
        "quick out",
        "count out",
        checkpoint=SELDOM,
    )
    stop_at = time.monotonic() + 0.5
    assert (await stopped(plan, tmp_path, lambda: time.monotonic() > stop_at)).drained
    assert cursors(tmp_path)["quick"] == {"cursor": None, "done": True}
    # And a second time, on the way: the ended source must not be read from its beginning.
    stop_at = time.monotonic() + 0.3
    assert (await stopped(plan, tmp_path, lambda: time.monotonic() > stop_at)).drained
    await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == sorted([*range(100), *range(400)])


@pytest.fixture
def small_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader is never far ahead of the writers."""
    monkeypatch.setattr(running_stage, "Wiring", lambda plan, part, _: Wiring(plan, part, 1000))


@pytest.mark.usefixtures("small_channels")
async def test_a_stage_without_a_source_drains_between_the_epochs_it_reads(tmp_path: Path) -> None:
    """What is kept between stages is read in whole epochs."""
    plan = graph(
        [
            source(rows=800, batch_rows=10),
            action("pay", ledger=str(tmp_path / "paid")),
            billed(tmp_path),
            appending(tmp_path, write_seconds=0.1),
        ],
        "count pay",
        "pay billed",
        "billed out",
        checkpoint={"interval_rows": 40, "interval_seconds": 1000.0},
    )
    assert len(plan.stages) == 2
    end = await stopped(plan, tmp_path, lambda: len(ledger(tmp_path)) >= 60)
    assert end.drained
    done = numbers_in(tmp_path / "out.db")
    assert 40 <= len(done) < 800
    assert sorted(ledger(tmp_path)) == done
    result = await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(800))
    assert sorted(ledger(tmp_path)) == list(range(800))
    assert len((tmp_path / "paid").read_text().split()) == 800
    assert result.metrics["out"].counts.records_out == 800


async def test_a_stage_that_cannot_be_cut_stops_at_once(tmp_path: Path) -> None:
    """It reads two stages behind a common one, whose epochs are not the same."""
    paths = [action("pay", f"pay{i}", ledger=str(tmp_path / f"paid{i}")) for i in (1, 2)]
    plan = graph(
        [source(rows=200, batch_rows=10), *paths, billed(tmp_path, seconds=0.05),
         appending(tmp_path)],
        "count pay1",
        "pay1 pay2",
        "pay1 billed",
        "pay2 billed",
        "billed out",
    )  # fmt: skip
    end = await stopped(plan, tmp_path, lambda: len(ledger(tmp_path)) >= 60)
    assert not end.drained
    assert numbers_in(tmp_path / "out.db") == []
    await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == sorted([*range(200), *range(200)])


async def test_asked_before_it_began(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.request()
    plan = graph([source(rows=100), appending(tmp_path)], "count out")
    with pytest.raises(RunStoppedError):
        await run(plan, tmp_path, stop)
    assert not (tmp_path / "out.db").exists()
    await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(100))


async def test_asked_while_it_opens(tmp_path: Path) -> None:
    log = tmp_path / "log"
    slow = {"max_retries": 3, "initial_delay_seconds": 30.0, "max_delay_seconds": 30.0}
    awkward = sink("awkward", log=str(log), fail_in=["start"]) | {"retry": slow}
    plan = graph([source(rows=100), awkward], "count out")
    started = time.monotonic()
    await stopped(plan, tmp_path, log.exists)
    assert time.monotonic() - started < 20


async def test_a_failure_while_it_drains_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    awkward = sink("awkward", log=str(log), fail_in=["commit"], how="bug")
    plan = graph(
        [source(rows=500, batch_rows=10, pause_seconds=0.01), awkward], "count out",
        checkpoint=SELDOM,
    )  # fmt: skip
    end = await stopped(
        plan, tmp_path, lambda: "write" in (log.read_text() if log.exists() else "")
    )
    assert not end.drained
    assert "node 'out': unexpected RuntimeError: commit fails" in end.message
    assert log.read_text().splitlines()[-1] == "out close"


async def test_a_run_that_is_over_anyway_succeeds(tmp_path: Path) -> None:
    """All was read when the request came: nothing is left to stop."""
    plan = graph(
        [source(rows=50, batch_rows=50), billed(tmp_path), appending(tmp_path, write_seconds=0.3)],
        "count billed",
        "billed out",
    )
    stop = StopRequest()
    async with anyio.create_task_group() as tasks:

        async def attempt() -> None:
            result = await run(plan, tmp_path, stop)
            assert result.metrics["out"].counts.records_out == 50

        tasks.start_soon(attempt)
        while len(ledger(tmp_path)) < 50:  # noqa: ASYNC110 - a file tells no event
            await anyio.sleep(0.005)
        await anyio.sleep(0.05)
        stop.request()
    assert numbers_in(tmp_path / "out.db") == list(range(50))


async def test_asked_from_a_thread_and_from_a_handler() -> None:
    stop, again = StopRequest(), StopRequest()
    threading.Timer(0.05, stop.request).start()
    before = signal.signal(signal.SIGUSR1, lambda *_: again.request())
    try:
        with anyio.fail_after(60):
            await stop.wait()
            # To the process, as from without: it is the main thread that takes it, and wakes.
            threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1]).start()
            await again.wait()
            await again.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert stop.requested
    assert again.requested


def many_ways(folder: Path) -> Plan:
    """Two sources, a fan-out, a branch, a fan-in, and edges that are kept."""
    routes = [{"name": "third", "when": "n % 3 = 0"}]
    by = {"id": "by", "type": "branch", "routes": routes, "default": "rest"}
    return graph(
        [
            source("a", rows=300, batch_rows=10, pause_seconds=0.01),
            source("b", rows=200, batch_rows=7, pause_seconds=0.012),
            billed(folder, seconds=0.01),
            by,
            action("twice"),
            action("pay", ledger=str(folder / "paid")),
            appending(folder, "plain", commit_seconds=0.02),
            appending(folder, "thirds"),
            appending(folder, "doubled", write_seconds=0.01),
            appending(folder, "bought", write_seconds=0.005),
        ],
        "a plain",
        "a billed",
        "b billed",
        "billed by",
        "by thirds third",
        "by twice rest",
        "twice doubled",
        "b pay",
        "pay bought",
        checkpoint={"interval_rows": 60},
    )


def check_many_ways(folder: Path) -> None:
    both = [*range(300), *range(200)]
    rest = [n for n in both if n % 3]
    assert numbers_in(folder / "plain.db") == list(range(300))
    assert numbers_in(folder / "thirds.db") == sorted(n for n in both if n % 3 == 0)
    assert numbers_in(folder / "doubled.db") == sorted(
        [2 * n for n in rest] + [2 * n + 1 for n in rest]
    )
    assert numbers_in(folder / "bought.db") == list(range(200))
    # Drained every time: nothing was done twice.
    assert sorted(ledger(folder)) == sorted(both)
    assert sorted(map(int, (folder / "paid").read_text().split())) == list(range(200))


@pytest.mark.parametrize("seed", range(6))
async def test_stopped_at_random_moments(tmp_path: Path, seed: int) -> None:
    """With append sinks: any record that is lost, doubled or done again is seen."""
    moments = random.Random(seed)
    plan = many_ways(tmp_path)
    stops = 0
    for _ in range(6):
        stop = StopRequest()
        later = threading.Timer(moments.uniform(0.03, 0.4), stop.request)
        later.start()
        try:
            await run(plan, tmp_path, stop)
            break
        except RunStoppedError as end:
            stops += end.drained
        finally:
            later.cancel()
    else:
        await run(plan, tmp_path)
    assert stops
    check_many_ways(tmp_path)
