"""How many records a source sends at once, so that a barrier is never long on its way.

A barrier waits behind all that was sent before it. A source reads a file in a moment; a node that
asks a model may need an hour for it, and a crash within that hour would repeat all of it. So what
is sent at once is cut down until the slowest node is through with it in a fraction of the
checkpoint's interval, and grows again where all are quick. Channels do the same with what waits in
them, see `Channel`.
"""

import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

from nvisy_dagster.graph.policies import Checkpoint as Interval

SHARE = 0.25
"""Part of the interval that a node may be at work on what a source sends at once, and that it may
wait in a channel."""

_QUICK = 0.25
"""Part of that, within which all nodes must stay before more is sent at once."""

_FIRST_ROWS = 64
"""What a call that takes any number gets before it is known how long it takes."""


@dataclass
class Work:
    """One message at one node."""

    concurrency: int
    """Calls that may be in flight."""
    calls: int = 0
    """Calls that it was cut into."""
    seconds: float = 0.0
    """From its arrival until the node could take the next one."""

    def shrunk(self, seconds: float) -> float:
        """By what to multiply its size for it to take so long; no call may stay unused by that."""
        fits = seconds / max(self.seconds, 1e-9)
        return max(fits, self.concurrency / max(self.calls, 1))

    def could_be_more(self, seconds: float) -> bool:
        """Whether twice as much would still be little, in time or for the calls in flight."""
        return self.seconds < seconds * _QUICK or 2 * self.calls <= self.concurrency


class Pace:
    """How many records may be sent at once, in one stage.

    Args:
        interval: How often a barrier is cut; `None` for never: then any number is sent at once.
    """

    def __init__(self, interval: Interval | None) -> None:
        self._limit = interval.interval_rows if interval else None
        self._seconds = interval.interval_seconds * SHARE if interval else None
        self._rows: int | None = None
        self._least = 1
        """Sent at once, less would only come together again on the way."""
        self._sent = 0
        """The most that was sent at once since the last change."""
        self._works: dict[str, Work] = {}
        """The longest of each node since the last change."""
        self._busy: set[str] = set()
        self._old_until = 0
        """With the checkpoint of this epoch, nothing is under way that was sent before the last
        cut in size."""

    @property
    def most_rows(self) -> int | None:
        """How many records may be sent at once now, `None` for any number."""
        bounds = [rows for rows in (self._rows, self._limit) if rows is not None]
        return min(bounds, default=None)

    def begin_with(
        self, calls: Iterable[tuple[int | None, int]], groups: Iterable[int] = ()
    ) -> None:
        """Begin with enough for every node to have all its calls in flight once.

        Args:
            calls: Of each node that waits for answers: the records that one call takes, if that is
                limited, and how many calls may be in flight. Without any, any number is sent.
            groups: How many records nodes gather before they send them on.
        """
        self._least = max(groups, default=1)
        rows = max(((rows or _FIRST_ROWS) * limit for rows, limit in calls), default=None)
        self._change(None if self._seconds is None else rows)

    @contextmanager
    def at_work(self, node: str, concurrency: int) -> Generator[Work]:
        """While a node is busy with a message, up to when it can take the next one."""
        work = Work(concurrency)
        self._busy.add(node)
        started = time.monotonic()
        yield work
        work.seconds = time.monotonic() - started
        self._busy.discard(node)
        if node not in self._works or work.seconds > self._works[node].seconds:
            self._works[node] = work

    def sent(self, rows: int, *, requested: int, written: int) -> None:
        """A source has sent so many records at once: see how the nodes got on so far.

        Args:
            rows: The records.
            requested: The last epoch that was asked for.
            written: That of the last checkpoint.
        """
        self._sent = max(self._sent, rows)
        if self._seconds is None or not self._works or not self._sent:
            return
        factor = min(work.shrunk(self._seconds) for work in self._works.values())
        if factor < 1 and written < self._old_until:
            self._works.clear()
        elif factor < 1:
            self._old_until = requested + 1
            self._change(max(1, int(self._sent * factor)))
        elif self._rows is not None and self._rows <= 2 * self._sent and self._is_little():
            self._change(2 * self._rows)

    def _is_little(self) -> bool:
        seconds = self._seconds or 0.0
        return not self._busy and all(w.could_be_more(seconds) for w in self._works.values())

    def _change(self, rows: int | None) -> None:
        self._rows = None if rows is None else max(rows, self._least)
        self._sent = 0
        self._works.clear()
