"""The action `batch`."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Self

import pyarrow as pa
from pydantic import Field, model_validator

from nvisy_dagster.sdk import Capabilities, EdgeType, Params, SequentialAction

MIB = 1 << 20


class BatchParams(Params):
    """When a batch is whole; whichever comes first."""

    batch_rows: int | None = Field(default=None, ge=1, le=1_000_000, examples=[1000])
    """Records of a batch."""
    batch_bytes: int = Field(default=64 * MIB, ge=1, le=1024 * MIB)
    """Most bytes of a batch in memory; a larger record is a batch by itself."""
    wait_seconds: float | None = Field(default=None, gt=0, le=86_400, examples=[2.5])
    """How long the first record of a batch waits for others. By default until the next checkpoint,
    see `checkpoint.interval_seconds`."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not {"batch_rows", "batch_bytes", "wait_seconds"} & self.model_fields_set:
            raise ValueError('say "batch_rows", "batch_bytes" or "wait_seconds"')
        return self


class Batch(SequentialAction[BatchParams]):
    """Group records into larger batches, for what comes right behind.

    Records flow in batches, and a batch is what an action or a sink gets at once: whose calls are
    expensive gets by with fewer of them. The records themselves stay as they are, with their ids,
    their columns and their order. To make one record of many, use `aggregate`.

    Each batch has exactly `batch_rows` records, but for the last one before a checkpoint: a
    checkpoint covers all that was read before it, so nothing is held back over it. For batches that
    take longer to fill set `checkpoint.interval_seconds` higher. Actions behind this one that
    choose or make records change the sizes: put it right before what needs them.
    """

    name = "batch"
    capabilities = Capabilities()
    drops = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the base's own
        super().__init__(*args, **kwargs)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0
        self._since = 0.0

    def output(self, incoming: EdgeType) -> EdgeType:
        """The type that came in."""
        return incoming

    def rows_per_call(self) -> int | None:
        """Records of a batch."""
        return self.params.batch_rows

    def take(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The batches that are whole now."""
        while batch.num_rows:
            rows = self._room(batch)
            self._hold(batch.slice(0, rows))
            batch = batch.slice(rows)
            if batch.num_rows or self._is_whole():
                yield from self.flush()

    def flush(self) -> Iterable[pa.RecordBatch]:
        """What is held back, as one batch."""
        held, self._held = self._held, []
        self._rows = self._bytes = 0
        if len(held) <= 1:
            return held
        return pa.Table.from_batches(held).unify_dictionaries().combine_chunks().to_batches()

    def due_seconds(self) -> float | None:
        """How long what is held back may still wait."""
        if not self._held or self.params.wait_seconds is None:
            return None
        return max(0.0, self._since + self.params.wait_seconds - time.monotonic())

    def _hold(self, batch: pa.RecordBatch) -> None:
        if not self._held:
            self._since = time.monotonic()
        if batch.num_rows:
            self._held.append(batch)
            self._rows += batch.num_rows
            self._bytes += batch.nbytes

    def _is_whole(self) -> bool:
        return self._rows == self.params.batch_rows or self._bytes >= self.params.batch_bytes

    def _room(self, batch: pa.RecordBatch) -> int:
        """How many records of a batch go with those that are held back."""
        rows = batch.num_rows
        if self.params.batch_rows is not None:
            rows = min(rows, self.params.batch_rows - self._rows)
        room = self.params.batch_bytes - self._bytes
        if batch.slice(0, rows).nbytes > room:
            few = 0
            while rows - few > 1:
                middle = (few + rows) // 2
                few, rows = (
                    (few, middle) if batch.slice(0, middle).nbytes > room else (middle, rows)
                )
            rows = few
        # A record that is too large is alone.
        return rows if rows or self._held else 1
