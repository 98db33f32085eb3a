"""Materialized outputs: Arrow IPC parts on disk, one per epoch, and their manifest."""

import os
import re
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
from anyio import to_thread
from pydantic import BaseModel, ConfigDict

from nvisy_dagster.engine.checkpoint import Part
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import BEGIN_ANEW, StorageError
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.storage import fetch, names, publish, remove_file, reveal, told

REMOVED = "removed"
"""Name of the folder of removals within that of the output."""

_PART = re.compile(r"(\d{10,})(-\d+)?\.arrow")
_HOLDER = re.compile(r"-(\d+)\.(?:arrow|tmp)$")


class Manifest(BaseModel):
    """What a materialized output consists of; all that travels between Dagster ops."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    progress: str
    """Names the attempt chain that wrote it."""
    output: str
    folder: str
    parts: list[Part]
    generation: str = ""
    """That of the checkpoint which lists the parts."""
    removed: list[Part] = []
    """Files of what incremental runs remove, in a folder `removed` of their own."""

    @property
    def rows(self) -> int:
        """Records in all parts."""
        return sum(part.rows for part in self.parts)


class PartWriter:
    """Writes one materialized output, a part per epoch.

    A part is written under a temporary name and renamed when its epoch commits; parts of epochs
    after the checkpoint are removed when the stage starts again. Calls may overlap.

    Args:
        folder: Where its parts are kept.
        after_epoch: Epoch of the checkpoint.
        lease: Under which they are written.
    """

    def __init__(self, folder: Path, after_epoch: int, lease: Lease | None = None) -> None:
        self._folder = folder
        self._lease = lease
        # Holders of different leases never write to one file.
        self._suffix = "" if lease is None else f"-{lease.token}"
        self._temporary = folder / f"part{self._suffix}.tmp"
        self._writer: Any = None
        self._stream: Any = None
        self._rows = 0
        self._bytes = 0
        self._turn = anyio.Lock()
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in {*names(folder), *(file.name for file in folder.iterdir())}:
                holder = _HOLDER.search(name)
                if lease is not None and holder and int(holder[1]) > lease.token:
                    continue  # of a later holder: this one was taken for dead
                found = _PART.fullmatch(name)
                if name.endswith(".tmp") or (found and int(found[1]) > after_epoch):
                    remove_file(folder / name)

    async def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch to the open part.

        Raises:
            StorageError: The disk is full or refuses.
        """
        async with self._turn:
            await to_thread.run_sync(self._write, batch)

    def _write(self, batch: pa.RecordBatch) -> None:
        with told(self._folder):
            if self._writer is None:
                self._stream = pa.OSFile(str(self._temporary), "wb")
                self._writer = pa.ipc.new_file(self._stream, batch.schema)
            self._writer.write_batch(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes

    async def commit(self, epoch: int) -> Part | None:
        """Make the epoch's part durable; `None` when the epoch had no records.

        Raises:
            StorageError: The disk is full or refuses.
        """
        async with self._turn:
            return await to_thread.run_sync(self._commit, epoch)

    def _commit(self, epoch: int) -> Part | None:
        if self._writer is None:
            return None
        failpoint("part.before_close")
        final = self._folder / f"{epoch:010d}{self._suffix}.arrow"
        with told(self._folder):
            self._close()
            with self._temporary.open("rb+") as file:
                os.fsync(file.fileno())
        if self._lease is not None:
            self._lease.check()
        reveal(self._temporary, final, self._lease)
        publish(final)
        failpoint("part.after_rename")
        part = Part(file=final.name, epoch=epoch, rows=self._rows, bytes=self._bytes)
        self._rows = self._bytes = 0
        return part

    def _close(self) -> None:
        writer, stream, self._writer, self._stream = self._writer, self._stream, None, None
        try:
            if writer is not None:
                writer.close()
        finally:
            if stream is not None:
                stream.close()

    async def aclose(self) -> None:
        """Close the open part without publishing it."""
        # Its footer may not fit on a full disk; what is not committed is not wanted anyway.
        with suppress(OSError):
            await to_thread.run_sync(self._close)


@dataclass
class EpochParts:
    """What one stage made in one epoch: the files of each output by its name."""

    epoch: int
    removed: list[tuple[str, Path]] = field(default_factory=list[tuple[str, Path]])
    records: list[tuple[str, Path]] = field(default_factory=list[tuple[str, Path]])
    rows: int = 0
    """How many records there are."""


def parts_by_epoch(manifests: Sequence[Manifest], after_epoch: int) -> list[EpochParts]:
    """What the outputs of one stage consist of after an epoch.

    A source record may have left records in several outputs, which stay in one epoch: so all
    outputs are read together, epoch by epoch.
    """
    found: dict[int, EpochParts] = {}
    for manifest in manifests:
        folder = Path(manifest.folder)
        for part in manifest.removed:
            parts = found.setdefault(part.epoch, EpochParts(part.epoch))
            parts.removed.append((manifest.output, folder / REMOVED / part.file))
        for part in manifest.parts:
            parts = found.setdefault(part.epoch, EpochParts(part.epoch))
            parts.records.append((manifest.output, folder / part.file))
            parts.rows += part.rows
    return [found[epoch] for epoch in sorted(found) if epoch > after_epoch]


def read_upto(cursor: Mapping[str, Any] | None) -> tuple[int, Mapping[str, int]]:
    """How far the outputs of an earlier stage were read.

    Returns:
        The epoch of which all was read, and how many records of the next one were, by output.
    """
    return (0, {}) if cursor is None else (cursor["epoch"], cursor.get("rows", {}))


async def read_part(path: Path) -> AsyncGenerator[pa.RecordBatch, None]:
    """The batches of a part, one after the other.

    Raises:
        StorageError: It is gone or damaged.
    """
    with _readable(path):
        path = await to_thread.run_sync(fetch, path)
        # Read, not mapped: mapped pages would count as memory and grow with the data.
        with pa.OSFile(str(path), "rb") as file:
            reader = await to_thread.run_sync(pa.ipc.open_file, file)
            for number in range(reader.num_record_batches):
                yield await to_thread.run_sync(reader.get_batch, number)


def part_batches(path: Path) -> Generator[pa.RecordBatch]:
    """The batches of a part, for one that is in a thread already.

    Raises:
        StorageError: It is gone or damaged.
    """
    with _readable(path), pa.OSFile(str(fetch(path)), "rb") as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def read_column(path: Path, name: str) -> pa.ChunkedArray:
    """One column of a part.

    Raises:
        StorageError: It is gone or damaged.
    """
    with _readable(path), pa.OSFile(str(fetch(path)), "rb") as file:
        index = pa.ipc.open_file(file).schema.get_field_index(name)
        options = pa.ipc.IpcReadOptions(included_fields=[index])
        return pa.ipc.open_file(file, options=options).read_all().column(0)


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(
            f"{path}, records that an earlier stage made, is gone or damaged: {error}",
            remedy=BEGIN_ANEW,
        ) from error
