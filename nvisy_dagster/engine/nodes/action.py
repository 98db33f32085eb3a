"""The task of an action: apply it to every batch, several at once, in order."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from nvisy_dagster.engine.calls import OrderedCalls
from nvisy_dagster.engine.channel import Inlet, Outlet
from nvisy_dagster.engine.message import Barrier, Removal
from nvisy_dagster.engine.metrics import dropped_rows
from nvisy_dagster.engine.nodes.running import RunningNode
from nvisy_dagster.engine.rejection import Rejected, apply_isolating
from nvisy_dagster.sdk import Action, DataError, KernelAction
from nvisy_dagster.sdk.findings import add_findings, collected_findings

WINDOW = 4
"""Results waiting for an earlier one, per call in flight: with a tenth of the calls slow, a window
of four keeps 0.82 of the ideal throughput where one keeps 0.28."""


@dataclass(frozen=True)
class _Applied:
    """One unit, what was made of its parts, and what was refused."""

    unit: pa.RecordBatch
    made: Sequence[tuple[pa.RecordBatch, pa.RecordBatch]]
    rejected: Sequence[Rejected]
    findings: Mapping[str, int]


async def run_action(
    running: RunningNode, action: Action[Any], inlet: Inlet, outlet: Outlet
) -> None:
    """Apply an action to every batch, several at once, in order."""
    limit = running.concurrency
    # A kernel is bound by the cores: its results come nearly in order, and each may be large.
    window = limit + 1 if isinstance(action, KernelAction) else WINDOW * limit
    apply = partial(_apply, running, action)
    hand_on = partial(_hand_on, running, outlet)

    async def pass_on(barrier: Barrier) -> None:
        await running.pass_barrier(barrier.epoch)
        await outlet.send(barrier)

    async def leave(unwanted: pa.RecordBatch) -> None:
        running.leave(unwanted)

    async def remove(removal: Removal) -> None:
        await outlet.send(running.removal(removal))

    async with (
        OrderedCalls(limit, window, running.metrics.counts) as calls,
        aclosing(inlet.messages()) as messages,
    ):
        async for message in messages:
            if isinstance(message, Barrier):
                await calls.in_order(partial(pass_on, message))
            elif isinstance(message, Removal):
                await calls.in_order(partial(remove, message))
            else:
                with running.at_work() as work:
                    for unit in action.split(message):
                        if not running.wanted():
                            await calls.in_order(partial(leave, unit))
                            continue
                        work.calls += 1
                        await calls.submit(apply, unit, hand_on)
    await running.pass_end()
    await outlet.end()


async def _apply(running: RunningNode, action: Action[Any], unit: pa.RecordBatch) -> _Applied:
    findings: dict[str, int] = {}

    async def apply(batch: pa.RecordBatch) -> pa.RecordBatch:
        with collected_findings() as found:
            try:
                made = await action.apply(batch)
            except DataError as error:
                if error.result is not None:
                    add_findings(findings, found)
                raise
        add_findings(findings, found)
        return made

    async def call(batch: pa.RecordBatch) -> pa.RecordBatch:
        once = partial(running.caller.call, apply, batch, action.cost)
        return await running.suspects.call(once, batch)

    rejected: list[Rejected] = []
    made: list[tuple[pa.RecordBatch, pa.RecordBatch]] = []
    for piece in running.suspects.pieces(unit, rejected.append):
        made += await apply_isolating(call, piece, rejected.append)
    return _Applied(unit, made, rejected, findings)


async def _hand_on(running: RunningNode, outlet: Outlet, applied: _Applied) -> None:
    counts = running.metrics.counts
    running.metrics.took(applied.unit)
    add_findings(running.metrics.findings, applied.findings)
    for rejected in applied.rejected:
        await running.reject(rejected)
    running.saw(applied.unit, applied.rejected)
    for taken, made in applied.made:
        dropped = dropped_rows(taken, made)
        counts.dropped += dropped
        if made.num_rows:
            running.metrics.sent(made)
            await outlet.send(made)
            counts.records_kept += taken.num_rows - dropped
