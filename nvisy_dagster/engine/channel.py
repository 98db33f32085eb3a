"""Channels: queues bounded by bytes, and the inlet that merges several of them."""

import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence

import anyio
import pyarrow as pa

from nvisy_dagster.engine.message import END, Barrier, End, Message, Removal, size_of

DEFAULT_LIMIT_BYTES = 8 * 1024 * 1024


class Channel:
    """A queue between two nodes; one task sends, one receives.

    At most the limit is held, or one message that is larger.

    Args:
        limit_bytes: The most that it holds.
        patience_seconds: How long a message should wait at most. What a slow reader does not take
            in that time is not let in: a barrier would wait behind it.
    """

    def __init__(
        self, limit_bytes: int = DEFAULT_LIMIT_BYTES, patience_seconds: float | None = None
    ) -> None:
        self._most = limit_bytes
        self._patience = patience_seconds
        # One message, before it is known how long it waits.
        self._limit = limit_bytes if patience_seconds is None else 1
        self._queue: deque[tuple[Message, int, float]] = deque()
        self._queued_bytes = 0
        self._room = anyio.Event()
        self._arrived = anyio.Event()
        self.peak_bytes = 0

    async def send(self, message: Message) -> None:
        """Queue a message, waiting while the channel is full."""
        size = size_of(message)
        while self._queued_bytes and self._queued_bytes + size > self._limit:
            self._room = anyio.Event()
            await self._room.wait()
        self._queue.append((message, size, time.monotonic()))
        self._queued_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._queued_bytes)
        self._arrived.set()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def announce_to(self, arrived: anyio.Event) -> None:
        """Set this event, instead of the last one, when a message arrives."""
        self._arrived = arrived

    def pop(self) -> Message:
        """The next message of a channel that is not empty."""
        message, size, since = self._queue.popleft()
        self._queued_bytes -= size
        if self._patience is not None:
            self._adapt(size, time.monotonic() - since, self._patience)
        self._room.set()
        return message

    def _adapt(self, size: int, waited: float, patience: float) -> None:
        """Hold less if the last message waited too long, more if it came through quickly."""
        if waited > patience:
            self._limit = max(1, int(self._limit * patience / waited))
        elif waited < patience / 2:
            self._limit = min(self._most, 2 * max(self._limit, size))


class Inlet:
    """What a node reads: one channel, or several merged with their barriers aligned.

    A channel that has delivered a barrier is not read again until the others have delivered it
    too, or have ended; then the barrier is passed on once.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels
        self.wait_seconds = 0.0

    async def messages(self) -> AsyncGenerator[pa.RecordBatch | Barrier | Removal, None]:
        """Batches, removals and barriers until every channel has ended."""
        open_channels = list(self._channels)
        removals: list[Removal] = []
        while open_channels:
            aligned: list[Channel] = []
            epoch = 0
            while waiting := [c for c in open_channels if c not in aligned]:
                channel = await self._ready(waiting)
                message = channel.pop()
                match message:
                    case Barrier():
                        aligned.append(channel)
                        epoch = message.epoch
                    case End():
                        open_channels.remove(channel)
                    case Removal():
                        removals.append(message)
                    case _:
                        yield message
                        # Take turns: the one just read goes to the back.
                        open_channels.remove(channel)
                        open_channels.append(channel)
            if removals:
                yield Removal.merged(removals)
                removals.clear()
            if aligned:
                yield Barrier(epoch)

    async def _ready(self, channels: Sequence[Channel]) -> Channel:
        while True:
            for channel in channels:
                if channel:
                    return channel
            arrived = anyio.Event()
            for channel in channels:
                channel.announce_to(arrived)
            started = time.perf_counter()
            await arrived.wait()
            self.wait_seconds += time.perf_counter() - started


class Outlet:
    """Where a node sends one output: every channel gets every message."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels
        self.wait_seconds = 0.0

    async def send(self, message: Message) -> None:
        """Hand a message to every reader, waiting for the slowest."""
        started = time.perf_counter()
        for channel in self._channels:
            await channel.send(message)
        self.wait_seconds += time.perf_counter() - started

    async def end(self) -> None:
        """Tell every reader that nothing follows."""
        await self.send(END)
