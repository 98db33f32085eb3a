"""Driving a sink through an attempt at a run, as the engine does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nvisy_dagster.sdk.sink import Progress


@dataclass(frozen=True)
class Step:
    """One batch to write, and the epoch to commit after it."""

    rows: pa.RecordBatch | None
    """`None`: nothing is written."""
    epoch: int | None = None
    """`None`: nothing is committed."""


async def attempt(
    sink: Any,  # noqa: ANN401 - a sink of any params
    progress: Progress,
    steps: Sequence[Step],
    *,
    crash: bool = False,
) -> None:
    """Start an opened sink, take the steps, and finish unless it is to crash."""
    await sink.start(progress)
    for step in steps:
        if step.rows is not None:
            for unit in sink.split(step.rows):
                await sink.write(unit)
        if step.epoch is not None:
            await sink.commit(step.epoch)
    if not crash:
        await sink.finish()
