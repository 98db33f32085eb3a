"""The parts that a sink writes at the moment: one, or one per partition."""

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from nvisy_connectors.object.formats.compression import ENDINGS
from nvisy_connectors.object.formats.part_writer import PartWriter, Target
from nvisy_connectors.object.formats.writers import WRITERS
from nvisy_connectors.object.params import MIB, WriteParams
from nvisy_connectors.object.part_file import PartFile
from nvisy_connectors.object.parts import PartName
from nvisy_connectors.object.uploads import WORTH_BYTES, PartUpload

OPEN_PARTS = 64
"""Partitions that are written at once. One more closes the part that was written to longest ago;
rows for it that come later begin another part."""

WAITING_BYTES = 128 * MIB
"""What all open parts together keep in memory, at most; then the largest becomes a row group."""


@dataclass
class Part:
    """A part in a file of this machine."""

    key: str
    """Of the object that it becomes."""
    file: Path | PartFile
    """`PartFile` where no copy has to be kept of what is sent."""
    writer: PartWriter
    upload: PartUpload | None = None
    is_closed: bool = False
    is_sent: bool = False
    """Whether all that can be sent before it is published was."""
    is_tried: bool = False
    """Whether it may have become an object."""
    is_published: bool = False

    @property
    def path(self) -> Path:
        """The file, as long as there is one."""
        return self.file if isinstance(self.file, Path) else self.file.path

    @property
    def bytes_so_far(self) -> int:
        """What was written of it."""
        return self.file.stat().st_size if isinstance(self.file, Path) else self.file.tell()


class OpenParts:
    """Writes rows to the part of their partition; all of it blocks, for threads.

    Args:
        params: What the sink was told.
        spool: Where files are made.
        run: Token of the run, see `PartName`.
        epoch: The next epoch.
        keeps_copies: Whether files stay whole until they are published.
    """

    def __init__(
        self, params: WriteParams, spool: Path, run: str, epoch: int, *, keeps_copies: bool
    ) -> None:
        self._params = params
        self._spool = spool
        self._run = run
        self._epoch = epoch
        self._keeps_copies = keeps_copies
        self._open: OrderedDict[str, Part] = OrderedDict()
        self._files = 0
        self._begun = 0
        """How many become objects together."""
        self.closed: list[Part] = []
        """Whole parts that are not published yet."""

    def open_first(self, folders: Iterable[str]) -> list[str]:
        """Folders in the order in which the fewest parts are closed."""
        return sorted(folders, key=lambda folder: folder not in self._open)

    def write(self, rows: pa.RecordBatch, *, record: str | None = None, folder: str = "") -> None:
        """Add rows to the part of a folder.

        Args:
            rows: What to write.
            record: Id of the one record that the part holds.
            folder: Folder of the partition.
        """
        part = self._part(rows.schema, record, folder)
        part.writer.write(rows)
        if record is not None or part.writer.size() >= self._params.part_bytes:
            self._close(folder)
        elif folder:
            self._spare()

    def large(self) -> list[Part]:
        """Parts that are worth to be sent before they are whole."""
        parts = [*self._open.values(), *self.closed]
        return [part for part in parts if part.bytes_so_far >= WORTH_BYTES]

    def committed(self, epoch: int) -> None:
        """The parts that were closed are objects now, and the next ones are of a later epoch."""
        self.closed.clear()
        self._begun = 0
        self._epoch = epoch + 1

    def close(self) -> None:
        """Complete all parts."""
        for folder in list(self._open):
            self._close(folder)

    def abandon(self) -> None:
        """Let go of files that nobody wants any more."""
        for part in self._open.values():
            with suppress(OSError):  # a full disk
                part.writer.close()

    def _part(self, schema: pa.Schema, record: str | None, folder: str) -> Part:
        if folder not in self._open:
            if len(self._open) >= OPEN_PARTS:
                self._close(next(iter(self._open)))
            path = self._spool / f"{self._files}"
            self._files += 1
            file = path if self._keeps_copies else PartFile(path)
            make = WRITERS[self._params.format]
            extension = make.extension + ENDINGS[self._params.compression]
            key = PartName(self._run, self._epoch, self._begun, extension, record, folder)
            self._open[folder] = Part(str(key), file, make(_target(file), schema, self._params))
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
        part.is_closed = True
        del self._open[folder]
        self.closed.append(part)


def _target(file: Path | PartFile) -> Target:
    return file if isinstance(file, Path) else cast("IO[bytes]", file)
