"""Letters that a later run closes: exactly those whose record it got past the failing node."""

import json
import signal
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
import pytest
from counting import numbers_in
from replay_target import awkward_plan
from test_dead_letters import batch_of, box, chain, counter, letters_on_storage, pay, run, table
from test_replay import in_a_process, parquet, replay

from nvisy_dagster.compiler import Plan, compile_document
from nvisy_dagster.engine.dead_letter import letter_ids
from nvisy_dagster.engine.dead_letter_box import ALL, LetterFilter
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.rejection import select
from nvisy_dagster.engine.replay_selection import select_letters
from nvisy_dagster.engine.superseded import OpenLetters, Superseding
from nvisy_dagster.sdk.identity import ids_to_array, root_ids

pytestmark = pytest.mark.anyio


def became(folder: Path) -> dict[tuple[str, int], tuple[str, int, str | None]]:
    """What became of every letter: by node and position, its status, attempts and by whom."""
    return {
        (row["node"], row["position"]): (row["status"], row["attempt"], row["marked_by"])
        for row in box(folder).letters(ALL).to_pylist()
    }


async def test_a_run_closes_what_it_gets_past_the_node(tmp_path: Path) -> None:
    broken = chain(counter(), pay(tmp_path, poison=[7, 500]), table(tmp_path, refuse=[8, 9]))
    await run(broken, tmp_path, run_id="one")
    half = chain(counter(rows=500), pay(tmp_path), table(tmp_path, refuse=[9]))
    result = await run(half, tmp_path, run_id="two")
    assert became(tmp_path) == {
        ("pay", 7): ("superseded", 1, "two"),
        # It was not read: that says nothing of it.
        ("pay", 500): ("open", 1, None),
        ("out", 8): ("superseded", 1, "two"),
        # The same letter, with one more attempt.
        ("out", 9): ("open", 2, None),
    }
    assert result.metrics["pay"].counts.superseded == 1
    assert result.metrics["out"].counts.superseded == 1
    await run(chain(counter(), pay(tmp_path), table(tmp_path)), tmp_path, run_id="three")
    assert box(tmp_path).letters().num_rows == 0
    assert became(tmp_path)["pay", 7] == ("superseded", 1, "two")
    assert became(tmp_path)["out", 9] == ("superseded", 2, "three")
    assert box(tmp_path).letters(LetterFilter(status="superseded")).num_rows == 4
    # Nothing is left to be replayed, and what is closed stays so when it is read again.
    assert (await replay(half, tmp_path)).selection is None
    again = await run(chain(counter(), pay(tmp_path), table(tmp_path)), tmp_path, run_id="four")
    assert again.metrics["pay"].counts.superseded == 0
    assert became(tmp_path)["pay", 7] == ("superseded", 1, "two")


async def test_what_fails_after_that_is_open_again(tmp_path: Path) -> None:
    for refuse in ([7], [], [7]):
        await run(chain(counter(), table(tmp_path, refuse=refuse)), tmp_path)
    assert [row["position"] for row in box(tmp_path).letters().to_pylist()] == [7]
    assert len(letters_on_storage(tmp_path)) == 2


async def test_a_node_behind_that_fails_it_says_nothing_of_the_node_before(tmp_path: Path) -> None:
    await run(chain(counter(), table(tmp_path, refuse=[7])), tmp_path)
    await run(chain(counter(), pay(tmp_path, poison=[7]), table(tmp_path)), tmp_path)
    # It never came to the sink in the second run, where another node failed it.
    assert {key: found[0] for key, found in became(tmp_path).items()} == {
        ("out", 7): "open",
        ("pay", 7): "open",
    }
    # A replay of that letter brings it there.
    mended = chain(counter(), pay(tmp_path), table(tmp_path))
    letters = box(tmp_path).letters(LetterFilter(node="pay"))
    chosen = select_letters(tmp_path / "state", "g", letters)
    result = await replay(mended, tmp_path, "the-replay", selection=chosen.id)
    assert (result.letters, result.through, result.failed) == (1, 1, 0)
    assert became(tmp_path) == {
        ("out", 7): ("superseded", 1, "the-replay"),
        ("pay", 7): ("replayed", 1, "the-replay"),
    }


async def test_what_was_dropped_by_policy_stays_open(tmp_path: Path) -> None:
    await run(chain(counter(), table(tmp_path, refuse=[7])), tmp_path)
    await run(chain(counter(), table(tmp_path, refuse=[7]), on_error="drop"), tmp_path)
    assert became(tmp_path) == {("out", 7): ("open", 1, None)}


async def test_an_epoch_that_was_not_committed_closes_nothing(tmp_path: Path) -> None:
    source = counter(batch_rows=50, pause_seconds=0.002)
    rest = {"checkpoint": {"interval_rows": 100}}
    free = {**pay(tmp_path), "materialize": False}
    await run(
        chain(source, {**free, **poison(tmp_path, 10, 790)}, table(tmp_path), **rest), tmp_path
    )
    failing = {**table(tmp_path, refuse=[791]), "on_error": "fail"}
    with pytest.raises(NodeError, match="791"):
        await run(chain(source, free, failing, **rest), tmp_path, run_id="cut")
    assert became(tmp_path)["pay", 10] == ("superseded", 1, "cut")
    assert became(tmp_path)["pay", 790][0] == "open"
    await run(chain(source, free, table(tmp_path), **rest), tmp_path, run_id="whole")
    # What it closed in its first attempt is closed for good, although that stage began anew.
    assert became(tmp_path)["pay", 10] == ("superseded", 1, "cut")
    assert became(tmp_path)["pay", 790] == ("superseded", 1, "whole")


def poison(folder: Path, *numbers: int) -> dict[str, Any]:
    return {"params": {"ledger": str(folder / "ledger"), "poison": list(numbers)}}


async def test_what_is_discarded_meanwhile_stays_discarded(tmp_path: Path) -> None:
    await run(chain(counter(), table(tmp_path, refuse=[7, 8])), tmp_path)
    slow = chain(counter(pause_seconds=0.05), table(tmp_path))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run(slow, tmp_path, run_id="slow"))
        await anyio.sleep(0.25)
        letters = box(tmp_path).letters()
        box(tmp_path).mark(letters.slice(0, 1), "discarded")
    assert sorted(status for status, *_ in became(tmp_path).values()) == ["discarded", "superseded"]
    await run(chain(counter(rows=5), table(tmp_path)), tmp_path)
    assert sorted(status for status, *_ in became(tmp_path).values()) == ["discarded", "superseded"]


async def test_two_runs_at_once_close_it_once(tmp_path: Path) -> None:
    await run(chain(counter(), table(tmp_path, refuse=[7, 8])), tmp_path)

    async def beside(name: str, *refuse: int) -> None:
        plan = chain(counter(pause_seconds=0.02), table(tmp_path, refuse=list(refuse)))
        await run(plan, tmp_path, run_id=name, fresh=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beside, "first")
        await anyio.sleep(0.05)
        tasks.start_soon(beside, "second", 8)
    found = became(tmp_path)
    assert len(found) == 2
    assert found["out", 7][0] == "superseded"
    assert found["out", 7][2] in {"first", "second"}
    # Where one of them failed it, it is open: a failure is never hidden.
    assert found["out", 8] == ("open", 2, None)


async def test_a_replay_that_was_cut_off_leaves_out_what_a_run_closed(tmp_path: Path) -> None:
    await run(chain(counter(), table(tmp_path, refuse=[7, 8])), tmp_path)
    failing = chain(counter(), {**table(tmp_path, refuse=[7]), "on_error": "fail"})
    with pytest.raises(NodeError, match="7 is refused"):
        await replay(failing, tmp_path)
    await run(chain(counter(rows=8), table(tmp_path)), tmp_path, run_id="newer")
    (tmp_path / "out.db").unlink()
    result = await replay(chain(counter(), table(tmp_path)), tmp_path, "more")
    assert result.letters == 1
    assert numbers_in(tmp_path / "out.db") == [8]
    assert became(tmp_path) == {
        ("out", 7): ("superseded", 1, "newer"),
        ("out", 8): ("replayed", 1, "more"),
    }


# Letters of a source


def lines(folder: Path, **params: Any) -> Plan:
    source = {
        "id": "read",
        "type": "source",
        "connector": "local",
        "params": {"path": str(folder / "in"), "format": "jsonl", **params},
    }
    sink = {
        "id": "out",
        "type": "sink",
        "connector": "local",
        "params": {"path": str(folder / "out"), "format": "jsonl"},
    }
    return compile_document({
        "name": "g",
        "nodes": [source, sink],
        "edges": [{"from": "read", "to": "out"}],
        "on_error": "dead_letter",
    })


async def test_a_line_that_is_read_now_closes_its_letter(tmp_path: Path) -> None:
    file = tmp_path / "in" / "x.jsonl"
    file.parent.mkdir()
    file.write_text('{"n": 1}\n{"n": "two"}\n{"n": 3\n{"n": 4}\n')
    await run(lines(tmp_path, columns={"n": "int64"}), tmp_path)
    assert {key: found[0] for key, found in became(tmp_path).items()} == {
        ("read", 2): "open",
        ("read", 3): "open",
    }
    file.write_text('{"n": 1}\n{"n": 2}\n{"n": 3\n{"n": 4}\n')
    await run(lines(tmp_path, columns={"n": "int64"}), tmp_path, run_id="later")
    assert became(tmp_path) == {
        ("read", 2): ("superseded", 1, "later"),
        ("read", 3): ("open", 2, None),
    }


async def test_a_file_that_is_read_now_closes_the_letter_of_all_of_it(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    good, bad = tmp_path / "in" / "a.parquet", tmp_path / "in" / "b.parquet"
    pq.write_table(pa.table({"n": [1]}), good)
    bad.write_bytes(b"PAR1 nonsense")
    await run(lines(tmp_path, format="parquet"), tmp_path)
    assert [row["position"] for row in box(tmp_path).letters().to_pylist()] == [None]
    await run(lines(tmp_path, format="parquet"), tmp_path)
    [letter] = box(tmp_path).letters().to_pylist()
    assert letter["attempt"] == 2
    pq.write_table(pa.table({"n": [2]}), bad)
    await run(lines(tmp_path, format="parquet"), tmp_path, run_id="later")
    assert became(tmp_path) == {("read", None): ("superseded", 2, "later")}


# What it costs


async def test_without_open_letters_nothing_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("something is searched")

    monkeypatch.setattr(OpenLetters, "rows", never)
    await run(chain(counter(), pay(tmp_path), table(tmp_path)), tmp_path)
    await run(chain(counter(), pay(tmp_path), table(tmp_path)), tmp_path)


def test_the_search_finds_exactly_the_letters(tmp_path: Path) -> None:
    numbers = np.arange(0, 300_000, 3)
    ids = ids_to_array(root_ids("test:", numbers))
    n = len(numbers)
    letters = pa.table({
        "letter_id": ids,
        "chain": pa.repeat(pa.scalar("c"), n),
        "part": pa.repeat(pa.scalar("p"), n),
        "record_id": ids,
        "attempt": pa.array(numbers % 5, pa.int32()),
        "uri": pa.repeat(pa.scalar("test:"), n),
        "position": pa.array(numbers),
    })
    open_ = OpenLetters(letters)
    batch = batch_of(1000)
    attempts = open_.attempts(batch.column("_id"))
    assert attempts.tolist() == [i % 5 if i % 3 == 0 else 0 for i in range(1000)]
    closing = Superseding(tmp_path, "n", "run", open_=open_)
    assert closing.saw(batch, [select(batch, {3: "no", 4: "no", 6: "no"}, "x")]) == 334 - 2
    assert closing.saw(batch, []) == 2
    assert closing.saw(batch.slice(0, 0), []) == 0


# Killed

FAILPOINTS = [
    "superseded.after_rename",
    "superseded.after_settle",
    *(
        pytest.param(place, marks=pytest.mark.soak)
        for place in (
            "superseded.before_rename",
            "checkpoint.after_write",
            "sink.before_commit",
            "checkpoint.before_write",
            "sink.after_write",
            "sink.after_commit",
        )
    ),
]


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_killed_anywhere_a_letter_is_closed_with_its_epoch(
    tmp_path: Path, failpoint: str
) -> None:
    await run(awkward_plan(tmp_path, mended=False), tmp_path)
    assert box(tmp_path).letters().num_rows == 200
    code = in_a_process(tmp_path, "run", f"{failpoint}:1")
    assert code == -signal.SIGKILL
    # Closed are exactly the letters of the epochs that a checkpoint covers.
    assert set(box(tmp_path).letters()["position"].to_pylist()) == still_open(tmp_path)
    if failpoint.startswith("checkpoint"):
        # What the first attempt closed becomes marks.
        assert in_a_process(tmp_path, "run", "superseded.after_settle:1") == -signal.SIGKILL
        assert set(box(tmp_path).letters()["position"].to_pylist()) == still_open(tmp_path)
    assert in_a_process(tmp_path, "run") == 0
    [left] = box(tmp_path).letters().to_pylist()
    assert (left["position"], left["attempt"]) == (200, 2)
    found = [status for status, *_ in became(tmp_path).values()]
    assert (found.count("superseded"), found.count("open")) == (199, 1)
    assert numbers_in(tmp_path / "out.db") == [n for n in range(400) if n != 200]
    files = [n for file in (tmp_path / "files").rglob("*.parquet") for n in parquet(file)]
    assert sorted(files) == [n for n in range(400) if n != 200]


def still_open(folder: Path) -> set[int]:
    """The oracle: what no checkpoint of the newest chain covers yet."""
    graph = folder / "state" / "graphs" / "g"
    newest = max(path.name for path in graph.iterdir() if len(path.name) == 26)
    begun = list((graph / newest).glob("*/checkpoint.json"))
    if not begun:
        return set(range(0, 400, 2))
    checkpoint = json.loads(begun[0].read_text())
    counts = checkpoint["counts"].get("count", {"records_out": 0})
    read = int(counts["records_out"])
    return {n for n in range(0, 400, 2) if n >= read or n == 200}


def test_a_letter_has_an_id_of_its_own() -> None:
    batch = batch_of(3)
    assert not set(letter_ids("n", batch).to_pylist()) & set(batch["_id"].to_pylist())
