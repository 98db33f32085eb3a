"""The task of a router: every record down its route."""

from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

import pyarrow as pa

from nvisy_dagster.engine.channel import Inlet, Outlet
from nvisy_dagster.engine.message import Barrier, Removal
from nvisy_dagster.engine.nodes.running import RunningNode
from nvisy_dagster.engine.rejection import Rejected, apply_isolating
from nvisy_dagster.sdk import Router


async def run_router(
    running: RunningNode, router: Router[Any], inlet: Inlet, outlets: Mapping[str, Outlet]
) -> None:
    """Send every record down its route; a record of no route is dropped."""
    async with aclosing(inlet.messages()) as messages:
        async for message in messages:
            if isinstance(message, Barrier):
                await running.pass_barrier(message.epoch)
                for outlet in outlets.values():
                    await outlet.send(message)
                continue
            if isinstance(message, Removal):
                for outlet in outlets.values():
                    await outlet.send(running.removal(message))
                continue
            if not running.wanted():
                running.leave(message)
                continue
            with running.at_work(1) as work:
                for unit in router.split(message):
                    work.calls += 1
                    await _route(running, router, unit, outlets)
    await running.pass_end()
    for outlet in outlets.values():
        await outlet.end()


async def _route(
    running: RunningNode,
    router: Router[Any],
    unit: pa.RecordBatch,
    outlets: Mapping[str, Outlet],
) -> None:
    rejected: list[Rejected] = []

    async def call(batch: pa.RecordBatch) -> Mapping[str, pa.RecordBatch]:
        route = partial(running.caller.call, router.route, batch, router.cost)
        return await running.suspects.call(route, batch)

    running.metrics.took(unit)
    routed: list[tuple[pa.RecordBatch, Mapping[str, pa.RecordBatch]]] = []
    for piece in running.suspects.pieces(unit, rejected.append):
        routed += await apply_isolating(call, piece, rejected.append)
    for refused in rejected:
        await running.reject(refused)
    running.saw(unit, rejected)
    for taken, by_route in routed:
        sent = sum(batch.num_rows for batch in by_route.values())
        running.metrics.counts.dropped += taken.num_rows - sent
        for name, batch in by_route.items():
            if batch.num_rows:
                running.metrics.sent(batch, name)
                await outlets[name].send(batch)
