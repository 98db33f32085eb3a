"""Materialized outputs: Arrow IPC parts on disk, one per epoch, and their manifest."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pyarrow as pa
from anyio import to_thread
from pydantic import BaseModel, ConfigDict

from nvisy_dagster.engine.checkpoint import Part
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.storage import sync_folder


class Manifest(BaseModel):
    """What a materialized output consists of; all that travels between Dagster ops."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    progress: str
    """Names the attempt chain that wrote it."""
    output: str
    folder: str
    parts: list[Part]

    @property
    def rows(self) -> int:
        """Records in all parts."""
        return sum(part.rows for part in self.parts)


class PartWriter:
    """Writes one materialized output, a part per epoch.

    A part is written under a temporary name and renamed when its epoch commits; parts of epochs
    after the checkpoint are removed when the stage starts again.
    """

    def __init__(self, folder: Path, after_epoch: int) -> None:
        self._folder = folder
        self._writer: Any = None
        self._stream: Any = None
        self._rows = 0
        self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            if file.suffix == ".tmp" or int(file.stem) > after_epoch:
                file.unlink()

    async def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch to the open part."""
        await to_thread.run_sync(self._write, batch)

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._stream = pa.OSFile(str(self._folder / "part.tmp"), "wb")
            self._writer = pa.ipc.new_file(self._stream, batch.schema)
        self._writer.write_batch(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes

    async def commit(self, epoch: int) -> Part | None:
        """Make the epoch's part durable; `None` when the epoch had no records."""
        return await to_thread.run_sync(self._commit, epoch)

    def _commit(self, epoch: int) -> Part | None:
        if self._writer is None:
            return None
        failpoint("part.before_close")
        self._close()
        temporary = self._folder / "part.tmp"
        final = self._folder / f"{epoch:010d}.arrow"
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(final)
        sync_folder(self._folder)
        failpoint("part.after_rename")
        part = Part(file=final.name, epoch=epoch, rows=self._rows, bytes=self._bytes)
        self._rows = self._bytes = 0
        return part

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._stream.close()
            self._writer = self._stream = None

    async def aclose(self) -> None:
        """Close the open part without publishing it."""
        await to_thread.run_sync(self._close)


async def read_parts(
    manifest: Manifest, start: int
) -> AsyncGenerator[tuple[pa.RecordBatch, int | None], None]:
    """Batches from part `start` on, each with the number of parts read once the part is whole.

    Only between parts may a barrier be cut, so that all records made of one source record stay in
    one epoch.
    """
    for index in range(start, len(manifest.parts)):
        path = Path(manifest.folder) / manifest.parts[index].file
        # Read, not mapped: mapped pages would count as memory and grow with the data.
        with pa.OSFile(str(path), "rb") as file:
            reader = await to_thread.run_sync(pa.ipc.open_file, file)
            last = reader.num_record_batches - 1
            for number in range(last + 1):
                batch = await to_thread.run_sync(reader.get_batch, number)
                yield batch, index + 1 if number == last else None
