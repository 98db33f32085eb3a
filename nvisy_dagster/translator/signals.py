"""Running the engine from Dagster's synchronous code, with signals of our own.

Dagster's handlers raise an error in whatever frame is running; clients would stay open and epochs
half committed. While the engine runs, the first SIGINT or SIGTERM asks it to drain instead, the
second one cancels it; either way it closes its clients, and then the run ends.
"""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from typing import TypeVar

import anyio
from anyio.from_thread import start_blocking_portal

from nvisy_dagster.engine.drain import StopRequest

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRunError(Exception):
    """A signal ended the run; everything is closed."""


def run_blocking(function: Callable[[], Awaitable[T]], stop: StopRequest) -> T:
    """Run an async function to its end.

    In a thread that runs an event loop already (a notebook, an async test), it runs in another
    thread with a loop of its own.

    Args:
        function: What to run.
        stop: Made by the first SIGINT or SIGTERM; at the second one the function is cancelled.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM arrived, and the function has ended. Its cause is how
            it ended, unless it was cancelled.
    """
    if _in_event_loop():
        return _run_in_thread(function, stop)
    if threading.current_thread() is threading.main_thread():
        return anyio.run(_until_signal, function, stop)
    return anyio.run(_awaited, function)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _awaited(function: Callable[[], Awaitable[T]]) -> T:
    return await function()


async def _until_signal(function: Callable[[], Awaitable[T]], stop: StopRequest) -> T:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    received: list[int] = []
    results: list[T] = []
    ended: Exception | None = None
    scope = anyio.CancelScope()

    def interrupt(number: int) -> None:
        received.append(number)
        stop.request()
        if len(received) > 1:
            scope.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt, number)
    try:
        with scope:
            results.append(await function())
    except Exception as error:
        # What fails because it was stopped is not the reason of the end.
        if not received:
            raise
        ended = error
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
    if received:
        raise InterruptedRunError from ended
    return results[0]


def _run_in_thread(function: Callable[[], Awaitable[T]], stop: StopRequest) -> T:
    # Leaving the portal waits until the function has ended, cancelled or not.
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(_awaited, function)
        try:
            return future.result()
        except BaseException:
            # What Dagster's handlers raise arrives here; the second one while this waits.
            stop.request()
            try:
                wait([future])
            finally:
                future.cancel()
            raise
