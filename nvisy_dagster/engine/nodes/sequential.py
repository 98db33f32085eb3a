"""The task of an action that goes by what came before: one batch after the other."""

import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any

import anyio
import pyarrow as pa

from nvisy_dagster.engine.channel import Inlet, Outlet
from nvisy_dagster.engine.message import Barrier, Removal
from nvisy_dagster.engine.nodes.running import RunningNode
from nvisy_dagster.sdk import SequentialAction


async def run_sequential(
    running: RunningNode,
    action: SequentialAction[Any],
    inlet: Inlet,
    outlet: Outlet,
    tell_enough: Callable[[], None],
) -> None:
    """Have an action take every batch, and flush it before every barrier.

    Args:
        running: The node.
        action: Its component.
        inlet: What it reads.
        outlet: Where it sends what the action lets through.
        tell_enough: Called once it has enough.
    """
    sequence = _Sequence(running, action, outlet, tell_enough)
    sequence.begin()
    async with anyio.create_task_group() as tasks, aclosing(inlet.messages()) as messages:
        tasks.start_soon(sequence.flush_when_due)
        async for message in messages:
            async with sequence.turn:
                await sequence.take(message)
        async with sequence.turn:
            await sequence.flush()
            tasks.cancel_scope.cancel()
    await running.pass_end()
    await outlet.end()


class _Sequence:
    """An action at work."""

    def __init__(
        self,
        running: RunningNode,
        action: SequentialAction[Any],
        outlet: Outlet,
        tell_enough: Callable[[], None],
    ) -> None:
        self._running = running
        self._action = action
        self._outlet = outlet
        self._tell_enough = tell_enough
        self._told = False
        self._due: float | None = None
        """When it is to be flushed, on the clock of anyio."""
        self._due_changed = anyio.Event()
        self.turn = anyio.Lock()
        """Held while the action is at work."""

    def begin(self) -> None:
        """Go on behind what was taken up to the checkpoint."""
        self._action.begin(self._running.metrics.counts.records_in)
        self._tell_if_enough()

    async def take(self, message: pa.RecordBatch | Barrier | Removal) -> None:
        """Take a message in its turn."""
        running, action = self._running, self._action
        if isinstance(message, Barrier):
            await self.flush()
            await running.pass_barrier(message.epoch)
            await self._outlet.send(message)
        elif isinstance(message, Removal):
            await self._outlet.send(running.removal(message))
        elif not running.wanted():
            running.leave(message)
        else:
            running.metrics.took(message)
            running.saw(message)
            with running.at_work(1) as work:
                work.calls += 1
                await self._send(action.take(message))
            self._tell_if_enough()
            self._set_due(action.due_seconds())

    async def flush(self) -> None:
        """Send on what is held back."""
        self._set_due(None)
        await self._send(self._action.flush())

    async def flush_when_due(self) -> None:
        """Flush in time, for ever."""
        while True:
            with anyio.move_on_after(self._left_seconds()):
                await self._due_changed.wait()
                continue
            async with self.turn:
                # It may have been flushed, and hold something else, while this waited.
                if self._left_seconds() == 0:
                    await self.flush()

    def _left_seconds(self) -> float | None:
        return None if self._due is None else max(0.0, self._due - anyio.current_time())

    def _set_due(self, seconds: float | None) -> None:
        self._due = None if seconds is None else anyio.current_time() + seconds
        changed, self._due_changed = self._due_changed, anyio.Event()
        changed.set()

    async def _send(self, made: Iterable[pa.RecordBatch]) -> None:
        running = self._running
        counts = running.metrics.counts
        started = time.perf_counter()
        batches = [batch for batch in made if batch.num_rows]
        counts.calls += 1
        counts.busy_seconds += time.perf_counter() - started
        for batch in batches:
            running.metrics.sent(batch)
            counts.records_kept += batch.num_rows
            await self._outlet.send(batch)
        if self._action.drops:
            counts.dropped = counts.records_in - counts.records_kept

    def _tell_if_enough(self) -> None:
        if not self._told and self._action.has_enough():
            self._told = True
            self._tell_enough()
