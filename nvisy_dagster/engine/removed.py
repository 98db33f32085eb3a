"""Removals across a materialized edge: parts of their own beside those of the records."""

from pathlib import Path

from nvisy_dagster.engine.checkpoint import Part
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.materialized import REMOVED, PartWriter
from nvisy_dagster.engine.message import Removal


def removed_name(writer: str) -> str:
    """Name under which a checkpoint lists the removals of a materialized output.

    Args:
        writer: Name of what writes the records of the output.
    """
    return f"removed:{writer}"


class RemovalWriter:
    """Writes the removals of one materialized output, at most one part per epoch.

    Args:
        writer: Name of what writes the records of the output.
        folder: The folder of the output.
        after_epoch: Epoch of the checkpoint.
        lease: Under which they are written.
    """

    def __init__(self, writer: str, folder: Path, after_epoch: int, lease: Lease | None) -> None:
        self.name = removed_name(writer)
        self._folder = folder / REMOVED
        self._after_epoch = after_epoch
        self._lease = lease
        # An output that nothing was ever removed from has no folder for it.
        self._parts = self._make() if self._folder.is_dir() else None

    def _make(self) -> PartWriter:
        return PartWriter(self._folder, self._after_epoch, self._lease)

    async def write(self, removal: Removal) -> None:
        """Append a removal to the open part."""
        if self._parts is None:
            self._parts = self._make()
        await self._parts.write(removal.to_batch())

    async def commit(self, epoch: int) -> list[Part]:
        """Make the removals of this epoch durable."""
        part = None if self._parts is None else await self._parts.commit(epoch)
        return [] if part is None else [part]

    async def aclose(self) -> None:
        """Close the open part without publishing it."""
        if self._parts is not None:
            await self._parts.aclose()
