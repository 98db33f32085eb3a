"""Calls of a component: retried, timed, limited, and kept in order while they overlap."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import pyarrow as pa
from anyio.abc import TaskGroup

from nvisy_dagster.engine.attempts import NO_COST, Attempts, waiting
from nvisy_dagster.engine.gate import Gate
from nvisy_dagster.engine.metrics import Counts, NodeMetrics
from nvisy_dagster.engine.rate_limit import Cost
from nvisy_dagster.graph.policies import Policies
from nvisy_dagster.sdk import EpochLostError, TransientError

A = TypeVar("A")
R = TypeVar("R")


class Caller:
    """Makes the calls of one node under its policies.

    Args:
        policies: The node's policies.
        metrics: Where calls, retries and waits are counted.
        run_limit: Limit on the calls of the whole run, if there is one.
        gate: What it shares with those that call the same system; one of its own by default.
    """

    def __init__(
        self,
        policies: Policies,
        metrics: NodeMetrics,
        run_limit: anyio.Semaphore | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._retry = policies.retry
        self._timeout = policies.timeout.call_seconds
        self._metrics = metrics
        self._run_limit = run_limit
        self._gate = gate or Gate()
        self._counts_tokens = any(limiter.counts_tokens for limiter in self._gate.limiters)

    async def call(
        self,
        function: Callable[[A], Awaitable[R]],
        argument: A,
        tokens: Callable[[A], int] | None = None,
        what: str = "a call",
    ) -> R:
        """Call until it succeeds, fails for good, or the retries are spent.

        Args:
            function: What to call.
            argument: What to call it with; the records of a batch count for the rate limits.
            tokens: Tells the tokens of the argument, if anybody asks for them.
            what: What it is, for people.

        Raises:
            TransientError: It failed `max_retries + 1` times, or its system is down for longer
                than the policy waits.
            NvisyError: It failed in a way that the policy does not retry.
        """
        batch: Any = argument
        records = batch.num_rows if isinstance(batch, pa.RecordBatch) else 0
        told = tokens(argument) if tokens is not None and self._counts_tokens else 0
        once = partial(self._once, function, argument, what)
        return await self.retried(once, Cost(1, records, told))

    async def retried(self, function: Callable[[], Awaitable[R]], cost: Cost = NO_COST) -> R:
        """The same for what is neither timed nor counted as a call; raises as `call`."""
        attempts = self.attempts()
        while True:
            await attempts.begin(cost)
            try:
                result = await function()
            except EpochLostError:
                attempts.abandoned()
                raise
            except TransientError as error:
                await attempts.failed(error)
            except BaseException:
                attempts.abandoned()
                raise
            else:
                attempts.succeeded()
                return result

    async def read_on(
        self, read: Callable[[], AsyncGenerator[R, None]], records: Callable[[R], int]
    ) -> AsyncGenerator[R, None]:
        """What a reader yields; after a transient error it is called again, to read on.

        Every item is taken for an answer, after which retries are counted anew, and for one request
        by the rate limits, which hold it until they allow the next one.

        Args:
            read: Reads from where the last item ended.
            records: Tells the records of an item.

        Raises:
            TransientError: It failed `max_retries + 1` times in a row, or its system is down for
                longer than the policy waits.
            NvisyError: It failed in a way that the policy does not retry.
        """
        attempts = self.attempts()
        while True:
            await attempts.begin()
            try:
                async with aclosing(read()) as items:
                    async for item in items:
                        attempts.succeeded()
                        await attempts.take(Cost(1, records(item)))
                        yield item
            except TransientError as error:
                await attempts.failed(error)
            except BaseException:
                attempts.abandoned()
                raise
            else:
                attempts.succeeded()
                return

    def attempts(self) -> Attempts:
        """The attempts of a call that the caller makes itself."""
        return Attempts(self._retry, self._gate, self._metrics.counts)

    def slots(self, limit: int) -> "Slots":
        """Room for so many calls in flight, whose waits are counted."""
        return Slots(limit, self._metrics.counts)

    async def _once(self, function: Callable[[A], Awaitable[R]], argument: A, what: str) -> R:
        if self._run_limit is None:
            return await self._timed(function, argument, what)
        with waiting(self._metrics.counts, "concurrency_wait_seconds"):
            await self._run_limit.acquire()
        try:
            return await self._timed(function, argument, what)
        finally:
            self._run_limit.release()

    async def _timed(self, function: Callable[[A], Awaitable[R]], argument: A, what: str) -> R:
        self._metrics.counts.calls += 1
        started = time.perf_counter()
        try:
            with anyio.move_on_after(self._timeout):
                return await function(argument)
        finally:
            self._metrics.counts.busy_seconds += time.perf_counter() - started
        raise TransientError(
            f"{what} took longer than {self._timeout:g} s",
            remedy='raise "timeout.call_seconds"; or see why the system is slow: a lower '
            '"concurrency.max_per_node" asks less of it',
            tag="timeout",
        )


class Slots:
    """Room for so many calls in flight.

    Args:
        limit: Calls in flight.
        counts: Where the time spent waiting for room is counted, if anywhere.
    """

    def __init__(self, limit: int, counts: Counts | None = None) -> None:
        self._semaphore = anyio.Semaphore(limit)
        self._counts = counts

    async def acquire(self) -> None:
        """Take a slot, waiting for one."""
        if self._counts is None:
            return await self._semaphore.acquire()
        with waiting(self._counts, "concurrency_wait_seconds"):
            await self._semaphore.acquire()
        return None

    def release(self) -> None:
        """Give a slot back."""
        self._semaphore.release()


class _Slot:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.emit: Callable[[], Awaitable[None]] | None = None


class OrderedCalls:
    """Runs up to `limit` calls at once and hands their results on in the order of submission.

    The window of results that wait for an earlier one is a multiple of the limit, so that one slow
    call does not idle the others.

    Args:
        limit: Calls in flight.
        window: Calls and results held at most.
        counts: Where the time spent waiting for room is counted, if anywhere.
    """

    def __init__(self, limit: int, window: int, counts: Counts | None = None) -> None:
        self._limit = Slots(limit, counts)
        self._send, self._receive = anyio.create_memory_object_stream[_Slot](max(window, 1))
        self._tasks: TaskGroup = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._hand_on)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._send.close()
        return await self._tasks.__aexit__(exc_type, exc, traceback)

    async def submit(
        self, call: Callable[[A], Awaitable[R]], argument: A, emit: Callable[[R], Awaitable[None]]
    ) -> None:
        """Start a call, waiting for room; `emit` gets its result in its turn."""
        slot = _Slot()
        await self._limit.acquire()
        await self._send.send(slot)

        async def run() -> None:
            try:
                result = await call(argument)
            finally:
                self._limit.release()
            slot.emit = lambda: emit(result)
            slot.done.set()

        self._tasks.start_soon(run)

    async def in_order(self, emit: Callable[[], Awaitable[None]]) -> None:
        """Have something done after all that was submitted before was handed on."""
        slot = _Slot()
        slot.emit = emit
        slot.done.set()
        await self._send.send(slot)

    async def _hand_on(self) -> None:
        async with self._receive:
            async for slot in self._receive:
                await slot.done.wait()
                if slot.emit is not None:
                    await slot.emit()
