"""Checkpoints come as often as asked for, however much a source reads at once."""

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
import pytest

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import (
    Action,
    Batch,
    Capabilities,
    Cursor,
    EdgeType,
    KernelAction,
    Params,
    Sink,
    Source,
)
from nvisy_dagster.sdk.envelope import derive, with_envelope
from nvisy_dagster.sdk.identity import root_ids

pytestmark = pytest.mark.anyio

ROWS = 600


class AskParams(Params):
    ledger: Path
    """File that gets a line per record that was paid for."""
    call_seconds: float = 0.03
    """Time of a call."""


class Ask(Action[AskParams]):
    """Ask a slow model, two requests at once."""

    name = "ask"
    capabilities = Capabilities(expensive=True, concurrency=2, max_rows=4)

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with self.params.ledger.open("a") as file:
            file.write("".join(f"{n}\n" for n in batch["n"].to_pylist()))
        await anyio.sleep(self.params.call_seconds)
        return batch


class NoParams(Params):
    pass


class Fan(KernelAction[NoParams]):
    """Make five of each record."""

    name = "fan"
    capabilities = Capabilities(row_wise=True)

    def output(self, incoming: EdgeType) -> EdgeType:
        return EdgeType("row")

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = np.repeat(np.arange(batch.num_rows), 5)
        columns = pa.record_batch({"n": batch["n"].take(pa.array(rows))})
        return derive(batch, rows, columns, node_id=self.node_id)


class SeenParams(Params):
    path: Path
    """File that gets a line per record: its epoch, root and number."""


class SeenSink(Sink[SeenParams]):
    """Tell in which epoch a record came."""

    name = "seen"
    capabilities = Capabilities(write_mode="upsert", concurrency=2, max_rows=16)

    async def open(self) -> None:
        self.seen: list[tuple[str, int]] = []

    async def write(self, batch: pa.RecordBatch) -> None:
        roots = [root.hex() for root in batch["_root_id"].to_pylist()]
        self.seen += zip(roots, batch["n"].to_pylist(), strict=True)

    async def commit(self, epoch: int) -> None:
        with self.params.path.open("a") as file:
            file.write("".join(f"{epoch} {root} {n}\n" for root, n in self.seen))
        self.seen = []


class SlowParams(Params):
    rows: int = 4
    """Records."""
    pause_seconds: float = 0.5
    """Wait before each but the first."""


class SlowCursor(Cursor):
    after: int


class SlowSource(Source[SlowParams, SlowCursor]):
    """Wait for each record."""

    name = "slow"

    def output(self) -> EdgeType:
        return EdgeType("row")

    async def read(self, cursor: SlowCursor | None) -> AsyncGenerator[Batch[SlowCursor], None]:
        for n in range(cursor.after if cursor else 0, self.params.rows):
            if n:
                await anyio.sleep(self.params.pause_seconds)
            at = np.array([n])
            columns = pa.record_batch({"n": at})
            data = with_envelope(columns, ids=root_ids("slow:", at), uri="slow:", positions=at)
            yield Batch(data, SlowCursor(after=n + 1))


def registry() -> Registry:
    def entry(group: str, name: str, module: str = __name__) -> dict[str, EntryPoint]:
        return {name: EntryPoint(name, module, f"nvisy.{group}")}

    local = entry("connectors", "local", "nvisy_connectors.object.local")
    toys = entry("connectors", "seen") | entry("connectors", "slow")
    return Registry(local | toys, entry("actions", "ask") | entry("actions", "fan"))


@dataclass
class Written:
    """The checkpoints of a run."""

    checkpoints: list[tuple[float, Checkpoint]]

    def records(self, node: str) -> list[int]:
        """How many records of a node each covers, in order."""
        return [
            int(checkpoint.counts[node]["records_in"])
            for _, checkpoint in self.checkpoints
            if node in checkpoint.counts
        ]

    def steps(self, node: str) -> list[int]:
        """How many more than the one before."""
        return [after - before for before, after in pairwise([0, *self.records(node)])]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    found: list[tuple[float, Checkpoint]] = []
    write = CheckpointStore.write

    def noted(store: CheckpointStore, checkpoint: Checkpoint) -> None:
        write(store, checkpoint)
        found.append((time.monotonic(), checkpoint))

    monkeypatch.setattr(CheckpointStore, "write", noted)
    return Written(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one small file, which is read at once."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "all.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(ROWS)))
    return tmp_path


def graph(folder: Path, actions: Sequence[str], **rest: Any) -> Plan:
    read = {"path": str(folder / "data"), "format": "jsonl", "columns": {"n": "int64"}}
    params: dict[str, Any] = {"ask": {"ledger": str(folder / "ledger")}}
    nodes: list[dict[str, Any]] = [
        {"id": "read", "type": "source", "connector": "local", "params": read},
        *({"id": a, "type": "action", "action": a, "params": params.get(a, {})} for a in actions),
        {"id": "out", "type": "sink", "connector": "seen", "params": {"path": str(folder / "out")}},
    ]
    edges = [{"from": a["id"], "to": b["id"]} for a, b in pairwise(nodes)]
    document = {"name": "g", "nodes": nodes, "edges": edges, **rest}
    return compile_graph(build_graph(document), registry=registry())


def paid(folder: Path) -> Counter[int]:
    return Counter(map(int, (folder / "ledger").read_text().split()))


def out(folder: Path) -> list[tuple[int, str, int]]:
    lines = [line.split() for line in (folder / "out").read_text().splitlines()]
    return [(int(epoch), root, int(n)) for epoch, root, n in lines]


async def end_at(plan: Plan, folder: Path, records: int) -> None:
    """Run, and end without warning when so many were paid for."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run_plan(plan, {}, storage=folder / "state"))
        ledger = folder / "ledger"
        while not ledger.exists() or ledger.read_text().count("\n") < records:  # noqa: ASYNC110 - a file
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


SLOW = {"checkpoint": {"interval_seconds": 0.3}}
"""Six rounds of two calls with four records each, in an ideal world: 80 records an interval."""

MANY = 240
"""Three intervals' worth; all of it would be 600."""


@pytest.mark.parametrize("edges", ["auto", "materialized"])
async def test_a_slow_node_does_not_make_one_epoch_of_all(
    folder: Path, written: Written, edges: str
) -> None:
    plan = graph(folder, ["ask"], execution={"edges": edges}, **SLOW)
    await run_plan(plan, {}, storage=folder / "state")
    assert [n for _, _, n in out(folder)] == list(range(ROWS))
    assert max(paid(folder).values()) == 1
    assert max(written.steps("ask")) <= MANY
    assert len(written.records("ask")) >= 5


@pytest.mark.parametrize("edges", ["auto", "materialized"])
async def test_what_was_paid_before_an_end_without_warning_is_kept(
    folder: Path, edges: str
) -> None:
    plan = graph(folder, ["ask"], execution={"edges": edges}, **SLOW)
    await end_at(plan, folder, 300)
    await run_plan(plan, {}, storage=folder / "state")
    again = sum(paid(folder).values()) - ROWS
    assert 0 <= again <= MANY
    assert [n for _, _, n in out(folder)] == list(range(ROWS))


async def test_children_of_one_record_stay_in_one_epoch(folder: Path, written: Written) -> None:
    plan = graph(folder, ["fan", "ask"], execution={"edges": "materialized"}, **SLOW)
    await end_at(plan, folder, 1500)
    await run_plan(plan, {}, storage=folder / "state")
    records = out(folder)
    assert sorted(n for _, _, n in records) == sorted(list(range(ROWS)) * 5)
    epochs: dict[str, set[int]] = {}
    for epoch, root, _ in records:
        epochs.setdefault(root, set()).add(epoch)
    assert {len(found) for found in epochs.values()} == {1}
    within = [
        checkpoint
        for _, checkpoint in written.checkpoints
        for position in checkpoint.sources.values()
        if position.cursor and position.cursor.get("rows")
    ]
    assert within, "no barrier was cut within an epoch of the stage before"
    assert all(step % 5 == 0 for step in written.steps("ask"))


@pytest.mark.parametrize("edges", ["auto", "materialized"])
@pytest.mark.parametrize("limit", [40, 7])
async def test_no_more_records_between_two_checkpoints_than_asked(
    folder: Path, written: Written, edges: str, limit: int
) -> None:
    plan = graph(
        folder,
        ["fan"],
        execution={"edges": edges},
        checkpoint={"interval_rows": limit, "interval_seconds": 60},
    )
    await run_plan(plan, {}, storage=folder / "state")
    assert max(written.steps("read")) <= limit
    assert sum(written.steps("read")) == ROWS
    assert len({root for _, root, _ in out(folder)}) == ROWS


async def test_a_checkpoint_does_not_wait_for_a_slow_source(folder: Path, written: Written) -> None:
    document: dict[str, Any] = {
        "name": "g",
        "nodes": [
            {"id": "read", "type": "source", "connector": "slow"},
            {
                "id": "out",
                "type": "sink",
                "connector": "seen",
                "params": {"path": str(folder / "out")},
            },
        ],
        "edges": [{"from": "read", "to": "out"}],
        "checkpoint": {"interval_seconds": 0.1},
    }
    plan = compile_graph(build_graph(document), registry=registry())
    await run_plan(plan, {}, storage=folder / "state")
    assert [n for _, _, n in out(folder)] == [0, 1, 2, 3]
    first = next(at for at, checkpoint in written.checkpoints if 1 in covered(checkpoint))
    second = next(at for at, checkpoint in written.checkpoints if 2 in covered(checkpoint))
    assert second - first > 0.2, "the first record was only covered when the second had come"
    assert json.loads((folder / "out").read_text().split()[0]) >= 1


def covered(checkpoint: Checkpoint) -> list[int]:
    return [
        position.cursor["after"]
        for position in checkpoint.sources.values()
        if position.cursor is not None
    ]
