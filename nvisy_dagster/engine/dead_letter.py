"""Dead letters: records that failed, with why and where, kept as Arrow files per node and epoch.

They are made durable before the barrier of their epoch is passed on, and the checkpoint of the
epoch lists their files. So a checkpoint never covers a record that is neither written, dropped nor
kept here, and a file that no checkpoint lists (of an epoch that was never whole, or of a worker
that was taken for dead) holds no letter.
"""

import datetime as dt
import os
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.engine.checkpoint import Part
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.rejection import Rejected
from nvisy_dagster.engine.storage import names, publish, remove_file, safe_name, sync_folder, told
from nvisy_dagster.engine.superseded import OpenLetters
from nvisy_dagster.sdk.identity import child_ids, ids_to_array

REASON = pa.schema([
    pa.field("letter_id", pa.binary(16), nullable=False),
    pa.field("node", pa.string(), nullable=False),
    pa.field("tag", pa.string(), nullable=False),
    pa.field("message", pa.string(), nullable=False),
    pa.field("attempt", pa.int32(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("cursor", pa.string(), nullable=False),
    pa.field("failed_at", pa.timestamp("us", "UTC"), nullable=False),
])
"""What a dead letter says besides its `record`, a struct of all columns of the record as it reached
the node. `cursor` holds the cursors of the sources, as JSON, from which it can be read again."""

PENDING_BYTES = 1 << 20
"""Letters that wait to be written together: one batch of a stream refuses few."""

Attempts = Mapping[bytes, int]
"""Letter -> how often its record has failed at its node."""


def listed_as(node: str) -> str:
    """Name under which a checkpoint lists the letters of a node."""
    return f"dead_letters:{node}"


def letter_ids(node: str, records: pa.RecordBatch) -> pa.Array:
    """Ids of the letters of records that failed at a node: the same whenever they fail there."""
    indexes = np.zeros(records.num_rows, np.int64)
    # A colon is in the id of no node, so no child of the record has this id.
    return ids_to_array(child_ids(records.column("_id"), f"dead_letter:{node}", indexes))


@dataclass(frozen=True)
class LetterOrigin:
    """Where the letters of one node come from.

    Args:
        node: Id of the node.
        run_id: Run in which they fail.
        cursor: Tells where the sources stood at the last checkpoint, as JSON.
        attempts: Of letters that are replayed.
    """

    node: str
    run_id: str
    cursor: Callable[[], str] = lambda: "{}"
    attempts: Attempts = field(default_factory=dict[bytes, int])
    earlier: OpenLetters | None = None
    """Its letters of earlier runs that are open."""


class DeadLetters:
    """The dead letters of one node.

    Args:
        folder: Where the letters of the attempt chain are kept.
        origin: Where these come from.
        listed: What the checkpoint lists for the node; other files are removed.
        lease: Under which they are removed.
    """

    def __init__(
        self,
        folder: Path,
        origin: LetterOrigin,
        listed: Sequence[Part] = (),
        lease: Lease | None = None,
    ) -> None:
        self._folder = folder / safe_name(origin.node)
        self._origin = origin
        # Of its own: a worker that was taken for dead never writes over what is listed.
        self._name = uuid.uuid4().hex[:12]
        self._open: list[_OpenPart] = []
        self._pending: list[_Pending] = []
        self._pending_bytes = 0
        self._turn = anyio.Lock()
        _remove_all_but({part.file for part in listed}, self._folder, lease)

    async def add(self, rejected: Rejected) -> None:
        """Keep records that were refused.

        Raises:
            StorageError: The disk is full or refuses.
        """
        async with self._turn:
            self._pending.append(_Pending(rejected, dt.datetime.now(dt.UTC)))
            self._pending_bytes += rejected.records.nbytes
            if self._pending_bytes >= PENDING_BYTES:
                await to_thread.run_sync(self._write_pending)

    async def commit(self, epoch: int) -> list[Part]:
        """Make the letters of this epoch durable.

        Returns:
            Their files, for the checkpoint to list.

        Raises:
            StorageError: The disk is full or refuses.
        """
        if not self._open and not self._pending:
            return []
        async with self._turn:
            return await to_thread.run_sync(self._commit, epoch)

    async def aclose(self) -> None:
        """Close what is open; it is in no checkpoint."""
        for part in self._open:
            await to_thread.run_sync(part.abandon)
        self._open.clear()
        self._pending.clear()

    def _write_pending(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        for _, alike in groupby(
            pending, lambda one: (one.rejected.records.schema, one.rejected.tag)
        ):
            letters = self._letters(list(alike))
            with told(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._part(letters.schema).write(letters)

    def _part(self, schema: pa.Schema) -> "_OpenPart":
        """A part of one schema: what reaches a node may differ from input to input."""
        for part in self._open:
            if part.schema == schema:
                return part
        file = self._folder / f"{self._name}-{len(self._open)}.tmp"
        self._open.append(_OpenPart(file, schema))
        return self._open[-1]

    def _commit(self, epoch: int) -> list[Part]:
        self._write_pending()
        parts: list[Part] = []
        failpoint("dead_letters.before_rename")
        with told(self._folder):
            for number, part in enumerate(self._open):
                part.close()
                final = self._folder / f"{epoch:010d}-{self._name}-{number}.arrow"
                part.file.replace(final)
                parts.append(
                    Part(file=final.name, epoch=epoch, rows=part.rows, bytes=part.bytes_written)
                )
            sync_folder(self._folder)
        for part in parts:
            publish(self._folder / part.file)
        failpoint("dead_letters.after_rename")
        self._open.clear()
        return parts

    def _letters(self, alike: Sequence["_Pending"]) -> pa.RecordBatch:
        """The letters of records of one schema that were refused with one tag."""
        origin = self._origin
        refused = [one.rejected for one in alike]
        records = refused[0].records
        if len(refused) > 1:
            records = pa.concat_batches([one.records for one in refused])
        n = records.num_rows
        times = [one.failed_at for one in alike for _ in one.rejected.reasons]
        ids = letter_ids(origin.node, records)
        attempts = np.ones(n, np.int32)
        if origin.attempts:
            attempts += np.array([origin.attempts.get(id_, 0) for id_ in ids.to_pylist()], np.int32)
        if origin.earlier is not None:
            attempts += origin.earlier.attempts(records.column("_id"))
        whole = pa.StructArray.from_arrays(records.columns, fields=list(records.schema))
        return pa.RecordBatch.from_arrays(
            [
                ids,
                pa.repeat(pa.scalar(origin.node), n),
                pa.repeat(pa.scalar(refused[0].tag), n),
                pa.array([reason for one in refused for reason in one.reasons], pa.string()),
                pa.array(attempts),
                pa.repeat(pa.scalar(origin.run_id), n),
                pa.repeat(pa.scalar(origin.cursor()), n),
                pa.array(times, pa.timestamp("us", "UTC")),
                whole,
            ],
            schema=REASON.append(pa.field("record", whole.type, nullable=False)),
        )


@dataclass(frozen=True)
class _Pending:
    """Records that were refused together."""

    rejected: Rejected
    failed_at: dt.datetime

    def looks(self) -> tuple[pa.Schema, str]:
        """What is the same of all letters that are made together."""
        return self.rejected.records.schema, self.rejected.tag


class _OpenPart:
    """An Arrow file that is being written."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self.file = file
        self.schema = schema
        self.rows = 0
        self.bytes_written = 0
        self._stream: Any = pa.OSFile(str(file), "wb")
        self._writer: Any = pa.ipc.new_file(self._stream, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)
        self.rows += batch.num_rows
        self.bytes_written += batch.nbytes

    def close(self) -> None:
        """Close the file; it is durable, under this name."""
        self._writer.close()
        self._stream.close()
        with self.file.open("rb+") as file:
            os.fsync(file.fileno())

    def abandon(self) -> None:
        self._stream.close()
        self.file.unlink(missing_ok=True)


def _remove_all_but(listed: Collection[str], folder: Path, lease: Lease | None) -> None:
    # What an object store holds, and what was not published there.
    there = {*names(folder), *(os.listdir(folder) if folder.is_dir() else ())}  # noqa: PTH208 - names
    if lease is not None:
        # After the listing: a later holder's files, whose names are its own, are not in it.
        lease.check()
    for name in there:
        if name.endswith((".tmp", ".arrow")) and name not in listed:
            remove_file(folder / name)
