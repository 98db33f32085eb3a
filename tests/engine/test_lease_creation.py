"""Killed around the creation of a lease, at the first attempt and at one that takes over."""

import signal
from pathlib import Path

import pytest
from test_kill import check_durable, finish, start

LEASE = {"NVISY_LEASE_SECONDS": "2"}


def kill_at(folder: Path, place: str) -> None:
    killed = start(folder, NVISY_FAILPOINT=place, **LEASE)
    killed.communicate(timeout=180)
    assert killed.returncode == -signal.SIGKILL
    check_durable(folder)


def leases(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "state").rglob("lease/*.json"))


@pytest.mark.parametrize(
    ("place", "passage"),
    [
        ("lease.before_create", 1),
        ("lease.after_create", 2),
        pytest.param("lease.before_create", 2, marks=pytest.mark.soak),
        pytest.param("lease.after_create", 1, marks=pytest.mark.soak),
    ],
)
def test_killed_at_the_first_attempt(tmp_path: Path, place: str, passage: int) -> None:
    kill_at(tmp_path, f"{place}:{passage}")
    assert len(leases(tmp_path)) == passage - (place == "lease.before_create")
    finish(tmp_path)


def test_killed_while_it_takes_over(tmp_path: Path) -> None:
    kill_at(tmp_path, "checkpoint.after_write:2")
    assert leases(tmp_path) == ["0000000001.json"]
    kill_at(tmp_path, "lease.before_create:1")
    assert leases(tmp_path) == ["0000000001.json"]
    kill_at(tmp_path, "lease.after_create:1")
    assert leases(tmp_path) == ["0000000001.json", "0000000002.json"]
    finish(tmp_path)


def test_stopped_before_it_takes_over(tmp_path: Path) -> None:
    """Two find a dead holder; the one that was stopped on the way finds the other there."""
    kill_at(tmp_path, "checkpoint.after_write:2")
    late = start(tmp_path, NVISY_FAILPOINT="lease.before_create:1:SIGSTOP", **LEASE)
    while late.poll() is None:
        state = Path(f"/proc/{late.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            break
    finish(tmp_path)
    late.send_signal(signal.SIGCONT)
    _, errors = late.communicate(timeout=180)
    assert late.returncode == 1
    assert "is running this graph now" in errors
    finish(tmp_path)
