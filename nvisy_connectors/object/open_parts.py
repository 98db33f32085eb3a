"""The parts that a sink writes at the moment: one, or one per partition."""

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from nvisy_connectors.object.formats.part_writer import PartWriter
from nvisy_connectors.object.formats.writers import WRITERS
from nvisy_connectors.object.params import MIB, WriteParams
from nvisy_connectors.object.uploads import WORTH_BYTES, UploadAhead

OPEN_PARTS = 64
"""Partitions that are written at once. One more closes the part that was written to longest ago;
rows for it that come later begin another part."""

WAITING_BYTES = 128 * MIB
"""What all open parts together keep in memory, at most; then the largest becomes a row group."""


@dataclass
class Part:
    """A part in a file of this machine."""

    file: Path
    writer: PartWriter
    record: str | None
    folder: str
    number: int
    """Among those that become objects together."""
    ahead: UploadAhead | None = None
    is_tried: bool = False
    """Whether it may have become an object."""
    is_published: bool = False


class OpenParts:
    """Writes rows to the part of their partition; all of it blocks, for threads.

    Args:
        params: What the sink was told.
    """

    def __init__(self, params: WriteParams) -> None:
        self._params = params
        self._open: OrderedDict[str, Part] = OrderedDict()
        self._number = 0
        self._begun = 0
        self.closed: list[Part] = []
        """Whole parts that are not published yet."""

    def open_first(self, folders: Iterable[str]) -> list[str]:
        """Folders in the order in which the fewest parts are closed."""
        return sorted(folders, key=lambda folder: folder not in self._open)

    def write(
        self, spool: Path, rows: pa.RecordBatch, *, record: str | None = None, folder: str = ""
    ) -> None:
        """Add rows to the part of a folder.

        Args:
            spool: Where a new part is made.
            rows: What to write.
            record: Id of the one record that the part holds.
            folder: Folder of the partition.
        """
        part = self._part(spool, rows.schema, record, folder)
        part.writer.write(rows)
        if record is not None or part.writer.size() >= self._params.part_bytes:
            self._close(folder)
        elif folder:
            self._spare()

    def large(self) -> list[Part]:
        """Parts that are worth to be sent before they are whole."""
        parts = [*self._open.values(), *self.closed]
        return [part for part in parts if part.file.stat().st_size >= WORTH_BYTES]

    def published(self) -> None:
        """The parts that were closed are objects now."""
        self.closed.clear()
        self._begun = 0

    def close(self) -> None:
        """Complete all parts."""
        for folder in list(self._open):
            self._close(folder)

    def abandon(self) -> None:
        """Let go of files that nobody wants any more."""
        for part in self._open.values():
            with suppress(OSError):  # a full disk
                part.writer.close()

    def _part(self, spool: Path, schema: pa.Schema, record: str | None, folder: str) -> Part:
        if folder not in self._open:
            if len(self._open) >= OPEN_PARTS:
                self._close(next(iter(self._open)))
            file = spool / f"{self._number}"
            self._number += 1
            writer = WRITERS[self._params.format](file, schema, self._params)
            self._open[folder] = Part(file, writer, record, folder, self._begun)
            self._begun += 1
        self._open.move_to_end(folder)
        return self._open[folder]

    def _spare(self) -> None:
        """Keep what waits in all parts together within bounds."""
        waiting = {folder: part.writer.waiting_bytes for folder, part in self._open.items()}
        if sum(waiting.values()) > WAITING_BYTES:
            largest = max(waiting, key=waiting.__getitem__)
            self._open[largest].writer.flush()

    def _close(self, folder: str) -> None:
        part = self._open[folder]
        part.writer.close()
        del self._open[folder]
        self.closed.append(part)
