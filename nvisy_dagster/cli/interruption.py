"""Ctrl-C and SIGTERM: the first one stops in order, the second one at once."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import anyio

from nvisy_dagster.cli.exit_codes import ExitCode

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = b"\x1b[?25h"


class InterruptedRunError(Exception):
    """A signal ended the run; every client is closed and the checkpoint kept."""


def run_interruptible(call: Callable[[], Awaitable[T]], on_stop: Callable[[], None]) -> T:
    """Run an async function in this thread, the main one; a signal cancels it.

    Args:
        call: What to run.
        on_stop: Called when the first signal arrives.

    Raises:
        InterruptedRunError: A signal arrived; what was called has ended.
    """
    return anyio.run(_until_signal, call, on_stop)


async def _until_signal(call: Callable[[], Awaitable[T]], on_stop: Callable[[], None]) -> T:
    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()
    results: list[T] = []

    def stop() -> None:
        on_stop()
        loop.call_soon_threadsafe(scope.cancel)

    with signals_to(stop) as received:
        try:
            with scope:
                results.append(await call())
        except Exception:
            # What fails because it was cancelled is not the reason of the end.
            if not received:
                raise
    if not results:
        raise InterruptedRunError
    return results[0]


@contextmanager
def signals_to(stop: Callable[[], None]) -> Generator[list[int], None, None]:
    """Within the block the first signal calls `stop`; the second one ends the process.

    Yields:
        The signals that have arrived.
    """
    received: list[int] = []

    # Not the event loop's own handlers: these work even while something blocks the loop.
    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            stop()
        else:
            end_process()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_process() -> None:
    """End at once, without closing anything; what is committed stays."""
    if os.isatty(2):
        # The live table hides the cursor.
        os.write(2, SHOW_CURSOR)
    os.write(2, b"stopped at once\n")
    os._exit(ExitCode.INTERRUPTED)
