"""Records that kill the process: each is told apart within three restarts, and nothing else is."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
import pytest
from counting import numbers_in
from living_files import living_files

from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.in_flight import Recorder, deaths
from nvisy_dagster.engine.suspects import NodeSuspects
from nvisy_dagster.engine.turns import Turns
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

ROWS = 4000


def start(folder: Path, options: dict[str, Any]) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, str(here / "suspect_target.py"), str(folder), json.dumps(options)],
        env={**os.environ, "PYTHONPATH": str(here)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def supervised(folder: Path, most: int = 12, **options: Any) -> tuple[int, dict[str, Any]]:
    """Start it again until it comes to its end: how often it died, and its counts."""
    for died in range(most):
        process = start(folder, options)
        output, errors = process.communicate(timeout=180)
        if process.returncode == 0:
            return died, json.loads(output)
        assert process.returncode in {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGKILL, 7}, errors
    raise AssertionError(f"it died {most} times")


def letters(folder: Path) -> list[dict[str, Any]]:
    box = DeadLetterBox(folder / "state", "suspects")
    return [row for _, batch in box.read(box.letters()) for row in batch.to_pylist()]


def check(folder: Path, counts: dict[str, Any], lettered: dict[int, str]) -> None:
    """Nothing is lost or doubled; the letters are these."""
    found = letters(folder)
    assert {letter["record"]["n"]: letter["node"] for letter in found} == lettered
    assert len(found) == len(lettered)
    assert {letter["tag"] for letter in found} <= {"crash"}
    assert numbers_in(folder / "out.db") == [n for n in range(ROWS) if n not in lettered]
    dead = {"act": counts["act"]["dead"], "out": counts["out"]["dead"]}
    assert dead == {node: list(lettered.values()).count(node) for node in ("act", "out")}
    assert counts["out"]["records_out"] == ROWS - len(lettered)
    assert not list(folder.rglob("in_flight/*")), "an orderly end leaves nothing behind"
    assert not list(folder.rglob("suspects.json"))


@pytest.mark.parametrize(
    ("how", "node", "poison"),
    [
        ("segfault", "act", 0),
        ("exit", "out", 2345),
        *(
            pytest.param(*case, marks=pytest.mark.soak)
            for case in [("abort", "act", 2345), ("exit", "act", 3999), ("abort", "out", 0)]
        ),
    ],
)
def test_one_poison_record_within_three_restarts(
    tmp_path: Path, how: str, node: str, poison: int
) -> None:
    options: dict[str, Any] = {node: {"poison": [poison], "how": how}}
    died, counts = supervised(tmp_path, **options)
    assert died <= 3
    check(tmp_path, counts, {poison: node})
    (letter,) = letters(tmp_path)
    told = {"abort": "Aborted", "exit": "os._exit(7)", "segfault": "Segmentation fault"}[how]
    assert told in letter["message"]
    assert ("__main__" if how == "exit" else "suspect_target.py") in letter["message"]


@pytest.mark.soak
def test_several_poison_records(tmp_path: Path) -> None:
    poison = {100: "act", 101: "act", 1500: "act", 2500: "act"}
    died, counts = supervised(tmp_path, act={"poison": list(poison)})
    # Those of one piece cost a death each; those of one batch, two.
    assert died <= 3 + 1 + 2 + 3
    check(tmp_path, counts, poison)


def test_dropped(tmp_path: Path) -> None:
    died, counts = supervised(tmp_path, act={"poison": [77]}, on_error="drop")
    assert died <= 3
    assert letters(tmp_path) == []
    assert (counts["act"]["dropped"], counts["out"]["records_out"]) == (1, ROWS - 1)
    assert numbers_in(tmp_path / "out.db") == [n for n in range(ROWS) if n != 77]


def test_failing_leaves_no_trace(tmp_path: Path) -> None:
    """With `on_error: fail` calls are not recorded, and the record kills every attempt."""
    with pytest.raises(AssertionError, match="it died 4 times"):
        supervised(tmp_path, most=4, act={"poison": [77]}, on_error="fail")
    assert not list(tmp_path.rglob("in_flight"))


def test_a_record_for_which_the_system_kills_the_process(tmp_path: Path) -> None:
    """It says nothing of its end: it is believed when it was there at each of three deaths."""
    died, counts = supervised(tmp_path, act={"poison": [1234], "how": "kill"})
    assert died == 3
    check(tmp_path, counts, {1234: "act"})
    (letter,) = letters(tmp_path)
    assert "killed 3 times with this record in flight, at last alone" in letter["message"]


@pytest.mark.soak
def test_a_small_call_for_which_the_system_kills_the_process(tmp_path: Path) -> None:
    """Its records run one by one at once; being alone at two deaths of three is enough."""
    died, counts = supervised(
        tmp_path, act={"poison": [1234], "how": "kill"}, count={"batch_rows": 10}
    )
    assert died == 3
    check(tmp_path, counts, {1234: "act"})


def _wait_for_call(folder: Path, process: "subprocess.Popen[str]") -> None:
    before = {path: path.stat().st_mtime_ns for path in living_files(folder, "*.call")}
    while process.poll() is None:
        for path in living_files(folder, "*.call"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime_ns != before.get(path):
                    return
        time.sleep(0.005)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 141))
def test_killed_from_without(tmp_path: Path, seed: int) -> None:
    """Kills at random moments cost a slower pass, and never a letter."""
    moments = random.Random(seed)
    options: dict[str, Any] = {"act": {"call_seconds": 0.004}, "count": {"batch_rows": 200}}
    for _ in range(4):
        victim = start(tmp_path, options)
        _wait_for_call(tmp_path, victim)
        time.sleep(moments.uniform(0.3, 1.2))
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=180)
    died, counts = supervised(tmp_path, **options)
    assert died == 0
    check(tmp_path, counts, {})


def test_poison_and_kills_from_without(tmp_path: Path) -> None:
    moments = random.Random(5)
    options: dict[str, Any] = {
        "act": {"poison": [1777], "call_seconds": 0.004},
        "count": {"batch_rows": 500},
    }
    for _ in range(4):
        victim = start(tmp_path, options)
        # Killed again and again with its first call, a record would be believed to be the cause.
        _wait_for_call(tmp_path, victim)
        time.sleep(moments.uniform(0.1, 0.5))
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=180)
    died, counts = supervised(tmp_path, **options)
    assert died <= 3
    check(tmp_path, counts, {1777: "act"})


def batch(count: int, start: int = 0) -> pa.RecordBatch:
    numbers = np.arange(start, start + count)
    columns = pa.record_batch({"n": numbers})
    return with_envelope(columns, ids=root_ids("t:", numbers), uri="t:", positions=numbers)


@pytest.mark.anyio
async def test_calls_are_on_record_while_they_are_in_flight(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        node = NodeSuspects(new_slot=lambda: recorder.slot("a/b.c"))
        seen: list[list[tuple[str, int, bytes]]] = []

        async def look() -> None:
            await anyio.sleep(0.01)
            (death,) = deaths(tmp_path)
            seen.append([(call.node, call.count, call.ids[:16]) for call in death.calls])

        slices = [batch(100).slice(30, 20), batch(5000, start=1000), batch(3).slice(1, 1)]
        async with anyio.create_task_group() as tasks:
            for records in slices:
                tasks.start_soon(node.call, look, records)
        firsts = [records.column("_id")[0].as_py() for records in slices]
        for found in seen[:1]:
            assert [(count, first) for _, count, first in found] == [
                (20, firsts[0]),
                (5000, firsts[1]),
                (1, firsts[2]),
            ]
            assert {name for name, _, _ in found} == {"a_b.c"}
        # A shorter call in the file of a longer one.
        await node.call(look, batch(2))
        assert [count for _, count, _ in seen[-1]] == [2]
        assert deaths(tmp_path)[0].calls == []
    assert deaths(tmp_path) == []


@pytest.mark.anyio
async def test_being_alone() -> None:
    turns, inside, peaks = Turns(), [0], [0, 0]

    async def one(*, alone: bool) -> None:
        async with turns.alone() if alone else turns.together():
            inside[0] += 1
            peaks[alone] = max(peaks[alone], inside[0])
            try:
                await anyio.sleep(0.001)
            finally:
                inside[0] -= 1

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(lambda alone=number % 7 == 0: one(alone=alone))
            with anyio.move_on_after(0.004):  # who gives up while waiting stands in nobody's way
                await one(alone=True)
    assert peaks[1] == 1
    assert peaks[0] > 1
