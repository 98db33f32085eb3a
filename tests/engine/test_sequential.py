"""Actions that go by what came before: `limit` ends what nobody wants, `batch` regroups."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from counting import numbers_in
from limiting import MANY, line, plan
from living_files import living_json
from review_graphs import action, run, sink, source

from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.drain import RunStoppedError, StopRequest
from nvisy_dagster.engine.replay import Replay
from nvisy_dagster.engine.run import RunResult

pytestmark = pytest.mark.anyio

RARELY = {"interval_seconds": 1000.0}


def written(folder: Path, name: str = "out") -> list[int]:
    """What the sink holds, in the order in which it came."""
    with closing(sqlite3.connect(folder / f"{name}.db")) as db:
        return [n for (n,) in db.execute("select n from t order by rowid")]


def out(folder: Path, node_id: str = "out", connector: str = "appending", **params: Any) -> Any:
    return sink(connector, node_id, path=str(folder / f"{node_id}.db"), **params)


def counts(result: RunResult, node: str) -> list[int]:
    """In, out, dropped, dead."""
    c = result.metrics[node].counts
    return [c.records_in, c.records_out, c.dropped, c.dead]


async def quickly(made: Any, folder: Path, **options: Any) -> RunResult:
    with anyio.fail_after(60):
        return await run(made, folder, **options)


@pytest.mark.parametrize("checkpoint", [RARELY, {"interval_rows": 20}])
async def test_reading_ends_when_enough_came(tmp_path: Path, checkpoint: Any) -> None:
    made = line(
        source(rows=MANY, batch_rows=7),
        action("even"),
        action("limit", count=10, offset=3),
        out(tmp_path),
        checkpoint=checkpoint,
    )
    assert len(made.stages) == 1
    result = await quickly(made, tmp_path)
    assert written(tmp_path) == list(range(6, 26, 2))
    read = counts(result, "count")[0]
    assert 26 <= read < 10_000
    took, passed, dropped, _ = counts(result, "limit")
    assert (passed, dropped) == (10, took - 10)
    # Not everything that was read got to it: what comes before it stops working, too.
    assert counts(result, "even") == [read, took, read - took, 0]
    assert counts(await quickly(made, tmp_path), "count")[0] >= 26, "the next run begins anew"


async def test_fewer_than_enough(tmp_path: Path) -> None:
    made = line(source(rows=100), action("limit", count=500, offset=40), out(tmp_path))
    result = await quickly(made, tmp_path)
    assert written(tmp_path) == list(range(40, 100))
    assert counts(result, "limit") == [100, 60, 40, 0]


async def test_a_source_that_waits_for_ever_is_left(tmp_path: Path) -> None:
    idle = source(connector="idle", rows=100, more=str(tmp_path / "more"))
    result = await quickly(line(idle, action("limit", count=100), out(tmp_path)), tmp_path)
    assert written(tmp_path) == list(range(100))
    assert counts(result, "count")[0] == 100


async def test_nothing_more_is_paid_for(tmp_path: Path) -> None:
    """Calls of 20 records, three at once, of which two are enough."""
    slow = action("billed", ledger=str(tmp_path / "ledger"), seconds=0.05)
    made = line(
        source(rows=20_000, batch_rows=5000), slow, action("limit", count=35), out(tmp_path)
    )
    result = await quickly(made, tmp_path)
    assert written(tmp_path) == list(range(35))
    paid = len((tmp_path / "ledger").read_text().split())
    assert 40 <= paid <= 200
    read, passed, dropped, _ = counts(result, "billed")
    assert passed == paid
    assert dropped == read - paid > 4000


def routed(folder: Path, *limits: dict[str, Any]) -> list[dict[str, Any]]:
    third = {
        "id": "third",
        "type": "branch",
        "routes": [{"name": "thirds", "when": "n % 3 = 0"}],
        "default": "others",
    }
    return [source(rows=MANY, batch_rows=50), third, *limits, out(folder), out(folder, "rest")]


async def test_what_another_branch_wants_is_read(tmp_path: Path) -> None:
    nodes = routed(tmp_path, action("limit", count=10))
    nodes[0] = source(rows=3000, batch_rows=50)
    edges = "count third", "third limit thirds", "limit out", "third rest others"
    result = await quickly(plan(nodes, *edges), tmp_path)
    assert written(tmp_path) == list(range(0, 30, 3))
    assert written(tmp_path, "rest") == [n for n in range(3000) if n % 3]
    assert counts(result, "limit") == [1000, 10, 990, 0]


async def test_reading_ends_when_every_branch_has_enough(tmp_path: Path) -> None:
    nodes = routed(tmp_path, action("limit", count=10), action("limit", "few", count=400))
    edges = "count third", "third limit thirds", "third few others", "limit out", "few rest"
    result = await quickly(plan(nodes, *edges), tmp_path)
    assert written(tmp_path) == list(range(0, 30, 3))
    assert written(tmp_path, "rest") == [n for n in range(600) if n % 3]
    assert 600 <= counts(result, "count")[0] < 20_000


async def test_of_several_inputs_exactly_as_many_come_through(tmp_path: Path) -> None:
    """In another order another time, so what was chosen is kept before a sink sees it."""
    nodes = [
        source("one", rows=MANY, batch_rows=30),
        source("other", rows=MANY, batch_rows=7),
        action("limit", count=100),
        out(tmp_path),
    ]
    made = plan(nodes, "one limit", "other limit", "limit out", checkpoint={"interval_rows": 50})
    assert [set(stage.nodes) for stage in made.stages] == [{"one", "other", "limit"}, {"out"}]
    result = await quickly(made, tmp_path)
    assert len(written(tmp_path)) == 100
    assert result.metrics["one"].counts.records_in + result.metrics["other"].counts.records_in == (
        result.metrics["limit"].counts.records_in
    )


@pytest.mark.parametrize("kept", [False, True])
async def test_behind_what_costs_money(tmp_path: Path, kept: bool) -> None:
    """No more is paid for than is let through, unless all of it is to be kept."""
    paid = action("pay", ledger=str(tmp_path / "ledger"))
    made = line(
        source(rows=3000, batch_rows=50),
        {**paid, "materialize": True} if kept else paid,
        action("even"),
        action("limit", count=10),
        out(tmp_path),
        checkpoint={"interval_rows": 100},
    )
    stages = [["count", "pay"], ["even", "limit", "out"]]
    streamed = [["count", "pay", "even", "limit"], ["out"]]
    assert [stage.nodes for stage in made.stages] == (stages if kept else streamed)
    result = await quickly(made, tmp_path)
    assert written(tmp_path) == list(range(0, 20, 2))
    bought = len((tmp_path / "ledger").read_text().split())
    assert bought == 3000 if kept else 20 <= bought < 1000
    assert counts(result, "even")[0] < 3000
    assert counts(result, "pay")[1] == bought


async def test_the_largest_ones(tmp_path: Path) -> None:
    nodes = [source(rows=900), action("backwards"), action("limit", count=3), out(tmp_path)]
    result = await quickly(line(*nodes), tmp_path)
    assert written(tmp_path) == [899, 898, 897]
    assert counts(result, "limit")[1] == 3


PLACES = [
    pytest.param(place, marks=[] if quick else pytest.mark.soak)
    for place, quick in {
        "sink.after_write:3": False,
        "checkpoint.before_write:5": True,
        "sink.after_commit:4": False,
        "checkpoint.after_write:2": False,
        "checkpoint.after_write:9": False,
        "storage.before_rename:12": False,
        "sink.before_commit:7": False,
    }.items()
]


@pytest.mark.parametrize("place", PLACES)
def test_killed(tmp_path: Path, place: str) -> None:
    killed = _process(tmp_path, NVISY_FAILPOINT=place)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(numbers_in(tmp_path / "out.db")) < 500, "it was killed too late"
    again = _process(tmp_path)
    assert again.returncode == 0, again.stderr
    assert numbers_in(tmp_path / "out.db") == list(range(60, 1060, 2))
    told = {
        name: [int(n) for n in rest] for name, *rest in map(str.split, again.stdout.splitlines())
    }
    assert told["limit"][1:] == [500, told["limit"][0] - 500]
    assert told["out"] == [500, 500, 0]
    assert told["count"][0] < 10_000


def _process(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    here = Path(__file__).parent
    return subprocess.run(
        [sys.executable, str(here / "limiting.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(here), **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


async def test_drained_it_goes_on_where_it_stood(tmp_path: Path) -> None:
    made = line(
        source(rows=MANY, batch_rows=10, pause_seconds=0.002),
        action("limit", count=700),
        out(tmp_path),
        checkpoint={"interval_rows": 50},
    )
    stop = StopRequest()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_after_a_checkpoint, tmp_path / "state", stop)
        with pytest.raises(RunStoppedError):
            await run(made, tmp_path, stop=stop)
    assert 0 < len(written(tmp_path)) < 700
    result = await quickly(made, tmp_path)
    assert result.resumed
    assert written(tmp_path) == list(range(700))


async def _stop_after_a_checkpoint(state: Path, stop: StopRequest) -> None:
    with anyio.fail_after(60):
        while True:
            for found in living_json(state, "checkpoint.json"):
                if found["epoch"] >= 2:
                    stop.request()
                    return
            await anyio.sleep(0.005)


async def test_what_fails_before_it_is_not_counted_and_not_replayed(tmp_path: Path) -> None:
    def made(*poison: int) -> Any:
        ledger = str(tmp_path / "ledger")
        paid = {**action("pay", ledger=ledger, poison=list(poison)), "on_error": "dead_letter"}
        nodes = source(rows=200, batch_rows=10), paid, action("limit", count=20), out(tmp_path)
        return line(*nodes)

    await quickly(made(4, 10), tmp_path)
    assert written(tmp_path) == [n for n in range(22) if n not in {4, 10}]
    assert DeadLetterBox(tmp_path / "state", "g").letters().num_rows == 2
    result = await Replay(made(), tmp_path / "state", "again").run({})
    [left] = result.refused
    assert (left.node, left.letters, left.read_again) == ("pay", 2, True)
    assert "'limit' behind it chooses among all records" in left.reason
    await quickly(made(), tmp_path)
    assert DeadLetterBox(tmp_path / "state", "g").letters().num_rows == 0, "a run closes them"


def sizes(folder: Path) -> list[int]:
    return [int(size) for size in (folder / "out.sizes").read_text().split()]


async def test_batches_are_regrouped(tmp_path: Path) -> None:
    nodes = source(rows=1000, batch_rows=70), action("even"), action("batch", batch_rows=64)
    made = line(*nodes, out(tmp_path, connector="seen"), checkpoint=RARELY)
    result = await quickly(made, tmp_path)
    assert sizes(tmp_path) == [*[64] * 7, 52]
    assert written(tmp_path) == list(range(0, 1000, 2))
    assert counts(result, "batch") == [500, 500, 0, 0]


async def test_nothing_is_held_back_over_a_barrier(tmp_path: Path) -> None:
    nodes = source(rows=240, batch_rows=10), action("batch", batch_rows=40)
    made = line(*nodes, out(tmp_path, connector="seen"), checkpoint={"interval_rows": 60})
    await quickly(made, tmp_path)
    assert sizes(tmp_path) == [40, 20] * 4
    assert written(tmp_path) == list(range(240))


async def test_what_waited_long_enough_goes_on(tmp_path: Path) -> None:
    more = tmp_path / "more"
    idle = source(connector="idle", rows=100, more=str(more))
    grouped = action("batch", batch_rows=60, wait_seconds=0.1)
    made = line(idle, grouped, out(tmp_path, connector="seen"), checkpoint=RARELY)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(quickly, made, tmp_path)
        with anyio.fail_after(60):
            while not more.exists():
                await anyio.sleep(0.01)
                if (tmp_path / "out.sizes").exists() and sizes(tmp_path) == [60, 40]:
                    more.touch()
    assert sizes(tmp_path)[:3] == [60, 40, 60]
    assert written(tmp_path) == list(range(200))
