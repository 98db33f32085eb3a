"""Parts that are sent to their store while they are written, and seen once they are whole."""

import mmap
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

from anyio import to_thread

from nvisy_dagster.sdk import NvisyError

MIB = 1 << 20
WORTH_BYTES = 16 * MIB
"""A smaller part is sent when it is whole."""
CHUNK_BYTES = 6 * MIB
"""What one request sends: a little more than the least that S3 takes, since some are in memory at
once. An upload has 10,000 of them at most, which bounds `part_bytes`."""


class Upload(ABC):
    """An object that appears when all of it was sent, and not if it is let go of before."""

    @abstractmethod
    async def write(self, data: bytes | memoryview) -> None:
        """Send what follows.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let the object appear.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now; it may have appeared.
        """


class UploadAhead:
    """Sends a file that grows to a store.

    It saves time and nothing else: the file is still there, to be sent as a whole, when this fails.

    Args:
        upload: Where it goes.
        key: Key of the object.
    """

    def __init__(self, upload: Upload, key: str) -> None:
        self._upload: Upload | None = upload
        self.key = key
        self._sent = 0

    async def send(self, file: Path) -> None:
        """Send whole chunks of what the file holds more by now."""
        while (chunk := await self._more(file)) and len(chunk) == CHUNK_BYTES:
            await self._write(chunk)

    async def finish(self, file: Path) -> bool:
        """Send the rest of a file that is whole; returns whether the object appeared."""
        while chunk := await self._more(file):
            await self._write(chunk)
        upload, self._upload = self._upload, None
        if upload is None:
            return False
        try:
            await upload.close()
        except NvisyError:
            return False
        return True

    async def _more(self, file: Path) -> bytes | memoryview:
        def read() -> bytes | memoryview:
            with file.open("rb") as opened:
                size = min(os.fstat(opened.fileno()).st_size - self._sent, CHUNK_BYTES)
                if size <= 0:
                    return b""
                # Not copied once more on its way; whole chunks begin at whole pages.
                told = mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ, offset=self._sent)
                return memoryview(told)

        if self._upload is None:
            return b""
        try:
            return await to_thread.run_sync(read)
        except (OSError, ValueError):  # who has taken over has removed it, or made it shorter
            self._upload = None
            return b""

    async def _write(self, chunk: bytes | memoryview) -> None:
        upload, self._upload = self._upload, None
        assert upload is not None  # noqa: S101 - there would be no chunk
        with suppress(NvisyError):
            await upload.write(chunk)
            # Only now: of a call that was cut off nobody knows how much was sent.
            self._upload = upload
            self._sent += len(chunk)
