"""A run that is stopped by signals: it finishes what is under way, or stops at once, and goes on.

The sink appends and the action keeps a ledger, so that whatever is done twice is seen.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import write_graph
from engine.counting import numbers_in
from living_files import living_json

DEADLINE_SECONDS = 180
"""The first process that imports Dagster compiles it."""

MODES = pytest.mark.parametrize("mode", [["--engine-only"], []], ids=["engine", "dagster"])
MOSTLY_ENGINE = pytest.mark.parametrize(
    "mode",
    [["--engine-only"], pytest.param([], marks=pytest.mark.soak)],
    ids=["engine", "dagster"],
)
"""Dagster's part is the same as in the others of `MODES`."""
SELDOM = {"interval_seconds": 1000}
"""No barrier but the last one."""


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def idle_graph(here: Path, **more: Any) -> Path:
    """100 records, then nothing until there is a file `more`; a sink that holds while `hold` is."""
    params = {"path": str(here / "out.db"), "hold": str(here / "hold")}
    nodes = [
        {
            "id": "idle",
            "type": "source",
            "connector": "idle",
            "params": {"more": str(here / "more")},
        },
        {"id": "bill", "type": "action", "action": "billed", "params": {"ledger": str(here / "l")}},
        {"id": "out", "type": "sink", "connector": "appending", "params": params},
    ]
    return write_graph(here / "g.json", nodes, **{"checkpoint": SELDOM, **more})


def billed(here: Path) -> list[int]:
    path = here / "l"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def committed(here: Path) -> int:
    """Records read that a checkpoint covers."""
    documents = living_json(here / ".nvisy", "checkpoint.json")
    counts = [document.get("counts", {}).get("idle", {}) for document in documents]
    return sum(int(one.get("records_in", 0)) for one in counts)


def go_on(start, here: Path, graph: Path, mode: list[str]) -> dict[str, Any]:
    """Let the source end, run again, and check that every record is there once."""
    (here / "more").touch()
    (here / "hold").unlink(missing_ok=True)
    again = start("run", graph, *mode, "--json")
    stdout, stderr = again.communicate(timeout=DEADLINE_SECONDS)
    assert again.returncode == 0, stderr
    assert numbers_in(here / "out.db") == list(range(200))
    document = json.loads(stdout)
    for node in document["nodes"]:
        assert node["records_in"] == 200
        assert node["records_in"] == node["records_kept"] + node["dropped"] + node["dead"]
    return document


@MODES
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.soak), signal.SIGTERM],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_drains(start, here, mode, number):
    graph = idle_graph(here)
    process = start("run", graph, *mode)
    wait_until(lambda: len(billed(here)) == 100, process)
    signalled = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 3, stderr
    assert time.monotonic() - signalled < 18
    # Though the source idles, and no barrier had been due.
    assert numbers_in(here / "out.db") == list(range(100))
    assert "interrupted: every client is closed, and what was committed stays" in stderr
    assert "it goes on from the last checkpoint" in stderr
    assert "Traceback" not in stderr
    assert go_on(start, here, graph, mode)["resumed"] is True
    assert billed(here) == list(range(200))


@MODES
def test_it_says_that_it_finishes_and_how_to_stop_at_once(start, here, mode):
    (here / "hold").touch()
    graph = idle_graph(here)
    process = start("run", graph, *mode)
    wait_until(lambda: len(billed(here)) == 100, process)
    process.send_signal(signal.SIGINT)
    told = process.stderr.readline()
    assert told == "finishing the epoch, then stopping; a second Ctrl-C stops at once\n"
    (here / "hold").unlink()
    assert process.wait(DEADLINE_SECONDS) == 3
    assert numbers_in(here / "out.db") == list(range(100))


@MOSTLY_ENGINE
def test_a_second_signal_stops_amid_the_drain(start, here, mode):
    (here / "hold").touch()
    graph = idle_graph(here)
    process = start("run", graph, *mode)
    wait_until(lambda: len(billed(here)) == 100, process)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: process.stderr.readline().startswith("finishing"), process)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 3
    told = process.stderr.read()
    assert "stopped at once: nothing was committed yet" in told
    assert f"next: run it again (nvisy run {graph})" in told
    assert numbers_in(here / "out.db") == []
    go_on(start, here, graph, mode)


@MOSTLY_ENGINE
def test_a_second_signal_tells_what_is_committed(start, here, mode):
    graph = idle_graph(here, checkpoint={"interval_rows": 50})
    process = start("run", graph, *mode)
    wait_until(lambda: committed(here) == 100, process)
    (here / "hold").touch()
    (here / "more").touch()
    wait_until(lambda: len(billed(here)) > 100, process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.stderr.readline().startswith("finishing"), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3
    told = process.stderr.read()
    assert "stopped at once: committed: 100 read, 100 written\n" in told
    assert f"it goes on from the last checkpoint (nvisy run {graph}" in told
    go_on(start, here, graph, mode)


@MOSTLY_ENGINE
def test_past_the_limit_it_stops_at_once(start, here, mode):
    (here / "hold").touch()
    graph = idle_graph(here, timeout={"drain_seconds": 0.5})
    process = start("run", graph, *mode)
    wait_until(lambda: len(billed(here)) == 100, process)
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 3, stderr
    assert 0.5 < time.monotonic() - signalled < 18
    if mode:
        assert 'did not end within 0.5 s ("timeout.drain_seconds")' in stderr
    assert numbers_in(here / "out.db") == []
    go_on(start, here, graph, mode)


def test_as_json(start, here):
    graph = idle_graph(here)
    process = start("run", graph, "--engine-only", "--json")
    wait_until(lambda: len(billed(here)) == 100, process)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=DEADLINE_SECONDS)
    error = json.loads(stdout)["error"]
    assert error["kind"] == "interrupted"
    assert error["message"] == "the run was stopped; what was under way is committed"
