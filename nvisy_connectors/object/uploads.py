"""Parts that are sent to their store while they are written, and seen once they are whole."""

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from anyio import to_thread

from nvisy_connectors.object.part_file import PartFile
from nvisy_dagster.sdk import EpochLostError, NvisyError, TransientError

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


class PartUpload(ABC):
    """Sends a part to a store while it is written."""

    @abstractmethod
    async def send(self) -> None:
        """Send what there is more by now.

        Raises:
            ConfigError: The store refuses, and there is no copy to be sent later.
            EpochLostError: It did not take all of it, and there is no copy to be sent later.
        """

    @abstractmethod
    async def finish(self) -> bool:
        """Send the rest of a part that is whole; may be called again.

        Returns:
            Whether the object appeared; if not, its file has to be sent as a whole.

        Raises:
            ConfigError: As of `send`.
            TransientError: The store cannot be reached now; `EpochLostError` as of `send`.
        """


class UploadAhead(PartUpload):
    """Sends a file that grows.

    It saves time and nothing else: the file is still there, to be sent as a whole, when this fails.

    Args:
        upload: Where it goes.
        file: The file.
    """

    def __init__(self, upload: Upload, file: Path) -> None:
        self._upload: Upload | None = upload
        self._file = file
        self._sent = 0

    async def send(self) -> None:
        """Send whole chunks; what goes wrong is no error."""
        while (chunk := await self._more()) and len(chunk) == CHUNK_BYTES:
            await self._write(chunk)

    async def finish(self) -> bool:
        """Send the rest; what goes wrong is no error."""
        while chunk := await self._more():
            await self._write(chunk)
        upload, self._upload = self._upload, None
        if upload is None:
            return False
        try:
            await upload.close()
        except NvisyError:
            return False
        return True

    async def _more(self) -> bytes | memoryview:
        def read() -> bytes | memoryview:
            with self._file.open("rb") as opened:
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


class OnlyUpload(PartUpload):
    """Sends what is written, and keeps no copy: what the store does not take is lost.

    It saves the disk, and the time to write to it.

    Args:
        upload: Where it goes.
        file: Where it comes from.
        stored: Tells the size of the object that is there by now, `None` for none.
        uri: Address of the object.
    """

    def __init__(
        self,
        upload: Upload,
        file: PartFile,
        stored: Callable[[], Awaitable[int | None]],
        uri: str,
    ) -> None:
        self._upload: Upload | None = upload
        self._file = file
        self._stored = stored
        self._uri = uri
        self._closing = False

    async def send(self) -> None:
        """Send all of it."""
        if self._upload is None:
            raise self._lost("a call was cut off")
        # Of a call that is cut off, or fails, nobody knows how much was sent.
        upload, self._upload = self._upload, None
        try:
            pieces = await to_thread.run_sync(self._file.take)
            while pieces:
                await upload.write(pieces.popleft())
        except TransientError as error:
            raise self._lost(error.message, error.tag) from error
        except OSError as error:  # who has taken over has removed it
            raise self._lost(error.strerror or str(error)) from error
        self._upload = upload

    async def finish(self) -> bool:
        """Send the rest, and see whether the object is there if the store's answer is lost."""
        if not self._closing:
            await self.send()
            assert self._upload is not None  # noqa: S101 - `send` would have raised
            if not await to_thread.run_sync(self._file.path.exists):
                raise self._lost("another run has taken over")
            self._closing = True
            await self._upload.close()
            self._upload = None
            return True
        if await self._stored() != self._file.tell():
            raise self._lost("it did not appear")
        return True

    def _lost(self, why: str, tag: str | None = None) -> EpochLostError:
        return EpochLostError(
            f"the upload of {self._uri} failed, and no copy is kept: {why}",
            remedy="it is written again from the last checkpoint; if this lasts, check the network "
            "and the timeout 'call_seconds' of the sink",
            tag=tag,
        )
