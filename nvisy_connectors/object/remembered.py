"""Bytes that were kept, to be read as if they were objects of a folder."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from nvisy_connectors.object.folder import Folder, ObjectInfo, Span
from nvisy_connectors.object.read_memory import Bytes, Piece, ReadMemory


@dataclass(frozen=True)
class Kept:
    """What was kept of one object, under its key."""

    info: ObjectInfo
    uri: str
    data: bytes


class RememberedFolder(Folder):
    """A folder of what was kept in memory; nothing can be written to it.

    Args:
        objects: By key.
    """

    def __init__(self, objects: Mapping[str, Kept]) -> None:
        self._objects = objects

    def uri(self, key: str) -> str:
        """The address of the object that it was kept of."""
        return self._objects[key].uri

    async def infos(self) -> AsyncGenerator[ObjectInfo, None]:
        """All of them, in order."""
        for kept in self._objects.values():
            yield kept.info

    async def listing(self, after: str | None = None) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """All of them, in order."""
        found = [kept.info for key, kept in self._objects.items() if after is None or key > after]
        yield found

    async def head(self, key: str) -> ObjectInfo | None:
        """What was kept under this key."""
        return self._objects[key].info if key in self._objects else None

    async def fetch(
        self,
        spans: Sequence[Span],
        memory: ReadMemory | None = None,  # noqa: ARG002 - it is in memory
    ) -> list[Bytes]:
        """The bytes of each span."""
        return [self._objects[span.info.key].data[span.start : span.end] for span in spans]

    def open(self, info: ObjectInfo) -> pa.NativeFile:
        """The bytes as a file."""
        return pa.BufferReader(self._objects[info.key].data)

    def read_on(self, info: ObjectInfo, start: int, size: int) -> Iterator[Piece]:
        """The bytes from a place on."""
        data = memoryview(self._objects[info.key].data)
        return (data[at : at + size] for at in range(start, len(data), size))

    async def make_spool(self, writer: str, holder: int) -> Path:
        """Refused."""
        raise NotImplementedError

    async def publish(self, file: Path, key: str) -> None:
        """Refused."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Nothing to do."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Refused."""
        raise NotImplementedError
