"""What is left behind, and what the user reads, when something fails at an awkward place."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from counting import TableSink, numbers_in
from review_graphs import action, graph, run, sink, source

from nvisy_connectors.object.formats.writers import JsonlWriter
from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.failure import NodeError, StorageError
from nvisy_dagster.sdk import NvisyError

pytestmark = pytest.mark.anyio


async def test_dead_letters_of_calls_that_overlap(tmp_path: Path) -> None:
    """Several writes are refused at once; every record is kept, once."""
    plan = graph(
        [
            source(rows=4000, batch_rows=500),
            {
                **sink("awkward", log=str(tmp_path / "log"), refuse=True),
                "concurrency": {"max_per_node": 8},
            },
        ],
        "count out",
        on_error="dead_letter",
        checkpoint={"interval_rows": 1000},
    )
    result = await run(plan, tmp_path)
    counts = result.metrics["out"].counts
    assert (counts.records_in, counts.records_out, counts.dead) == (4000, 0, 4000)
    kept = [
        letter["record"]["n"]
        for file in (tmp_path / "state").rglob("dead_letters/**/*.arrow")
        for letter in pa.ipc.open_file(file).read_all().to_pylist()
    ]
    assert sorted(kept) == list(range(4000))


async def test_refused_one_at_a_time(tmp_path: Path) -> None:
    plan = graph(
        [
            source(rows=3000, batch_rows=3000),
            {**action("picky"), "on_error": "drop"},
            sink("table", path=str(tmp_path / "out.db")),
        ],
        "count picky",
        "picky out",
    )
    result = await run(plan, tmp_path)
    assert result.metrics["picky"].counts.dropped == 1500
    assert numbers_in(tmp_path / "out.db") == list(range(0, 3000, 2))


def two_sinks(log: Path, **params: Any) -> Plan:
    return graph(
        [
            source(),
            sink("awkward", "a", log=str(log)),
            sink("awkward", "b", log=str(log), **params),
        ],
        "count a",
        "count b",
    )


@pytest.mark.parametrize("how", ["bug", "timeout", "transient"])
async def test_one_that_cannot_be_closed_does_not_keep_others_open(
    tmp_path: Path, how: str
) -> None:
    log = tmp_path / "log"
    with pytest.raises(NodeError, match="node 'b': ") as caught:
        await run(two_sinks(log, fail_in=["close"], how=how), tmp_path)
    assert "None" not in str(caught.value)
    assert "a close" in log.read_text()
    # All was committed: there is nothing left to do.
    result = await run(two_sinks(log, fail_in=["close"], how=how), tmp_path)
    assert result.metrics["b"].counts.records_out == 1000


async def test_closing_does_not_hide_why_the_run_failed(tmp_path: Path) -> None:
    plan = two_sinks(tmp_path / "log", fail_in=["write", "close"], how="bug", times=9)
    with pytest.raises(NodeError, match="write fails"):
        await run(plan, tmp_path)
    assert "a close" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("phase", ["start", "write", "commit", "finish"])
async def test_every_phase_of_a_sink_is_retried(tmp_path: Path, phase: str) -> None:
    log = tmp_path / "log"
    await run(two_sinks(log, fail_in=[phase], times=2), tmp_path)
    assert log.read_text().count(f"b {phase}\n") >= 3


async def test_a_timeout_of_the_component_is_not_one_of_the_policy(tmp_path: Path) -> None:
    with pytest.raises(NodeError) as caught:
        await run(two_sinks(tmp_path / "log", fail_in=["write"], how="timeout", times=9), tmp_path)
    assert "None s" not in str(caught.value)
    assert "TimeoutError" in str(caught.value)


def paid(tmp_path: Path, *, refuse: int = 700) -> Plan:
    return graph(
        [
            source(batch_rows=50, pause_seconds=0.002),
            action("pay", ledger=str(tmp_path / "ledger")),
            sink("table", path=str(tmp_path / "out.db"), refuse=[refuse]),
        ],
        "count pay",
        "pay out",
        checkpoint={"interval_rows": 100},
    )


def spoil(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


@pytest.mark.parametrize(
    "damage", [spoil('{"epoch": 3, "sour'), spoil('{"epoch": 3, "shards": []}'), spoil("\x00" * 9)]
)
@pytest.mark.parametrize("name", ["checkpoint.json", "chains.json"])
async def test_state_that_cannot_be_read(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    plan = paid(tmp_path)
    with pytest.raises(NodeError):
        await run(plan, tmp_path)
    path = next((tmp_path / "state").rglob(name))
    damage(path)
    with pytest.raises(StorageError, match="is damaged, or another version") as caught:
        await run(plan, tmp_path)
    assert str(path) in str(caught.value)
    if name == "checkpoint.json":
        assert "--fresh" in str(caught.value)
        with pytest.raises(NodeError, match="700 is refused"):
            await run(plan, tmp_path, fresh=True)


@pytest.mark.parametrize("damage", [Path.unlink, spoil("torn"), spoil("")])
async def test_a_part_that_is_gone_or_torn(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    plan = paid(tmp_path)
    with pytest.raises(NodeError):
        await run(plan, tmp_path)
    # The one in which the sink stopped: it is read again.
    path = max((tmp_path / "state").rglob("edges/**/*.arrow"))
    damage(path)
    with pytest.raises(StorageError, match="is gone or damaged") as caught:
        await run(paid(tmp_path, refuse=-1), tmp_path)
    assert str(path) in str(caught.value)
    assert "--fresh" in str(caught.value)


async def test_files_of_others_among_the_parts(tmp_path: Path) -> None:
    plan = paid(tmp_path)
    with pytest.raises(NodeError):
        await run(plan, tmp_path)
    folder = next((tmp_path / "state").rglob("edges/pay"))
    for checkpoint in (tmp_path / "state").rglob("checkpoint.json"):
        checkpoint.unlink()
    (folder / ".DS_Store").write_text("of the file manager")
    await run(paid(tmp_path, refuse=-1), tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(1000))


async def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    plan = paid(tmp_path, refuse=-1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NvisyError) as caught:
            await run(plan, tmp_path)
    assert "No space left on device" in str(caught.value)
    assert "check the free space" in str(caught.value)
    assert "bug" not in str(caught.value)
    await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(1000))


def exported(tmp_path: Path, **policies: Any) -> Plan:
    out = {**sink("local", path=str(tmp_path / "out")), **policies}
    return graph(
        [source(rows=600, batch_rows=100), out], "count out", checkpoint={"interval_rows": 200}
    )


def exported_numbers(tmp_path: Path) -> list[int]:
    lines = [
        line
        for part in (tmp_path / "out").glob("*.jsonl")
        for line in part.read_text().splitlines()
    ]
    return sorted(int(line.strip().removeprefix('{"n":').removesuffix("}")) for line in lines)


async def test_a_file_written_half_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk hiccups in the middle of a batch: half of its lines are in the file."""
    real, calls = JsonlWriter.write, []

    def torn(self: JsonlWriter, batch: pa.RecordBatch) -> None:
        calls.append(batch.num_rows)
        if len(calls) == 4:
            real(self, batch.slice(0, 50))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(self, batch)

    monkeypatch.setattr(JsonlWriter, "write", torn)
    with pytest.raises(NodeError, match="Input/output error") as caught:
        await run(exported(tmp_path), tmp_path)
    assert caught.value.retryable
    await run(exported(tmp_path), tmp_path)
    assert exported_numbers(tmp_path) == list(range(600))


async def test_two_sinks_that_discard_in_one_folder_are_refused(tmp_path: Path) -> None:
    """In two stages, the second would delete at its start what the first has written."""
    out = str(tmp_path / "out")
    plan = graph(
        [
            source(),
            action("pay", ledger=str(tmp_path / "ledger")),
            sink("local", "a", path=out),
            sink("local", "b", path=str(tmp_path / "b")),
        ],
        "count a",
        "count pay",
        "pay b",
    )
    # As when a connection that was not known while compiling leads there.
    astray = replace(plan.nodes["b"], params=plan.nodes["a"].params)
    plan = replace(plan, nodes={**plan.nodes, "b": astray})
    with pytest.raises(NodeError, match="where node 'a' writes too"):
        await run(plan, tmp_path)


async def test_a_commit_that_half_succeeded_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = TableSink.commit, []

    async def flaky(self: TableSink, epoch: int) -> None:
        await real(self, epoch)
        calls.append(epoch)
        if len(calls) == 2:
            raise TimeoutError

    monkeypatch.setattr(TableSink, "commit", flaky)
    plan = paid(tmp_path, refuse=-1)
    with pytest.raises(NodeError, match="TimeoutError"):
        await run(plan, tmp_path)
    result = await run(plan, tmp_path)
    assert numbers_in(tmp_path / "out.db") == list(range(1000))
    assert result.metrics["out"].counts.records_out == 1000


async def test_a_call_that_times_out_in_a_thread_writes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = JsonlWriter.write

    def slow(self: JsonlWriter, batch: pa.RecordBatch) -> None:
        time.sleep(0.05)
        real(self, batch)

    monkeypatch.setattr(JsonlWriter, "write", slow)
    await run(exported(tmp_path, timeout={"call_seconds": 0.02}), tmp_path)
    assert exported_numbers(tmp_path) == list(range(600))


async def test_a_run_that_takes_too_long_says_so(tmp_path: Path) -> None:
    plan = graph(
        [source(pause_seconds=0.05), sink("table", path=str(tmp_path / "out.db"))],
        "count out",
        timeout={"graph_seconds": 0.1},
    )
    with pytest.raises(NvisyError, match=r"took longer than 0\.1 s") as caught:
        await run(plan, tmp_path)
    assert caught.value.tag == "timeout"
