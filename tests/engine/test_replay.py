"""Replaying dead letters, killed at every point of it; what it leaves is read with pyarrow."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest
from counting import numbers_in
from replay_target import awkward_plan
from test_dead_letters import box, chain, counter, letters_on_storage, pay, run, table

from nvisy_dagster.compiler import Plan, compile_document
from nvisy_dagster.engine.dead_letter_box import ALL
from nvisy_dagster.engine.failure import NodeError, RunConflictError
from nvisy_dagster.engine.replay import Replay, ReplayError, ReplayResult, begin_anew, raise_refused
from nvisy_dagster.engine.replay_selection import select_letters

pytestmark = pytest.mark.anyio

TARGET = Path(__file__).parent / "replay_target.py"
FAILPOINTS = [
    "dead_letters.after_rename",
    "replay.before_listing",
    "replay.before_mark",
    *(
        pytest.param(place, marks=pytest.mark.soak)
        for place in (
            "checkpoint.before_write",
            "checkpoint.after_write",
            "sink.before_commit",
            "sink.after_write",
            "sink.after_commit",
            "dead_letters.before_rename",
            "replay.after_mark",
        )
    ),
]


async def replay(plan: Plan, folder: Path, run_id: str = "again", **options: Any) -> ReplayResult:
    return await Replay(plan, folder / "state", run_id).run({}, **options)


def statuses(folder: Path) -> dict[int, tuple[str, int]]:
    return {
        row["position"]: (row["status"], row["attempt"])
        for row in box(folder).letters(ALL).to_pylist()
    }


async def test_letters_run_through_the_rest_of_the_graph(tmp_path: Path) -> None:
    await run(chain(counter(), pay(tmp_path, poison=[7, 500]), table(tmp_path)), tmp_path)
    (tmp_path / "ledger").write_text("")
    mended = chain(counter(), pay(tmp_path), table(tmp_path))
    result = await replay(mended, tmp_path)
    assert (result.letters, result.through, result.failed) == (2, 2, 0)
    assert numbers_in(tmp_path / "out.db") == list(range(1000))
    # Nothing but the two was paid for again.
    assert sorted((tmp_path / "ledger").read_text().split()) == ["500", "7"]
    assert box(tmp_path).letters().num_rows == 0
    [one, two] = box(tmp_path).letters(ALL).to_pylist()
    assert one["status"] == two["status"] == "replayed"
    assert one["marked_by"] == "again"
    assert not list((tmp_path / "state" / "replays").rglob("*.arrow"))
    # There is nothing left to do.
    assert (await replay(mended, tmp_path, "third")).selection is None


async def test_what_fails_again_counts_its_attempts(tmp_path: Path) -> None:
    plan = chain(counter(), pay(tmp_path, poison=[7, 500]), table(tmp_path))
    await run(plan, tmp_path)
    half = chain(counter(), pay(tmp_path, poison=[500]), table(tmp_path))
    for attempt in (2, 3):
        result = await replay(half, tmp_path, f"replay-{attempt}")
        assert result.failed == 1
        assert statuses(tmp_path)[500] == ("open", attempt)
    assert statuses(tmp_path)[7] == ("replayed", 1)
    attempts = sorted((x["record"]["n"], x["attempt"]) for x in letters_on_storage(tmp_path))
    assert attempts == [(7, 1), (500, 1), (500, 2), (500, 3)]
    assert numbers_in(tmp_path / "out.db") == [n for n in range(1000) if n != 500]


async def test_what_fails_further_on_is_a_letter_of_that_node(tmp_path: Path) -> None:
    await run(chain(counter(), pay(tmp_path, poison=[7]), table(tmp_path)), tmp_path)
    result = await replay(chain(counter(), pay(tmp_path), table(tmp_path, refuse=[7])), tmp_path)
    assert (result.through, result.failed) == (1, 1)
    [letter] = box(tmp_path).letters().to_pylist()
    assert (letter["node"], letter["position"], letter["attempt"]) == ("out", 7, 1)
    await replay(chain(counter(), pay(tmp_path), table(tmp_path)), tmp_path, "last")
    assert numbers_in(tmp_path / "out.db") == list(range(1000))
    assert box(tmp_path).letters().num_rows == 0


async def test_letters_of_several_nodes_meet_on_the_way(tmp_path: Path) -> None:
    plan = chain(counter(), pay(tmp_path, poison=[7]), table(tmp_path, refuse=[8, 9]))
    await run(plan, tmp_path)
    result = await replay(chain(counter(), pay(tmp_path), table(tmp_path)), tmp_path)
    assert result.letters == 3
    assert numbers_in(tmp_path / "out.db") == list(range(1000))


async def test_a_run_that_was_cut_off_goes_on_after_a_replay(tmp_path: Path) -> None:
    """A replay has its own attempt chain: it neither continues a run's nor replaces it."""
    source = counter(batch_rows=50, pause_seconds=0.004)
    checkpoint = {"interval_rows": 100}
    gentle = {**pay(tmp_path, poison=[7]), "materialize": False}
    broken = chain(
        source, gentle, {**table(tmp_path, refuse=[800]), "on_error": "fail"}, checkpoint=checkpoint
    )
    with pytest.raises(NodeError, match="800"):
        await run(broken, tmp_path)
    mended = {**pay(tmp_path), "materialize": False}
    fixed = chain(source, mended, table(tmp_path), checkpoint=checkpoint)
    assert (await replay(fixed, tmp_path)).through == 1
    result = await run(chain(source, gentle, table(tmp_path), checkpoint=checkpoint), tmp_path)
    assert result.metrics["count"].counts.records_out == 1000
    assert numbers_in(tmp_path / "out.db") == list(range(1000))


async def test_letters_that_fit_no_more_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    old = chain(counter(), pay(tmp_path, poison=[7]), table(tmp_path, refuse=[8]))
    await run(old, tmp_path)
    without_pay = chain(counter(), table(tmp_path))
    result = await replay(without_pay, tmp_path)
    assert result.letters == 1
    with pytest.raises(ReplayError, match="1 of them: the graph has no node 'pay' any more"):
        raise_refused(result.refused)
    assert numbers_in(tmp_path / "out.db") == [n for n in range(1000) if n != 7]
    [left] = box(tmp_path).letters().to_pylist()
    assert (left["node"], left["attempt"]) == ("pay", 1)


async def test_columns_that_changed_are_named(tmp_path: Path) -> None:
    from nvisy_dagster.engine.replay_records import fit

    records = pa.StructArray.from_arrays(
        [pa.array([1, 2]), pa.array(["a", None])], names=["n", "text"]
    )
    wider = pa.schema([("n", pa.float64()), ("text", pa.string()), ("new", pa.int64())])
    fitted = fit(records, wider)
    assert not isinstance(fitted, str)
    assert fitted.to_pylist() == [
        {"n": 1.0, "text": "a", "new": None},
        {"n": 2.0, "text": None, "new": None},
    ]
    for field, reason in [
        (pa.field("new", pa.int64(), nullable=False), "needs a column 'new'"),
        (pa.field("text", pa.string(), nullable=False), "must not be null"),
        (pa.field("text", pa.list_(pa.int64())), "is list<item: int64> now, and was string"),
    ]:
        told = fit(records, pa.schema([field]))
        assert isinstance(told, str)
        assert reason in told


async def test_letters_without_a_column_that_the_node_asks_for_now_are_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jsonl").write_text('{"n": "1"}\n{"n": "x", "m": 2}\n')

    def plan(columns: dict[str, str], expression: str) -> Plan:
        source = {"path": str(tmp_path / "in"), "format": "jsonl", "columns": columns}
        sink = {"path": str(tmp_path / "out"), "format": "jsonl"}
        nodes = [
            {"id": "read", "type": "source", "connector": "local", "params": source},
            {"id": "add", "type": "action", "action": "map", "params": {"set": {"k": expression}}},
            {"id": "out", "type": "sink", "connector": "local", "params": sink},
        ]
        edges = [{"from": "read", "to": "add"}, {"from": "add", "to": "out"}]
        document = {"name": "g", "nodes": nodes, "edges": edges, "on_error": "dead_letter"}
        return compile_document(document)

    await run(plan({"n": "string"}, "cast(n as int)"), tmp_path)
    assert box(tmp_path).letters().num_rows == 1
    gained = {"n": "string", "m": "int64"}
    result = await replay(plan(gained, "coalesce(try_cast(n as int), m)"), tmp_path)
    [refused] = result.refused
    assert "it needs a column 'm', which these letters do not have" in refused.reason
    assert box(tmp_path).letters().num_rows == 1
    # A node that does not ask for it takes them, and those behind it get a null.
    result = await replay(plan(gained, "try_cast(n as int)"), tmp_path)
    assert (result.letters, result.through, list(result.refused)) == (1, 1, [])


async def test_a_run_and_a_replay_exclude_each_other(tmp_path: Path) -> None:
    await run(chain(counter(), table(tmp_path, refuse=[7])), tmp_path)
    slow = chain(counter(pause_seconds=0.05), table(tmp_path, refuse=[7]))
    slow_replay = chain(counter(), table(tmp_path, write_seconds=1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run(slow, tmp_path, run_id="the-run"))
        await anyio.sleep(0.2)
        with pytest.raises(RunConflictError, match="run the-run is running this graph now"):
            await replay(slow, tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: replay(slow_replay, tmp_path, "the-replay"))
        await anyio.sleep(0.3)
        with pytest.raises(RunConflictError, match="run the-replay is replaying dead letters"):
            await run(slow, tmp_path)
    assert box(tmp_path).letters().num_rows == 0


async def test_a_replay_that_failed_goes_on_and_can_be_forgotten(tmp_path: Path) -> None:
    await run(chain(counter(), pay(tmp_path, poison=[7, 8]), table(tmp_path)), tmp_path)
    failing = chain(counter(), pay(tmp_path), {**table(tmp_path, refuse=[7]), "on_error": "fail"})
    with pytest.raises(NodeError, match="7 is refused"):
        await replay(failing, tmp_path)
    assert box(tmp_path).letters().num_rows == 2
    assert begin_anew(tmp_path / "state", "g") == 1
    assert box(tmp_path).letters().num_rows == 2
    with pytest.raises(NodeError, match="7 is refused"):
        await replay(failing, tmp_path)
    (tmp_path / "ledger").write_text("")
    result = await replay(chain(counter(), pay(tmp_path), table(tmp_path)), tmp_path, "more")
    # What was paid for in the first attempt was materialized.
    assert (tmp_path / "ledger").read_text() == ""
    assert result.through == 2
    assert numbers_in(tmp_path / "out.db") == list(range(1000))


async def test_what_is_discarded_meanwhile_is_not_replayed(tmp_path: Path) -> None:
    await run(chain(counter(), table(tmp_path, refuse=[7, 8])), tmp_path)
    letters = box(tmp_path).letters()
    select_letters(tmp_path / "state", "g", letters)
    box(tmp_path).mark(letters.slice(0, 1), "discarded")
    result = await replay(chain(counter(), table(tmp_path)), tmp_path)
    assert result.letters == 1
    assert sorted(box(tmp_path).letters(ALL)["status"].to_pylist()) == ["discarded", "replayed"]
    assert len(numbers_in(tmp_path / "out.db")) == 999


# Killed


def in_a_process(folder: Path, what: str, failpoint: str = "") -> int:
    environment = {**os.environ, "NVISY_FAILPOINT": failpoint, "NVISY_LEASE_SECONDS": "5"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(TARGET), str(folder), what],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_killed_anywhere_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, failpoint: str
) -> None:
    await run(awkward_plan(tmp_path, mended=False), tmp_path)
    before = letters_on_storage(tmp_path)
    assert sorted(letter["record"]["n"] for letter in before) == list(range(0, 400, 2))
    code = in_a_process(tmp_path, "replay", f"{failpoint}:1")
    assert code == -signal.SIGKILL
    # A letter is open until its record is where it belongs.
    written = {n for file in (tmp_path / "files").rglob("*.parquet") for n in parquet(file)}
    still_open = set(box(tmp_path).letters()["position"].to_pylist())
    assert written | still_open == set(range(400))
    while in_a_process(tmp_path, "replay") != 0:
        pass
    assert sorted(n for n in numbers_in(tmp_path / "out.db")) == [n for n in range(400) if n != 200]
    files = [n for file in (tmp_path / "files").rglob("*.parquet") for n in parquet(file)]
    assert sorted(files) == [n for n in range(400) if n != 200]
    [left] = box(tmp_path).letters().to_pylist()
    assert (left["position"], left["attempt"]) == (200, 2)


def parquet(file: Path) -> list[int]:
    import pyarrow.parquet as pq

    return pq.read_table(file)["n"].to_pylist()
