"""Actions that need all records: a stage of their own, done whole or done again."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from gathering import BackwardsAction, plan
from pausing import registry
from review_graphs import action, run, sink, source

from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.drain import RunStoppedError, StopRequest
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.replay import Replay
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import build_graph

pytestmark = pytest.mark.anyio

EVEN_THIRDS = list(range(594, -1, -6))
"""What is left of 600 numbers, backwards."""


def written(folder: Path) -> list[int]:
    """What the sink holds, in the order in which it came."""
    with closing(sqlite3.connect(folder / "out.db")) as db:
        return [n for (n,) in db.execute("select n from t order by rowid")]


def box(folder: Path) -> DeadLetterBox:
    return DeadLetterBox(folder / "state", "gather")


def scratch(folder: Path) -> list[Path]:
    return list((folder / "state").rglob("scratch/*"))


async def test_all_records_of_all_epochs_are_gathered(tmp_path: Path) -> None:
    made = plan(tmp_path, multiple_of=3, batch_rows=64)
    assert [stage.nodes for stage in made.stages] == [["count", "even"], ["backwards"], ["out"]]
    result = await run(made, tmp_path)
    assert written(tmp_path) == EVEN_THIRDS
    counts = result.metrics["backwards"].counts
    assert (counts.records_in, counts.records_out) == (300, 100)
    assert (counts.dropped, counts.dead) == (200, 0)
    assert not scratch(tmp_path)


async def test_nothing_comes_of_nothing(tmp_path: Path) -> None:
    result = await run(plan(tmp_path, rows=0), tmp_path)
    assert written(tmp_path) == []
    assert result.metrics["backwards"].counts.records_in == 0


async def test_the_next_run_gathers_anew(tmp_path: Path) -> None:
    for _ in range(2):
        await run(plan(tmp_path, rows=60), tmp_path)
    assert written(tmp_path) == [*range(58, -1, -2)] * 2


async def test_several_inputs_are_gathered_one_after_the_other(tmp_path: Path) -> None:
    document = {
        "name": "g",
        "nodes": [
            source("one", rows=4, batch_rows=3),
            source("two", rows=200, batch_rows=50),
            action("even"),
            action("backwards"),
            sink("appending", path=str(tmp_path / "out.db")),
        ],
        "edges": [
            {"from": "one", "to": "backwards"},
            {"from": "two", "to": "even"},
            {"from": "even", "to": "backwards"},
            {"from": "backwards", "to": "out"},
        ],
    }
    made = compile_graph(build_graph(document), registry=registry())
    result = await run(made, tmp_path)
    assert written(tmp_path) in (
        [*range(198, -1, -2), 3, 2, 1, 0],
        [3, 2, 1, 0, *range(198, -1, -2)],
    )
    assert result.metrics["backwards"].counts.records_in == 104


PLACES = [
    "part.after_rename:13",
    "checkpoint.after_write:13",
    *(
        pytest.param(place, marks=pytest.mark.soak)
        for place in (
            "checkpoint.after_write:12",
            "part.before_close:13",
            "checkpoint.before_write:13",
        )
    ),
]
"""From the end of the first stage on until that of the second."""


@pytest.mark.parametrize("place", PLACES)
def test_killed(tmp_path: Path, place: str) -> None:
    killed = _process(tmp_path, NVISY_FAILPOINT=place)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    complete = {
        path.parent.name.partition("-")[0]: json.loads(path.read_text())["complete"]
        for path in (tmp_path / "state").rglob("checkpoint.json")
    }
    assert complete.pop("count__even"), "it was killed too early"
    assert "out" not in complete, "it was killed too late"
    again = _process(tmp_path)
    assert again.returncode == 0, again.stderr
    assert written(tmp_path) == EVEN_THIRDS
    lines = (line.split() for line in again.stdout.splitlines())
    counts = {name: [int(n) for n in rest] for name, *rest in lines}
    assert counts["backwards"] == [300, 100, 200]
    assert counts["out"] == [100, 100, 0]
    assert not scratch(tmp_path), "what the killed process left there is still there"


def _process(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    here = Path(__file__).parent
    return subprocess.run(
        [sys.executable, str(here / "gathering.py"), str(folder), "600"],
        env={**os.environ, "PYTHONPATH": str(here), **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize("fails", [False, True])
async def test_asked_to_stop_it_is_interrupted_and_done_again(tmp_path: Path, fails: bool) -> None:
    stop, began = StopRequest(), tmp_path / "began"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_when_there, began, stop)
        with pytest.raises(RunStoppedError):
            await run(plan(tmp_path, began=str(began), fails=fails), tmp_path, stop=stop)
    assert not scratch(tmp_path)
    result = await run(plan(tmp_path), tmp_path)
    assert result.resumed
    assert written(tmp_path) == list(range(598, -1, -2))


@pytest.mark.parametrize("deaf", ["at first", "while it reads"])
async def test_it_is_interrupted_until_it_ends(tmp_path: Path, deaf: str) -> None:
    stop, began = StopRequest(), tmp_path / "began"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_when_there, began, stop)
        with pytest.raises(RunStoppedError), anyio.fail_after(60):
            await run(plan(tmp_path, began=str(began), deaf=deaf), tmp_path, stop=stop)
    assert not scratch(tmp_path)


async def _stop_when_there(path: Path, stop: StopRequest) -> None:
    with anyio.fail_after(60):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - a file tells no event
            await anyio.sleep(0.005)
    stop.request()


async def test_what_it_cannot_do_ends_the_run_and_names_the_node(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="node 'backwards': too many") as failed:
        await run(plan(tmp_path, most=100), tmp_path)
    assert failed.value.remedy == "take less"
    assert not scratch(tmp_path)
    await run(plan(tmp_path, most=300), tmp_path)
    assert written(tmp_path) == list(range(598, -1, -2))


async def test_no_room_for_what_it_spills(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"node 'backwards': .*No space left on device") as failed:
        await run(plan(tmp_path, full=True), tmp_path)
    assert "space" in str(failed.value.remedy)
    await run(plan(tmp_path), tmp_path)
    assert written(tmp_path) == list(range(598, -1, -2))


async def test_what_it_does_not_take_is_counted_too(tmp_path: Path) -> None:
    result = await run(plan(tmp_path, takes=2), tmp_path)
    counts = result.metrics["backwards"].counts
    assert counts.records_in == 300
    assert counts.dropped == 300 - len(written(tmp_path)) > 0


async def test_letters_before_it_are_left_to_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(plan(tmp_path, rows=60, poison=[4, 10]), tmp_path)
    assert box(tmp_path).letters().num_rows == 2
    result = await Replay(plan(tmp_path, rows=60, poison=[]), tmp_path / "state", "again").run({})
    assert (result.letters, result.failed) == (0, 0)
    [left] = result.refused
    assert (left.node, left.letters, left.read_again) == ("even", 2, True)
    assert "'backwards' behind it chooses among all records" in left.reason
    # One that only arranges them lets them through.
    monkeypatch.setattr(BackwardsAction, "drops", False)
    result = await Replay(plan(tmp_path, rows=60, poison=[]), tmp_path / "state", "again").run({})
    assert (result.letters, result.through, result.refused) == (2, 2, [])
    assert sorted(written(tmp_path)) == list(range(60))


async def test_a_run_closes_letters_before_it(tmp_path: Path) -> None:
    await run(plan(tmp_path, rows=60, poison=[4, 10]), tmp_path)
    await run(plan(tmp_path, rows=60, poison=[]), tmp_path)
    assert box(tmp_path).letters().num_rows == 0
    assert len(written(tmp_path)) == 58 + 60


@pytest.mark.parametrize("fails", [False, True])
async def test_too_slow(tmp_path: Path, fails: bool) -> None:
    limit = {"timeout": {"node_seconds": 0.2}}
    made = plan(tmp_path, node=limit, began=str(tmp_path / "began"), fails=fails)
    with pytest.raises(NodeError, match=r"it took longer than 0\.2 s"):
        await run(made, tmp_path)


def _problems(**changes: Any) -> list[str]:
    count, other = source(), changes.pop("node", {})
    document = {
        "name": "g",
        "nodes": [
            {**count, **changes},
            {**action("backwards"), **other},
            sink("table", path="t.db"),
        ],
        "edges": [{"from": "count", "to": "backwards"}, {"from": "backwards", "to": "out"}],
    }
    with pytest.raises(GraphErrors) as refused:
        compile_graph(build_graph(document), registry=registry())
    return [str(problem) for problem in refused.value.errors]


def test_what_does_not_go_with_it_is_told_before_the_run() -> None:
    [problem] = _problems(node={"materialize": False})
    assert re.search(r"nodes\[1\]\.materialize.*its output is always kept", problem), problem
    problems = json.dumps(_problems(incremental=True))
    assert re.search(r"nodes\[1\].*needs all records, but \S+count\S+ reads only what", problems)
