"""Reading an object from its beginning to its end, ahead of whoever takes the pieces."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from nvisy_connectors.object.read_memory import Piece

PIECE_BYTES = 512 << 10
"""Bytes of a piece, about. Memory for larger ones comes from the system, each time anew."""
PIECES = 4
"""Pieces that are read ahead, so that a store is not waited for."""
NEAR_BYTES = 16 << 20
"""What lies so near is read on to: to ask a store for what lies behind it takes longer."""

ReadOn = Callable[[int, int], Iterator[Piece]]


class ReadAhead:
    """The pieces of an object, in order; the next ones are read while one is looked at.

    Args:
        read_on: Reads from a place to the end, in pieces of so many bytes; a thread calls it.
        size: Bytes of the object.
    """

    def __init__(self, read_on: ReadOn, size: int) -> None:
        self._read_on = read_on
        self._size = size
        self._place = 0
        """Where the next piece begins that is handed out."""
        self._passed_over = 0
        """Bytes before it that come, and are not wanted."""
        self._coming: deque[Future[Piece | None]] = deque()
        self._pieces = read_on(0, PIECE_BYTES)
        self._thread = ThreadPoolExecutor(1, "read-ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Wait for what is on its way."""
        self._thread.shutdown(cancel_futures=True)

    def next(self) -> memoryview:
        """The next piece; nothing at the end of the object."""
        while self._place < self._size:
            self._ask(1)
            found = self._coming.popleft().result()
            if found is None:
                break
            self._ask(PIECES)
            piece = memoryview(found)
            over = min(self._passed_over, len(piece))
            self._passed_over -= over
            if over < len(piece):
                self._place += len(piece) - over
                return piece[over:]
        return memoryview(b"")

    def seek(self, place: int) -> None:
        """Go on elsewhere."""
        ahead = place - self._place
        self._place = place
        if 0 <= ahead <= NEAR_BYTES:
            self._passed_over += ahead
            return
        for piece in self._coming:
            piece.cancel()
        self._coming.clear()
        self._passed_over = 0
        self._thread.submit(self._move, place)

    def _ask(self, pieces: int) -> None:
        """Have so many pieces come."""
        while len(self._coming) < pieces:
            self._coming.append(self._thread.submit(self._pull))

    def _pull(self) -> Piece | None:
        return next(self._pieces, None)

    def _move(self, place: int) -> None:
        self._pieces = self._read_on(place, PIECE_BYTES)
