"""The task of an action that needs all records: read what earlier stages kept, gather, send on."""

import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pyarrow as pa
from anyio import to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from nvisy_dagster.compiler import Node, Plan
from nvisy_dagster.engine.channel import Outlet
from nvisy_dagster.engine.materialized import Manifest, part_batches, parts_by_epoch
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.nodes.running import RunningNode
from nvisy_dagster.engine.storage import told
from nvisy_dagster.engine.wiring import Wiring, reader_name
from nvisy_dagster.sdk import BaseBlockingAction, BlockingAction, JoiningAction

R = TypeVar("R")

SCRATCH = "scratch"
"""Folder within that of the stage, for what does not fit in memory."""
INTERRUPT_SECONDS = 0.1
"""Between two attempts to have an action end."""


@dataclass(frozen=True)
class KeptInputs:
    """What earlier stages kept for a node."""

    stages: Mapping[str, Sequence[Manifest]]
    """All of it, by the name of what reads a stage."""
    named: Mapping[str, Manifest]
    """The same by the name of the input, where inputs have names."""


def kept_inputs(
    plan: Plan, node: Node, wiring: Wiring, manifests: Mapping[str, Manifest]
) -> KeptInputs:
    """What a node reads that is a stage of its own."""
    return KeptInputs(
        {
            reader_name(plan.stage(stage_id)): [manifests[one.name] for one in outputs]
            for stage_id, outputs in wiring.inputs.items()
        },
        {
            edge.input: manifests[edge.output.name]
            for edge in plan.edges_into[node.id]
            if edge.input is not None
        },
    )


async def run_blocking(
    running: RunningNode,
    action: BaseBlockingAction[Any],
    inputs: KeptInputs,
    outlet: Outlet,
    folder: Path,
) -> None:
    """Gather all records of the inputs.

    Args:
        running: The node.
        action: Its component.
        inputs: What earlier stages kept.
        outlet: Where the node sends what it makes.
        folder: State folder of the stage.
    """
    scratch = folder / SCRATCH / str(running.lease.token)
    kept, made = _gathering(action, inputs, running.metrics, scratch)
    ended = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_interrupt_when_cancelled, action, kept, ended)
        try:
            await to_thread.run_sync(_clear, folder / SCRATCH, scratch)
            with told(scratch):
                while (batch := await _in_thread(partial(next, made, None))) is not None:
                    if batch.num_rows:
                        running.metrics.sent(batch)
                        running.metrics.counts.records_kept += batch.num_rows
                        await outlet.send(batch)
            for records in kept:
                await _in_thread(records.count_all)
        finally:
            ended.set()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_leave, made, scratch)
        tasks.cancel_scope.cancel()
    counts = running.metrics.counts
    traced = action.traced()
    if traced is not None:
        counts.records_kept = traced
    counts.dropped = counts.records_in - counts.records_kept
    for name in inputs.stages:
        running.epochs.exhausted(name)
    await running.pass_end()
    await outlet.end()


def _gathering(
    action: BaseBlockingAction[Any], inputs: KeptInputs, metrics: NodeMetrics, scratch: Path
) -> "tuple[Sequence[KeptRecords], Iterator[pa.RecordBatch]]":
    """The records that an action gathers, and what it makes of them, on its way."""
    if isinstance(action, JoiningAction):
        named = {name: KeptRecords([[one]], metrics) for name, one in inputs.named.items()}
        return list(named.values()), action.gather(named, scratch)
    assert isinstance(action, BlockingAction)  # noqa: S101 - there are no others
    records = KeptRecords(list(inputs.stages.values()), metrics)
    return [records], action.gather(records, scratch)


async def _in_thread(work: Callable[[], R]) -> R:
    """What some work gives.

    However it ends when it was interrupted, it has not come to its end.
    """
    try:
        return await to_thread.run_sync(work)
    finally:
        await checkpoint_if_cancelled()


class KeptRecords:
    """All records of some materialized outputs, in order; each iteration begins with the first.

    Args:
        inputs: The outputs of each stage that is read.
        metrics: Of the node that reads them: what it takes is counted once.
    """

    def __init__(self, inputs: Sequence[Sequence[Manifest]], metrics: NodeMetrics) -> None:
        self._inputs = inputs
        self._metrics = metrics
        self._counted = 0
        """How many batches were counted."""
        self._counted_all = False
        self._stopped = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        place = 0
        for manifests in self._inputs:
            for parts in parts_by_epoch(manifests, 0):
                for _, path in parts.records:
                    for batch in part_batches(path):
                        if self._stopped:
                            raise _StoppedError
                        if place == self._counted:
                            self._metrics.took(batch)
                            self._counted += 1
                        place += 1
                        yield batch
        self._counted_all = True

    def stop(self) -> None:
        """Have who reads it fail: the run is stopped. Called in another thread."""
        self._stopped = True

    def count_all(self) -> None:
        """Count what nobody asked for, too."""
        if not self._counted_all:
            deque(self, maxlen=0)


def _clear(folder: Path, scratch: Path) -> None:
    # What a killed process left there, and nobody will come back for.
    shutil.rmtree(folder, ignore_errors=True)
    with told(scratch):
        scratch.mkdir(parents=True)


def _leave(made: Iterator[pa.RecordBatch], scratch: Path) -> None:
    if isinstance(made, Generator):
        made.close()
    shutil.rmtree(scratch, ignore_errors=True)


class _StoppedError(Exception):
    """Nobody waits for the records any more."""


async def _interrupt_when_cancelled(
    action: BaseBlockingAction[Any], records: Iterable[KeptRecords], ended: anyio.Event
) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        for one in records:
            one.stop()
        with anyio.CancelScope(shield=True):
            # More than once: it may be about to begin what an interrupt would end.
            while not ended.is_set():
                action.interrupt()
                with anyio.move_on_after(INTERRUPT_SECONDS):
                    await ended.wait()
