"""SIGKILL at named places and at random moments, then run again: every record exactly once.

The oracle reads the sinks, the ledger of paid calls and the checkpoints without the engine.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from counting import numbers_in
from living_files import living_json

ROWS = 2000

FAILPOINTS = [
    "part.before_close",
    "part.after_rename",
    "sink.after_write",
    "sink.before_commit",
    "sink.after_commit",
    "checkpoint.before_write",
    "storage.before_rename",
    "storage.after_rename",
    "checkpoint.after_write",
]


def start(folder: Path, **environment: str) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, str(here / "kill_target.py"), str(folder), str(ROWS)],
        env={**os.environ, "PYTHONPATH": str(here), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cursor(folder: Path) -> int:
    """How far the first stage's checkpoint is."""
    for found in living_json(folder / "state", "checkpoint.json"):
        source = found["sources"].get("count")
        if source is not None:
            return ROWS if source["done"] else source["cursor"]["after"]
    return 0


def check_durable(folder: Path) -> None:
    """The checkpoint never runs ahead of what the sinks hold."""
    done = cursor(folder)
    if done:
        assert set(range(0, done, 2)) <= set(numbers_in(folder / "even.db"))


def check_complete(folder: Path, output: str) -> None:
    """Nothing lost, nothing doubled, counts that add up over all attempts."""
    assert numbers_in(folder / "paid.db") == list(range(ROWS))
    assert numbers_in(folder / "even.db") == list(range(0, ROWS, 2))
    counts = {line.split()[0]: list(map(int, line.split()[1:])) for line in output.splitlines()}
    assert counts == {
        "count": [ROWS, ROWS, 0],
        "even": [ROWS, ROWS // 2, ROWS // 2],
        "pay": [ROWS, ROWS, 0],
        "even_out": [ROWS // 2, ROWS // 2, 0],
        "paid": [ROWS, ROWS, 0],
    }


def finish(folder: Path) -> None:
    again = start(folder)
    output, errors = again.communicate(timeout=180)
    assert again.returncode == 0, errors
    check_complete(folder, output)


def close_ledger(folder: Path) -> int:
    """Put the ledger of a killed attempt aside; returns how far its checkpoint is."""
    ledger = folder / "ledger"
    if ledger.exists():
        ledger.rename(folder / f"ledger.{time.monotonic_ns()}")
    return cursor(folder)


def completed(folder: Path) -> bool:
    """Whether the last attempt came to its end."""
    for path in (folder / "state").rglob("chains.json"):
        state = json.loads(path.read_text())
        return bool(state["chains"][state["current"]]["complete"])
    return False


def check_ledger(folder: Path, done: int) -> None:
    """What a checkpoint covers is never paid for again."""
    ledger = folder / "ledger"
    # A line that the kill cut short says nothing.
    paid = [n for n in ledger.read_text().split("\n")[:-1] if n] if ledger.exists() else []
    assert all(int(n) >= done for n in paid)
    assert len(paid) == len(set(paid))


# The others are passed at once in `tests/proof`.
OFTEN = {"part.after_rename", "sink.after_commit"}


@pytest.mark.parametrize(
    ("place", "passage"),
    [
        pytest.param(place, passage, marks=[] if often else pytest.mark.soak)
        for place in FAILPOINTS
        for passage in (1, 2)
        for often in [place in OFTEN and passage == 2]
    ],
)
def test_killed_at_a_failpoint(tmp_path: Path, place: str, passage: int) -> None:
    killed = start(tmp_path, NVISY_FAILPOINT=f"{place}:{passage}")
    killed.communicate(timeout=180)
    assert killed.returncode == -signal.SIGKILL
    check_durable(tmp_path)
    done = close_ledger(tmp_path)
    finish(tmp_path)
    check_ledger(tmp_path, done)


STORM = [pytest.param(seed, marks=pytest.mark.soak) for seed in range(100, 163)]


@pytest.mark.parametrize("seed", [0, *STORM])
def test_killed_twice_at_random_moments(tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    cursors = [0]
    for _ in range(2):
        victim = start(tmp_path)
        # The process needs a while to come up; after that the first stage lasts over half a second.
        while not (tmp_path / "ledger").exists() and victim.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4))
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=180)
        check_durable(tmp_path)
        check_ledger(tmp_path, cursors[-1])
        cursors.append(close_ledger(tmp_path))
        if completed(tmp_path):
            # It was quicker than the kill; the next run is a new one.
            break
    assert cursors == sorted(cursors), "the checkpoint went back"
    again = completed(tmp_path)
    finish(tmp_path)
    check_ledger(tmp_path, 0 if again else cursors[-1])
