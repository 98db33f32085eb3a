"""Stopping in order: what is under way is committed up to one last barrier, then the stage ends.

A drain loses nothing and doubles nothing, and neither does stopping without one: the next run goes
on from the last checkpoint either way. A drain saves the work that would be done again.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio

from nvisy_dagster.sdk import NvisyError

T = TypeVar("T")

GOES_ON = "run it again: it goes on from its last checkpoint"


class RunStoppedError(NvisyError):
    """The run was asked to stop, and has.

    Args:
        message: How far it came.
        drained: Whether everything that was under way is committed.
        remedy: What the reader can do.
    """

    default_tag = "cancelled"

    def __init__(self, message: str, *, drained: bool = False, remedy: str = GOES_ON) -> None:
        super().__init__(message, remedy=remedy)
        self.drained = drained


class StopRequest:
    """Asks a run to stop. May be made from any thread, and from a signal's handler."""

    def __init__(self) -> None:
        self._requested = False
        # No lock: the handler of a signal may run while this very thread would hold it. Appending
        # to a list, copying it, and setting a flag are atomic each.
        self._waiting: list[tuple[asyncio.AbstractEventLoop, anyio.Event]] = []

    @property
    def requested(self) -> bool:
        """Whether it has been made."""
        return self._requested

    def request(self) -> None:
        """Ask the run to stop; asking again changes nothing."""
        self._requested = True
        for loop, event in tuple(self._waiting):
            # A loop that is closed has nothing left to stop.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        """Return when it has been made."""
        waiting = (asyncio.get_running_loop(), anyio.Event())
        self._waiting.append(waiting)
        try:
            if not self._requested:
                await waiting[1].wait()
        finally:
            self._waiting.remove(waiting)


class ReadStoppedError(Exception):
    """A read was broken off; its source stands where the last batch left it."""


class Reads:
    """Reads that are broken off: all when the stage is to stop, one when nobody wants the rest.

    A source that waits for its next batch, perhaps for ever, stands where its last one left it.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._ended: set[str] = set()
        self._scopes: dict[str, anyio.CancelScope] = {}

    def stop(self) -> None:
        """Break off every read, and begin none."""
        self.stopped = True
        for scope in self._scopes.values():
            scope.cancel()

    def end(self, source: str) -> None:
        """Break off the read of one source, as if it had come to its end."""
        self._ended.add(source)
        if source in self._scopes:
            self._scopes[source].cancel()

    def ended(self, source: str) -> bool:
        """Whether nobody wants more of this source."""
        return source in self._ended

    async def next(self, slices: AsyncGenerator[T, None], source: str) -> T | None:
        """The next batch of a source, `None` when there is none, or nobody wants it.

        Raises:
            ReadStoppedError: Reading is stopped.
        """
        if not self.stopped and not self.ended(source):
            with anyio.CancelScope() as scope:
                self._scopes[source] = scope
                try:
                    return await anext(slices, None)
                finally:
                    del self._scopes[source]
        if self.stopped:
            raise ReadStoppedError
        return None


async def stoppable(
    work: Callable[[], Awaitable[None]],
    stop: StopRequest | None,
    drain: Callable[[], Awaitable[RunStoppedError]],
) -> None:
    """Do a work that can be asked to stop.

    Args:
        work: What to do.
        stop: The request, if there can be one.
        drain: Brings the work to a good place to end, within bounds. When it returns, what is left
            of the work is cancelled.

    Raises:
        RunStoppedError: The one that `drain` returned; or the work failed while it was drained.
    """
    if stop is None:
        await work()
        return
    ends: list[RunStoppedError] = []
    whole = anyio.CancelScope()

    async def watch() -> None:
        await stop.wait()
        ends.append(await drain())
        whole.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        with whole:
            await work()
        tasks.cancel_scope.cancel()
    if whole.cancelled_caught:
        raise ends[0]


def failed_while_stopping(error: Exception) -> RunStoppedError:
    """The end of a run that failed after it was asked to stop.

    It is what was asked for; and what fails then may well have been stopped by the same signal.
    """
    message = f"the run was stopped; while it finished what was under way, {error}"
    return RunStoppedError(message)
