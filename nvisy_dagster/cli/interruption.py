"""Ctrl-C and SIGTERM: the first one drains what is under way, the second one stops at once."""

import os
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import anyio

from nvisy_dagster.cli.exit_codes import ExitCode
from nvisy_dagster.engine.drain import RunStoppedError, StopRequest

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = b"\x1b[?25h"


class InterruptedRunError(Exception):
    """A signal ended the run; every client is closed and the checkpoint kept.

    Its text, if it has one, says how far the run came.
    """


class Interruption:
    """Counts the signals that arrive.

    These are handlers of the system's, not of an event loop: they work even while something blocks
    the loop.

    Args:
        on_first: Called when the first signal arrives. The second one ends the process.
        last_words: What to tell before that.
    """

    def __init__(
        self, on_first: Callable[[], None], last_words: Callable[[], str] | None = None
    ) -> None:
        self.received = 0
        self._on_first = on_first
        self._last_words = last_words

    def listen(self) -> None:
        """Take the signals' handlers over, in the main thread.

        An event loop that waits for these signals still hears of them: it is told through a file
        descriptor of its own, whatever the handlers are.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != self._handle:
                    signal.signal(number, self._handle)

    @contextmanager
    def listening(self) -> Generator[None, None, None]:
        """Have the handlers within the block; those before are put back after it."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.received += 1
        if self.received > 1:
            end_process(self._last_words)
        self._on_first()


def run_interruptible(
    call: Callable[[StopRequest], Awaitable[T]],
    on_stop: Callable[[], None],
    last_words: Callable[[], str] | None = None,
) -> T:
    """Run an async function in this thread, the main one; a signal asks it to stop.

    Args:
        call: What to run; it ends when it is asked to.
        on_stop: Called when the first signal arrives.
        last_words: What to tell before the second one ends the process.

    Raises:
        InterruptedRunError: A signal arrived; what was called has ended.
    """
    return anyio.run(_until_signal, call, on_stop, last_words)


async def _until_signal(
    call: Callable[[StopRequest], Awaitable[T]],
    on_stop: Callable[[], None],
    last_words: Callable[[], str] | None,
) -> T:
    request = StopRequest()

    def stop() -> None:
        on_stop()
        request.request()

    interruption = Interruption(stop, last_words)
    with interruption.listening():
        try:
            return await call(request)
        except Exception as error:
            # What fails because it was stopped is not the reason of the end.
            if not interruption.received:
                raise
            told = error.message if isinstance(error, RunStoppedError) else str(error)
            raise InterruptedRunError(told) from error


def end_process(last_words: Callable[[], str] | None = None) -> None:
    """End at once, without closing anything; what is committed stays.

    Args:
        last_words: What to tell.
    """
    try:
        if os.isatty(2):
            # The live table hides the cursor.
            os.write(2, SHOW_CURSOR)
        os.write(2, b"stopped at once")
        if last_words is not None:
            os.write(2, f": {last_words()}".encode())
        os.write(2, b"\n")
    finally:
        # Whatever is amiss, and nobody may be reading.
        os._exit(ExitCode.INTERRUPTED)
