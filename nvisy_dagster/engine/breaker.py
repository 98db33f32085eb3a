"""A breaker: while a system is down, one call at a time asks for it and the others wait."""

from typing import Literal

import anyio

from nvisy_dagster.sdk import TransientError

OUTAGE_TAGS = frozenset({"connection", "server", "timeout"})
"""Errors that say that a system is down. `rate_limit` is none: the system answers."""
FAILURES_TO_OPEN = 5
FIRST_PROBE_SECONDS = 0.25
LONGEST_PROBE_SECONDS = 5.0

Entry = Literal["closed", "probe", "late"]
"""`closed`: go. `probe`: go, alone. `late`: it is still open, and there is no more time to wait."""


class Breaker:
    """Shared by all that call one system.

    It opens after `FAILURES_TO_OPEN` failures in a row, whoever's they were. While it is open calls
    are held; the first one to wait goes alone, as a probe, 0.25 s later, then 0.5, 1, 2, 4, 5, 5,
    ... s after each probe that failed. The first answer, the probe's or of a call that was under
    way, closes it, and all that are held go on.

    Whoever enters says afterwards how it went: `failed`, `answered` or `abandoned`.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._open = False
        self._probing = False
        self._interval = FIRST_PROBE_SECONDS
        self._next_probe = 0.0
        self._changed = anyio.Event()
        self.error: TransientError | None = None
        """The last failure."""

    @property
    def is_open(self) -> bool:
        """Whether calls are held."""
        return self._open

    async def enter(self, until: float) -> Entry:
        """Wait while it is open, at most until then, by `anyio.current_time()`."""
        while self._open:
            now = anyio.current_time()
            if not self._probing and now >= self._next_probe:
                self._probing = True
                return "probe"
            if now >= until:
                return "late"
            wake = until if self._probing else min(until, self._next_probe)
            changed = self._changed
            with anyio.move_on_after(wake - now):
                await changed.wait()
        return "closed"

    def failed(self, error: TransientError, *, probe: bool) -> None:
        """A call failed transiently."""
        if error.tag not in OUTAGE_TAGS:
            self.answered()
            return
        self.error = error
        self._failures += 1
        if probe:
            self._hold(min(2 * self._interval, LONGEST_PROBE_SECONDS))
        elif not self._open and self._failures >= FAILURES_TO_OPEN:
            self._hold(FIRST_PROBE_SECONDS)

    def answered(self) -> None:
        """A call got an answer: the system is there."""
        self._failures = 0
        if self._open:
            self._open = self._probing = False
            self._wake()

    def abandoned(self) -> None:
        """A probe ended without telling anything: the next one may go at once."""
        self._probing = False
        self._wake()

    def _hold(self, seconds: float) -> None:
        self._open, self._probing, self._interval = True, False, seconds
        self._next_probe = anyio.current_time() + seconds
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
