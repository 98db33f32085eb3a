"""A replay that was cut off, and what runs and the user did to its letters meanwhile."""

import signal
import sqlite3
from pathlib import Path

import pytest
from replay_target import versions_plan
from test_dead_letters import box, run
from test_replay import in_a_process, replay

from nvisy_dagster.engine.dead_letter_box import ALL

pytestmark = pytest.mark.anyio

OLD = [1, 2, 3, 4, 5, 6]
NEW = [n + 1000 for n in OLD]


def write(folder: Path, numbers: list[int]) -> None:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "x.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in numbers))


def held(folder: Path) -> list[int]:
    with sqlite3.connect(folder / "out.db") as db:
        return sorted(n for (n,) in db.execute("select n from t"))


def statuses(folder: Path) -> dict[int, str]:
    return {one["position"]: one["status"] for one in box(folder).letters(ALL).to_pylist()}


PLACES = [
    "part.after_rename:1",  # what was paid for is written, but in no checkpoint
    "sink.after_write:1",  # the older version is in the sink, but not committed
    pytest.param("sink.after_commit:1", marks=pytest.mark.soak),
    pytest.param("checkpoint.after_write:2", marks=pytest.mark.soak),
    pytest.param("sink.before_commit:1", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("place", PLACES)
async def test_an_older_version_is_not_written_over_what_a_run_wrote(
    tmp_path: Path, place: str
) -> None:
    write(tmp_path, OLD)
    await run(versions_plan(tmp_path, poison=[2, 4, 5]), tmp_path)
    assert held(tmp_path) == [1, 3, 6]
    assert in_a_process(tmp_path, "replay-versions", place) == -signal.SIGKILL
    # The run gets past the node what it reads; the last two lines it does not read.
    write(tmp_path, NEW[:4])
    await run(versions_plan(tmp_path), tmp_path)
    assert statuses(tmp_path) == {2: "superseded", 4: "superseded", 5: "open"}
    assert in_a_process(tmp_path, "replay-versions") == 0
    assert held(tmp_path) == sorted([*NEW[:4], 5, 6])
    assert statuses(tmp_path) == {2: "superseded", 4: "superseded", 5: "replayed"}
    # What the first stage had completed is not paid for again.
    paid = (tmp_path / "ledger").read_text().split()
    assert paid.count("5") == 1 or not place.startswith("sink")


async def test_what_failed_again_in_a_newer_version_is_not_written_in_the_older_one(
    tmp_path: Path,
) -> None:
    write(tmp_path, OLD)
    await run(versions_plan(tmp_path, poison=[2, 4]), tmp_path)
    assert in_a_process(tmp_path, "replay-versions", "sink.after_commit:1") == -signal.SIGKILL
    write(tmp_path, NEW)
    await run(versions_plan(tmp_path, poison=[1002]), tmp_path)
    result = await replay(versions_plan(tmp_path), tmp_path)
    assert (result.letters, result.refused) == (0, [])
    # That it was written at all was before the run; the letter is that of the newer version.
    assert statuses(tmp_path) == {2: "open", 4: "superseded"}
    assert set(held(tmp_path)) >= {1001, 1003, 1004, 1005, 1006}
    result = await replay(versions_plan(tmp_path), tmp_path, "more")
    assert (result.letters, result.through) == (1, 1)
    assert held(tmp_path) == NEW


async def test_what_was_discarded_meanwhile_is_not_written(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    await run(versions_plan(tmp_path, poison=[2, 4, 5]), tmp_path)
    assert in_a_process(tmp_path, "replay-versions", "sink.before_commit:1") == -signal.SIGKILL
    box(tmp_path).mark(box(tmp_path).letters().slice(0, 1), "discarded")
    result = await replay(versions_plan(tmp_path), tmp_path)
    assert (result.letters, result.through) == (2, 2)
    assert sorted(statuses(tmp_path).values()) == ["discarded", "replayed", "replayed"]
    assert len(held(tmp_path)) == 5


async def test_other_letters_of_the_same_document_stay_open(tmp_path: Path) -> None:
    """Two records of one line fail; a run makes one of them anew, and not the other."""
    write(tmp_path, [10, 20, 30])
    await run(versions_plan(tmp_path, between=["twice"], poison=[40, 41, 60]), tmp_path)
    assert held(tmp_path) == [20, 21, 61]
    place = "sink.before_commit:1"
    assert in_a_process(tmp_path, "replay-twice-versions", place) == -signal.SIGKILL
    write(tmp_path, [10, 1020])
    await run(versions_plan(tmp_path, between=["twice", "even"]), tmp_path)
    assert held(tmp_path) == [20, 21, 61, 2040]
    result = await replay(versions_plan(tmp_path, between=["twice"]), tmp_path)
    [left] = result.refused
    assert (left.letters, left.read_again) == (1, True)
    assert "a run has written a newer version of what it was made of" in left.reason
    assert (result.letters, result.through) == (1, 1)
    found = sorted(one["status"] for one in box(tmp_path).letters(ALL).to_pylist())
    assert found == ["open", "replayed", "superseded"]
    # Not 41, which is of the older version of the line.
    assert held(tmp_path) == [20, 21, 60, 61, 2040]
