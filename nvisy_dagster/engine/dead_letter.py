"""Dead letters: records that failed, with why and where, kept as Arrow files per node and epoch.

They are made durable before the barrier of their epoch is passed on, so a checkpoint never covers a
record that is neither written, dropped nor kept here.
"""

import datetime as dt
from pathlib import Path

import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.engine.materialized import PartWriter
from nvisy_dagster.engine.rejection import Rejected

REASON = pa.schema([
    pa.field("node", pa.string(), nullable=False),
    pa.field("tag", pa.string(), nullable=False),
    pa.field("message", pa.string(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("failed_at", pa.timestamp("us", "UTC"), nullable=False),
])
"""Why a record failed; a dead letter has these columns and `record`, a struct of all columns of the
record as it reached the node."""


class DeadLetters:
    """The dead letters of one node.

    Args:
        folder: Where its parts are kept.
        node: Id of the node.
        run_id: Run in which they fail.
        after_epoch: Epoch of the checkpoint; parts after it are removed.
    """

    def __init__(self, folder: Path, node: str, run_id: str, after_epoch: int) -> None:
        self._folder = folder
        self._node = node
        self._run_id = run_id
        self._after_epoch = after_epoch
        # A node that never failed leaves no folder behind.
        self._parts = PartWriter(folder, after_epoch) if folder.exists() else None

    async def add(self, rejected: Rejected) -> None:
        """Keep records that were refused."""
        letters = await to_thread.run_sync(self._letters, rejected)
        if self._parts is None:
            self._parts = PartWriter(self._folder, self._after_epoch)
        await self._parts.write(letters)

    async def commit(self, epoch: int) -> None:
        """Make the letters of this epoch durable."""
        if self._parts is not None:
            await self._parts.commit(epoch)

    def _letters(self, rejected: Rejected) -> pa.RecordBatch:
        records = rejected.records
        n = records.num_rows
        whole = pa.StructArray.from_arrays(records.columns, fields=list(records.schema))
        return pa.RecordBatch.from_arrays(
            [
                pa.repeat(pa.scalar(self._node), n),
                pa.repeat(pa.scalar(rejected.tag), n),
                pa.array(rejected.reasons, pa.string()),
                pa.repeat(pa.scalar(self._run_id), n),
                pa.repeat(pa.scalar(dt.datetime.now(dt.UTC), pa.timestamp("us", "UTC")), n),
                whole,
            ],
            schema=REASON.append(pa.field("record", whole.type, nullable=False)),
        )
