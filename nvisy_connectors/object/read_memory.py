"""Memory that is read into, again and again."""

from contextlib import suppress

Bytes = bytes | bytearray
Piece = Bytes | memoryview

KEPT = 8
"""Pieces that are kept at most: as many as are on their way between a disk and a decoder."""
WORTH_BYTES = 1 << 20
"""Smaller pieces are not worth it: they come from memory that the process has already."""


class ReadMemory:
    """Pieces of memory for what is read of a large object, one after the other.

    A large piece that is fetched anew from the system for each read comes page by page, each wiped
    before: for JSON lines that took a seventh of the time of a whole run. Threads may share it.
    """

    def __init__(self) -> None:
        self._pieces: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """A piece of exactly this size, whatever is in it."""
        if size < WORTH_BYTES:
            return bytearray(size)
        with suppress(IndexError):
            piece = self._pieces.pop()
            if len(piece) >= size:
                del piece[size:]
            else:
                piece.extend(bytes(size - len(piece)))
            return piece
        return bytearray(size)

    def give_back(self, piece: Bytes) -> None:
        """Have a piece used again that nobody reads any more.

        One that is still in use, as part of an array, is left alone; so is what came from
        elsewhere, whose bytes are for good.
        """
        if not isinstance(piece, bytearray) or len(piece) < WORTH_BYTES:
            return
        if len(self._pieces) >= KEPT:
            return
        with suppress(BufferError):
            piece.append(0)  # its size cannot change as long as somebody reads it
            self._pieces.append(piece)

    def let_go(self) -> None:
        """Give the pieces back to the system."""
        self._pieces.clear()
