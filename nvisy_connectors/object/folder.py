"""What the sources and sinks of this family need of a store."""

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from nvisy_connectors.object.read_memory import Bytes, Piece, ReadMemory
from nvisy_connectors.object.uploads import Upload


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as it was listed."""

    key: str
    size: int
    """In bytes."""
    version: str
    """Changes whenever the content does: the ETag, or size and time of the last change."""
    modified: dt.datetime


@dataclass(frozen=True, slots=True)
class Torn:
    """Why an object breaks off."""

    reason: str
    tag: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes of one object, `end` exclusive."""

    info: ObjectInfo
    start: int
    end: int
    torn: Torn | None = None
    """Why what follows cannot be had; the last byte of the span stands for it then."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def is_last(self) -> bool:
        """Whether the object ends where the span ends."""
        return self.end >= self.info.size


class Folder(ABC):
    """A folder of a disk, or a bucket's objects under a prefix; keys are relative to it."""

    may_be_empty: bool = True
    """Whether it exists although the whole listing had no objects."""
    whole_names: bool = True
    """Whether keys begin at a folder, and not within a name that was told."""

    takes_pieces: ClassVar[bool] = False
    """Whether an object can be sent piece by piece, so that it saves time to `begin` early."""

    @abstractmethod
    def uri(self, key: str) -> str:
        """Address of an object, the same for good."""

    @abstractmethod
    def listing(self, after: str | None = None) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """Objects in the store's own unchanging order, page by page, those that follow `after`.

        Raises:
            ConfigError: The store refuses, or does not exist.
            TransientError: The store cannot be reached now.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo | None:
        """The object as it is now, `None` when there is none.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now.
        """

    @abstractmethod
    async def fetch(self, spans: Sequence[Span], memory: ReadMemory | None = None) -> list[Bytes]:
        """The bytes of each span, of exactly the version that was listed.

        Args:
            spans: What to read.
            memory: To read into, for a folder that brings none of its own.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now, or an object changed since.
        """

    @abstractmethod
    def open(self, info: ObjectInfo) -> pa.NativeFile:
        """Random access to exactly the version that was listed; blocks, for worker threads.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now, or the object changed since.
        """

    @abstractmethod
    def read_on(self, info: ObjectInfo, start: int, size: int) -> Iterator[Piece]:
        """From a place to the end of exactly the version that was listed; blocks, for threads.

        Args:
            info: The object.
            start: The place.
            size: Bytes of a piece, about.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now, or the object changed since.
        """

    def close(self) -> None:  # noqa: B027 - a disk has nothing to close
        """Let go of connections; the folder is of no use any more."""

    @abstractmethod
    async def make_spool(self, writer: str, holder: int) -> Path:
        """An empty folder on a disk for files that will be published; blocks nobody.

        Args:
            writer: Names the writer; what its other holders left is deleted, so that one of them
                that comes back to life has nothing to publish.
            holder: Tells those who hold the writer one after the other apart.
        """

    @abstractmethod
    async def publish(self, file: Path, key: str) -> None:
        """Turn a spooled file into an object at once and for good; may be called again.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now.
        """

    def begin(self, key: str) -> Upload:
        """An upload of an object that is not whole yet, where `takes_pieces`."""
        raise NotImplementedError

    @abstractmethod
    async def flush(self) -> None:
        """Return when all that was published and deleted survives a loss of power."""

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are gone already are no error.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now.
        """
