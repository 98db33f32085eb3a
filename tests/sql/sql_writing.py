"""Writing with the sink as the engine does, in one epoch."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from nvisy_connectors.sql.postgres import PostgresConnection, PostgresSink
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import DataError, Progress


async def write(
    connection: PostgresConnection, batches: Sequence[pa.RecordBatch], **params: Any
) -> dict[int, str]:
    """Write and commit; returns the refused rows of all batches, counted through."""
    refused: dict[int, str] = {}
    chosen = PostgresSinkParams(**{"table": "t", **params})
    async with PostgresSink(chosen, connection, node_id="out") as sink:
        await sink.start(Progress("run", 0))
        first = 0
        for batch in batches:
            try:
                await sink.write(batch)
            except DataError as error:
                refused |= {first + row: reason for row, reason in error.rows.items()}
            first += batch.num_rows
        await sink.commit(1)
        await sink.finish()
    return refused


async def opened(connection: PostgresConnection, **params: Any) -> PostgresSink:
    """A sink of the table `t`, to be left by the caller."""
    sink = PostgresSink(PostgresSinkParams(**{"table": "t", **params}), connection, node_id="out")
    await sink.__aenter__()
    return sink
