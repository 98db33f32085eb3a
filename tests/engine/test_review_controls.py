"""Negative controls: bugs put in on purpose turn the oracle of the kill tests red."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_kill import ROWS, check_complete, check_durable, close_ledger


def start(folder: Path, bug: str, **environment: str) -> "tuple[int, str, str]":
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "seeded_target.py"), str(folder), str(ROWS), bug],
        env={**os.environ, "PYTHONPATH": str(here), **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def kill_and_finish(folder: Path, bug: str, place: str) -> None:
    """What the kill tests do, with their oracle."""
    killed, _, _ = start(folder, bug, NVISY_FAILPOINT=place)
    assert killed == -signal.SIGKILL, "it was not killed"
    check_durable(folder)
    close_ledger(folder)
    code, output, errors = start(folder, bug)
    assert code == 0, errors
    check_complete(folder, output)


@pytest.mark.parametrize(
    ("bug", "place", "red"),
    [
        ("cursor_before_flush", "checkpoint.after_write:1", "check_durable"),
        ("random_ids", "sink.after_commit:1", "check_complete"),
        ("swallowed_failure", "sink.after_commit:1", "check_complete"),
    ],
)
def test_a_seeded_bug_turns_the_oracle_red(tmp_path: Path, bug: str, place: str, red: str) -> None:
    with pytest.raises(AssertionError) as caught:
        kill_and_finish(tmp_path, bug, place)
    assert red in {entry.name for entry in caught.traceback}
