"""Calls of a component: retried, timed, limited, and kept in order while they overlap."""

import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import anyio
from anyio.abc import TaskGroup

from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.graph.policies import Policies, Retry
from nvisy_dagster.sdk import TransientError

LONGEST_RETRY_AFTER_SECONDS = 600.0
"""Longest pause that a system may ask for; beyond it the stage fails, saying so."""

A = TypeVar("A")
R = TypeVar("R")


def retry_delay(retry: Retry, attempt: int, retry_after: float | None) -> float:
    """Seconds to wait before the next attempt.

    `exponential` doubles from the initial delay up to the longest one; `jitter` draws evenly
    between nothing and that ("full jitter", AWS Architecture Blog, 2015). A delay that the system
    asked for is never shortened.

    Args:
        retry: The policy.
        attempt: Attempts made so far, from 1.
        retry_after: Seconds that the system asked for.
    """
    longest = retry.max_delay_seconds
    # Beyond 2**32 every allowed delay has reached its cap, and floats stay finite.
    grown = min(longest, retry.initial_delay_seconds * 2.0 ** min(attempt - 1, 32))
    match retry.backoff:
        case "fixed":
            delay = retry.initial_delay_seconds
        case "exponential":
            delay = grown
        case "jitter":
            delay = random.uniform(0, grown)  # noqa: S311 - spreads load, guards nothing
    return max(delay, retry_after or 0.0)


class Caller:
    """Makes the calls of one node under its policies.

    Args:
        policies: The node's policies.
        metrics: Where calls and retries are counted.
        run_limit: Limit on the calls of the whole run, if there is one.
    """

    def __init__(
        self, policies: Policies, metrics: NodeMetrics, run_limit: anyio.Semaphore | None = None
    ) -> None:
        self._retry = policies.retry
        self._timeout = policies.timeout.call_seconds
        self._metrics = metrics
        self._run_limit = run_limit

    async def call(self, function: Callable[[A], Awaitable[R]], argument: A) -> R:
        """Call until it succeeds, fails for good, or the retries are spent.

        Raises:
            TransientError: It failed `max_retries + 1` times.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(function, argument)
            except TransientError as error:
                await self.pause(error, attempt)

    async def pause(self, error: TransientError, attempt: int) -> None:
        """Wait before the next attempt.

        Raises:
            TransientError: The retries are spent; or the system asks for a pause that no run
                should sit through.
        """
        if attempt > self._retry.max_retries:
            raise error
        if (error.retry_after or 0.0) > LONGEST_RETRY_AFTER_SECONDS:
            raise TransientError(
                f"{error.message}; it asks to be called again after {error.retry_after:,.0f} s",
                retry_after=error.retry_after,
                remedy="run it again then: it goes on from its checkpoint",
                tag=error.tag,
            ) from error
        self._metrics.counts.retries += 1
        await anyio.sleep(retry_delay(self._retry, attempt, error.retry_after))

    async def _once(self, function: Callable[[A], Awaitable[R]], argument: A) -> R:
        if self._run_limit is None:
            return await self._timed(function, argument)
        async with self._run_limit:
            return await self._timed(function, argument)

    async def _timed(self, function: Callable[[A], Awaitable[R]], argument: A) -> R:
        self._metrics.counts.calls += 1
        started = time.perf_counter()
        try:
            with anyio.move_on_after(self._timeout):
                return await function(argument)
        finally:
            self._metrics.counts.busy_seconds += time.perf_counter() - started
        raise TransientError(f"a call took longer than {self._timeout} s", tag="timeout")


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
    """

    def __init__(self, limit: int, window: int) -> None:
        self._limit = anyio.Semaphore(limit)
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
