"""Whatever write of the checkpoint code fails, a reader finds the old checkpoint or the new one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("faulty_writes.py")


def last(events: list[str], kind: str) -> int:
    """The last epoch that an event of a kind tells of."""
    return max((int(event[1:]) for event in events if event[0] == kind), default=0)


def run(folder: Path, kind: str) -> list[dict[str, Any]]:
    process = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), kind],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)
    assert len(results) == 200
    return results


def test_killed_at_the_nth_write(tmp_path: Path) -> None:
    struck = 0
    for result in run(tmp_path, "kill"):
        assert result["exit"] == -9, result
        begun, ended = last(result["events"], "b"), last(result["events"], "e")
        assert result["found"] in {begun, ended}, result
        assert result["whole"], result
        assert result["mended"], result
        struck += begun > ended
    assert struck > 150, "most calls are of checkpoints"


def test_refused_at_the_nth_write(tmp_path: Path) -> None:
    struck = 0
    for result in run(tmp_path, "error"):
        assert result["exit"] == 0, result
        refused = last(result["events"], "r")
        struck += refused > 0
        if "lease" not in result["events"]:
            # It went on: the last one is there.
            assert result["found"] == last(result["events"], "e") > refused, result
        assert result["whole"], result
        assert result["mended"], result
    assert struck > 100
