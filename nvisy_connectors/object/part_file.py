"""What a part is written to where its store takes it piece by piece."""

import io
import mmap
from collections import deque
from pathlib import Path

import pyarrow as pa

SMALL_BYTES = 64 << 10
"""Smaller pieces are joined: to send one takes as long as to copy so much, about."""


class PartFile(io.RawIOBase):
    """A file of this machine that goes on in memory once its store takes what is written.

    One thread at a time writes to it, or takes from it.

    Args:
        path: File to make.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._size = 0
        self._pieces: deque[memoryview] | None = None
        self._small = bytearray()
        """The last piece, while it is small."""

    def writable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes so far, wherever they are by now."""
        return self._size

    def write(self, data: bytes | bytearray | memoryview | pa.Buffer, /) -> int:
        """Add bytes; what may still be changed is copied."""
        piece = memoryview(data).cast("B")
        if self._pieces is None:
            self._file.write(piece)
        elif len(piece) < SMALL_BYTES:
            self._small += piece
            if len(self._small) >= SMALL_BYTES:
                self._join(self._pieces)
        else:
            self._join(self._pieces)
            self._pieces.append(piece if piece.readonly else memoryview(bytes(piece)))
        self._size += len(piece)
        return len(piece)

    def take(self) -> deque[memoryview]:
        """What was not taken yet; from now on it is kept in memory, and on no disk.

        Raises:
            OSError: The disk fails.
        """
        if self._pieces is None:
            self._file.close()
            with self.path.open("rb") as file:
                begun = mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ)
            # Its blocks are free as soon as it is sent; its name stays, for who takes over.
            self.path.unlink()
            self.path.touch()
            self._pieces = deque([memoryview(begun)])
        pieces, self._pieces = self._pieces, deque()
        self._join(pieces)
        return pieces

    def _join(self, pieces: deque[memoryview]) -> None:
        if self._small:
            pieces.append(memoryview(self._small).toreadonly())
            self._small = bytearray()

    def close(self) -> None:
        """Close what is open; what was not taken stays."""
        self._file.close()
        super().close()
