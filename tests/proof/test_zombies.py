"""A worker that is stopped for longer than its lease and revived later commits nothing any more."""

import hashlib
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import SEED, Case, Victim

LEASE = {"NVISY_LEASE_SECONDS": "1"}
EXPIRED_SECONDS = 1.2


def contents(folder: Path) -> dict[str, str]:
    """Everything that is durable, by file; what leases and locks say of their holders aside.

    A temporary file of the zombie is nothing yet, and removed by the next run.
    """
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not file.name.startswith("errors.")
        and file.parent.name != "lease"
        and file.suffix != ".tmp"
    }


def is_litter(folder: Path, name: str) -> bool:
    """Whether it is a file of dead letters that counts for nothing: no checkpoint lists it.

    A run that stood still between asking for its lease and naming the file can still name it.
    """
    listed = (
        file.read_text()
        for file in folder.rglob("*.json")
        if "listing" in file.name or "checkpoint" in file.name
    )
    return "/dead_letters/" in name and not any(Path(name).name in text for text in listed)


def revive(case: Case, zombie: Victim) -> None:
    """Revive a run after another one has come to the end: nothing changes, and it fails."""
    case.check()
    time.sleep(EXPIRED_SECONDS)
    case.finish(**LEASE)
    left = contents(case.folder)
    zombie.send(signal.SIGCONT)

    assert zombie.wait() != 0, "it ended well"
    found = contents(case.folder)
    assert {name: found.get(name) for name in left} == left
    assert all(is_litter(case.folder, name) for name in found.keys() - left.keys())
    # The sink itself keeps it out, or the engine does.
    assert re.search("taken this run over|took over from run", zombie.errors), zombie.errors[-2000:]
    case.check(complete=True)


@pytest.mark.parametrize(
    "seed",
    [SEED, *(pytest.param(s, marks=pytest.mark.soak) for s in range(100, 118))],
)
def test_stopped_at_a_random_moment(make_case: Callable[..., Case], seed: int) -> None:
    moments = random.Random(seed)
    case = make_case(["files", "table", "both"][seed % 3], seed=seed)
    zombie = case.start(**LEASE)
    case.wait_for_checkpoint(zombie)
    time.sleep(moments.uniform(0, 0.1))
    zombie.send(signal.SIGSTOP)
    assert not case.completed, "it was quicker than the signal"
    revive(case, zombie)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("files", "sink.before_commit:3"),
        ("table", "sink.before_commit:2"),
        pytest.param("files", "checkpoint.before_write:3", marks=pytest.mark.soak),
        pytest.param("files", "storage.before_rename:5", marks=pytest.mark.soak),
        pytest.param("table", "sink.after_write:3", marks=pytest.mark.soak),
        pytest.param("table", "sink.after_commit:2", marks=pytest.mark.soak),
        pytest.param("files", "sink.after_commit:3", marks=pytest.mark.soak),
        pytest.param("both", "part.before_close:2", marks=pytest.mark.soak),
        pytest.param("both", "dead_letters.before_rename:1", marks=pytest.mark.soak),
    ],
)
def test_stopped_at_the_worst_moment(make_case: Callable[..., Case], kind: str, place: str) -> None:
    case = make_case(kind, refused=0.02)
    zombie = case.start(NVISY_FAILPOINT=f"{place}:SIGSTOP", **LEASE)
    zombie.wait_until_stopped()
    revive(case, zombie)


@pytest.mark.parametrize("where", ["stop_before_publish", "stop_before_spool"])
def test_revived_while_the_other_run_is_at_work(tmp_path: Path, where: str) -> None:
    """It was stopped after it saw that it still holds the lease, before it wrote."""
    case = Case(tmp_path, kind="files")
    zombie = case.start(NVISY_PROOF_BUG=where, **LEASE)
    zombie.wait_until_stopped()
    case.check()
    time.sleep(EXPIRED_SECONDS)

    other = case.start(NVISY_FAILPOINT="sink.before_commit:2:SIGSTOP", **LEASE)
    other.wait_until_stopped()
    zombie.send(signal.SIGCONT)
    assert zombie.wait() != 0, "it ended well"
    other.send(signal.SIGCONT)

    assert other.wait() == 0, other.errors
    case.check(complete=True)
