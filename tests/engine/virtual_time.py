"""An event loop whose clock jumps to the next timer: hours pass in no time, and to the second."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Nothing that works in threads or processes may run in it: it would seem to take for ever."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lag: Callable[[], float] = lambda: 0.0
        """How much later than it should a timer goes off."""
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout:
            self._loop.now += timeout + self._loop.lag()
        return ready


BACKEND = ("asyncio", {"loop_factory": VirtualTimeLoop})
"""For the fixture `anyio_backend`."""
