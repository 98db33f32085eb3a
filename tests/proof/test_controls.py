"""Negative controls: a harness that cannot fail is worth nothing."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import Case
from test_zombies import EXPIRED_SECONDS, LEASE, contents


def killed_with(case: Case, bug: str, place: str) -> None:
    victim = case.start(NVISY_PROOF_BUG=bug, NVISY_FAILPOINT=place)
    assert victim.wait() == -signal.SIGKILL, victim.errors


def test_a_cursor_before_the_flush_is_found(tmp_path: Path) -> None:
    case = Case(tmp_path, kind="files")
    killed_with(case, "cursor_before_flush", "checkpoint.after_write:2")
    at_once = case.judge()
    assert not at_once.ok
    assert "records are not in files" in " ".join(at_once.faults)

    victim = case.start(NVISY_PROOF_BUG="cursor_before_flush")
    assert victim.wait() == 0, victim.errors
    in_the_end = case.judge(complete=True)
    assert "records are not in files" in " ".join(in_the_end.faults)


def test_random_ids_are_found(tmp_path: Path) -> None:
    # Streamed: what is kept between two stages would keep its ids too.
    case = Case(tmp_path, edges="streamed")
    killed_with(case, "random_ids", "sink.after_commit:4")

    victim = case.start(NVISY_PROOF_BUG="random_ids")
    assert victim.wait() == 0, victim.errors
    verdict = case.judge(complete=True)
    assert "keys are more than once in vectors" in " ".join(verdict.faults)


def test_a_swallowed_failure_is_found(tmp_path: Path) -> None:
    case = Case(tmp_path, kind="files", refused=0.01)

    victim = case.start(NVISY_PROOF_BUG="swallowed_failure")
    assert victim.wait() == 0, victim.errors
    verdict = case.judge(complete=True)
    assert "records were refused, and are in no dead letter" in " ".join(verdict.faults)


def test_a_missing_fence_is_found(tmp_path: Path) -> None:
    case = Case(tmp_path, kind="files")
    # Killed as soon as it has done harm: left alone, it might write all that the other run wrote,
    # and nothing would tell.
    places = "checkpoint.before_write:3:SIGSTOP,checkpoint.after_write:3"
    zombie = case.start(NVISY_PROOF_BUG="no_fence", NVISY_FAILPOINT=places, **LEASE)
    zombie.wait_until_stopped()
    time.sleep(EXPIRED_SECONDS)
    case.finish(NVISY_PROOF_BUG="no_fence", **LEASE)
    left = contents(tmp_path)
    zombie.send(signal.SIGCONT)
    assert zombie.wait() == -signal.SIGKILL, zombie.errors
    assert contents(tmp_path) != left
    assert not case.judge(complete=True).ok


def test_the_oracle_is_a_program_of_its_own(tmp_path: Path) -> None:
    done = Case(tmp_path)
    done.finish()
    command = [sys.executable, "-X", "importtime", oracle.__file__, str(done.folder), "--complete"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
    assert json.loads(process.stdout)["written"]["files"] > 1000
    assert "nvisy" not in process.stderr, "it must not share a line with what it judges"

    with (done.folder / "rows.jsonl").open("a") as file:
        file.write('{"key": 123456, "kind": "keep", "text": "late", "amount": "1"}\n')
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "[123456]" in process.stdout


@pytest.mark.parametrize("damage", ["lost", "doubled", "changed"])
def test_damage_to_a_file_is_found(tmp_path: Path, damage: str) -> None:
    case = Case(tmp_path, kind="files")
    case.finish()
    file = min((tmp_path / "out").glob("*.parquet"))
    table = pq.read_table(file)
    if damage == "lost":
        table = table.slice(1)
    elif damage == "doubled":
        pq.write_table(table.slice(0, 1), file.with_name(file.name.replace("-0.", "-7.")))
    else:
        rows = table.to_pylist()
        rows[0]["amount"] += 1
        table = pa.Table.from_pylist(rows, table.schema)
    pq.write_table(table, file)
    faults = " ".join(case.judge(complete=True).faults)
    expected = {
        "lost": "records are not in files",
        "doubled": "keys are more than once in files",
        "changed": "records have another content in files",
    }
    assert expected[damage] in faults
