"""Reading an object from its beginning to its end, ahead of whoever takes the pieces."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

PIECE_BYTES = 4 << 20
"""Bytes that are read at once: on a store every read is a request."""
PIECES = 2
"""Pieces that are read ahead, each by a thread: with one a store is waited for half of the time."""

Read = Callable[[int, int], bytes | bytearray | memoryview]


class ReadAhead:
    """The pieces of an object, in order; the next ones are read while one is looked at.

    Args:
        read: Reads what lies between two places; threads call it.
        size: Bytes of the object.
    """

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._size = size
        self._place = 0
        """Where the next piece begins that is asked for."""
        self._coming: deque[Future[bytes | bytearray | memoryview]] = deque()
        self._threads = ThreadPoolExecutor(PIECES, "read-ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Wait for what is on its way."""
        self._threads.shutdown(cancel_futures=True)

    def next(self) -> memoryview:
        """The next piece; nothing at the end of the object."""
        self._ask(1)
        if not self._coming:
            return memoryview(b"")
        piece = memoryview(self._coming.popleft().result())
        self._ask(PIECES)
        return piece

    def seek(self, place: int) -> None:
        """Go on elsewhere."""
        for piece in self._coming:
            piece.cancel()
        self._coming.clear()
        self._place = place

    def _ask(self, pieces: int) -> None:
        """Have so many pieces come."""
        while len(self._coming) < pieces and self._place < self._size:
            end = min(self._place + PIECE_BYTES, self._size)
            self._coming.append(self._threads.submit(self._read, self._place, end))
            self._place = end
