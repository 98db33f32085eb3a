"""Indexes and marks of many attempt chains, merged: killed at every point, and read meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_dead_letters import box, chain, counter, run, table

from nvisy_dagster.engine import dead_letter_marks, dead_letter_merged
from nvisy_dagster.engine.dead_letter_box import ALL
from nvisy_dagster.sdk.identity import format_ulid, ids_to_array, ulids

pytestmark = pytest.mark.anyio

PROGRAM = """
import sys
from pathlib import Path
from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox
box = DeadLetterBox(Path(sys.argv[1]), "g")
for _ in range(int(sys.argv[3])):
    letters = box.letters(ALL)
    if sys.argv[2] == "mark":
        box.mark(letters.slice(0, 1), "discarded")
    elif sys.argv[2] == "watch":
        assert set(letters["status"].to_pylist()) == {"discarded", "open"}, letters["status"]
"""


def process(folder: Path, what: str, times: int = 1, failpoint: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "NVISY_FAILPOINT": failpoint}
    command = [sys.executable, "-c", PROGRAM, str(folder / "state"), what, str(times)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> int:
    _, told = process.communicate(timeout=180)
    assert process.returncode in {0, -signal.SIGKILL}, told
    return process.returncode


async def many(folder: Path, chains: int, *, rows: int = 8) -> Path:
    """Chains that are over, each with letters for the same records; returns their folder."""
    for _ in range(2):
        await run(chain(counter(rows=rows), table(folder, refuse=list(range(rows)))), folder)
    letters = folder / "state" / "graphs" / "g" / "dead_letters"
    [first] = [found for found in letters.iterdir() if (found / "listing.json").exists()]
    for id_ in ids_to_array(ulids(chains - 1)).to_pylist():
        shutil.copytree(first, letters / format_ulid(id_))
    for index in letters.glob("*/index.parquet"):
        index.unlink()
    return letters


def listed(folder: Path) -> list[dict[str, Any]]:
    return box(folder).letters(ALL).to_pylist()


async def test_merged_chains_are_listed_as_before_and_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = await many(tmp_path, 40)
    monkeypatch.setattr(dead_letter_merged, "MERGED_AT", 1000)
    before = listed(tmp_path)
    assert not (letters / "merged.parquet").exists()
    monkeypatch.setattr(dead_letter_merged, "MERGED_AT", 16)
    assert listed(tmp_path) == before
    assert (letters / "merged.parquet").exists()
    opened: list[str] = []
    real = dead_letter_merged.chain_index

    def counting(graph: Path, name: str) -> Any:
        opened.append(name)
        return real(graph, name)

    monkeypatch.setattr(dead_letter_merged, "chain_index", counting)
    assert listed(tmp_path) == before
    # The last run's, whose list is not final, and no other.
    assert len(opened) == 1
    assert len(list(box(tmp_path).read(box(tmp_path).letters()))) == len({
        (one["chain"], one["part"]) for one in before
    })


async def test_what_is_removed_or_damaged_is_noticed(tmp_path: Path) -> None:
    letters = await many(tmp_path, 40)
    listed(tmp_path)
    shutil.rmtree(min(found for found in letters.iterdir() if found.is_dir()))
    after = listed(tmp_path)
    (letters / "merged.parquet").write_bytes(b"PAR1 nonsense")
    assert listed(tmp_path) == after
    # A run adds to it.
    await run(chain(counter(rows=8), table(tmp_path, refuse=[0])), tmp_path)
    statuses = [one["status"] for one in listed(tmp_path)]
    assert sorted(statuses) == ["open", *["superseded"] * 7]


async def test_a_chain_whose_files_are_not_all_there_is_not_merged(tmp_path: Path) -> None:
    letters = await many(tmp_path, 40, rows=8)
    newest = max(found for found in letters.iterdir() if (found / "listing.json").exists())
    [part] = newest.glob("out/*.arrow")
    away = part.rename(tmp_path / "away")

    def chains() -> set[str]:
        found = dead_letter_merged.all_indexes(box(tmp_path).folder)
        return set(found["chain"].to_pylist())

    assert newest.name not in chains()
    away.rename(part)
    assert newest.name in chains()


async def test_killed_while_indexes_are_merged(tmp_path: Path) -> None:
    letters = await many(tmp_path, 20)
    # The last passage is that of the merged one.
    assert ended(process(tmp_path, "list", failpoint="index.before_rename:22")) == -signal.SIGKILL
    assert not (letters / "merged.parquet").exists()
    before = listed(tmp_path)
    assert (letters / "merged.parquet").exists()
    assert listed(tmp_path) == before


@pytest.mark.parametrize(
    "failpoint",
    ["marks.before_merge:1", "marks.after_merge:1", "marks.after_remove:1", "marks.after_remove:9"],
)
async def test_killed_while_marks_are_merged_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failpoint: str
) -> None:
    await run(chain(counter(rows=50), table(tmp_path, refuse=list(range(50)))), tmp_path)
    letters = box(tmp_path).letters()
    for row in range(32):
        box(tmp_path).mark(letters.slice(row, 1), "discarded")
    before = listed(tmp_path)
    assert ended(process(tmp_path, "mark", failpoint=failpoint)) == -signal.SIGKILL
    assert listed(tmp_path) == before
    box(tmp_path).mark(letters.slice(32, 1), "replayed", "one")
    marks = box(tmp_path).folder / "dead_letters" / "marks"
    assert len(list(marks.glob("*.parquet"))) <= 33
    after = [one["status"] for one in listed(tmp_path)]
    assert sorted(after) == ["discarded"] * 32 + ["open"] * 17 + ["replayed"]
    # A mark by nobody is not taken for one by who came later.
    assert {one["marked_by"] for one in listed(tmp_path) if one["status"] == "discarded"} == {None}


async def test_marks_are_read_and_added_while_they_are_merged(tmp_path: Path) -> None:
    await run(chain(counter(rows=3), table(tmp_path, refuse=[0, 1, 2])), tmp_path)
    box(tmp_path).mark(box(tmp_path).letters().slice(0, 1), "discarded")
    tasks = [process(tmp_path, "mark", 50), process(tmp_path, "mark", 50)]
    tasks += [process(tmp_path, "watch", 50), process(tmp_path, "watch", 50)]
    assert [ended(one) for one in tasks] == [0] * 4
    statuses = box(tmp_path).letters(ALL)["status"]
    assert sorted(statuses.to_pylist()) == ["discarded", "open", "open"]
    marks = box(tmp_path).folder / "dead_letters" / "marks"
    assert len(list(marks.glob("*.parquet"))) <= dead_letter_marks.MERGED_AT + 1


async def test_many_chains_cost_little_at_the_start_of_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many(tmp_path, 200)

    def seconds() -> float:
        best = 100.0
        for _ in range(3):
            began = time.process_time()
            box(tmp_path).letters(ALL)
            best = min(best, time.process_time() - began)
        return best

    monkeypatch.setattr(dead_letter_merged, "MERGED_AT", 1000)
    apart = seconds()
    monkeypatch.setattr(dead_letter_merged, "MERGED_AT", 16)
    merged = seconds()
    assert apart > 4 * merged, (apart, merged)
