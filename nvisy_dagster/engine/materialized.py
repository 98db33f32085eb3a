"""Materialized outputs: Arrow IPC parts on disk, one per epoch, and their manifest."""

import os
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
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
from nvisy_dagster.engine.message import Removal
from nvisy_dagster.engine.storage import fetch, names, publish, remove_file, reveal, told

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


async def read_epochs(
    manifests: Sequence[Manifest], after_epoch: int
) -> AsyncGenerator[tuple[str, pa.RecordBatch | Removal, int | None], None]:
    """The batches that one stage made after an epoch, each with the name of its output.

    All outputs are read together, epoch by epoch: first what it removes, then its records. The last
    batch of an epoch comes with its number.
    Only there may a barrier be cut: a source record may have left records in several outputs, and
    they stay in one epoch.

    Raises:
        StorageError: A part is gone or damaged.
    """
    parts = [
        (part.epoch, not removed, place, part)
        for place, manifest in enumerate(manifests)
        for removed, files in ((False, manifest.parts), (True, manifest.removed))
        for part in files
        if part.epoch > after_epoch
    ]
    parts.sort(key=lambda found: found[:3])
    for number, (epoch, is_data, place, part) in enumerate(parts):
        last = number + 1 == len(parts) or parts[number + 1][0] > epoch
        manifest = manifests[place]
        folder = Path(manifest.folder) if is_data else Path(manifest.folder) / "removed"
        async with aclosing(_read(folder / part.file)) as batches:
            async for batch, is_last in batches:
                message = batch if is_data else Removal.from_batch(batch)
                yield manifest.output, message, epoch if last and is_last else None


async def _read(path: Path) -> AsyncGenerator[tuple[pa.RecordBatch, bool], None]:
    try:
        path = await to_thread.run_sync(fetch, path)
        # Read, not mapped: mapped pages would count as memory and grow with the data.
        with pa.OSFile(str(path), "rb") as file:
            reader = await to_thread.run_sync(pa.ipc.open_file, file)
            last = reader.num_record_batches - 1
            for number in range(last + 1):
                yield await to_thread.run_sync(reader.get_batch, number), number == last
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(
            f"{path}, records that an earlier stage made, is gone or damaged: {error}",
            remedy=BEGIN_ANEW,
        ) from error
