"""What happens to records that a component refuses: the `on_error` policy."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.sdk import DataError
from nvisy_dagster.sdk.identity import format_uuid

SHOWN = 3


@dataclass(frozen=True)
class Rejected:
    """Records that were refused, one reason each."""

    records: pa.RecordBatch
    reasons: list[str]
    tag: str


Reject = Callable[[Rejected], None]
R = TypeVar("R")


async def apply_isolating(
    call: Callable[[pa.RecordBatch], Awaitable[R]], batch: pa.RecordBatch, reject: Reject
) -> list[tuple[pa.RecordBatch, R]]:
    """Apply a call to a batch; refused records go to `reject`, the others are applied again.

    A batch that is refused as a whole, with no word of which rows are guilty, is halved until they
    stand alone.

    Returns:
        The batches that were taken, each with what the call made of it, in order.
    """
    while True:
        try:
            return [(batch, await call(batch))]
        except DataError as error:
            if not error.rows and batch.num_rows > 1:
                half = batch.num_rows // 2
                first = await apply_isolating(call, batch.slice(0, half), reject)
                return first + await apply_isolating(call, batch.slice(half), reject)
            guilty = error.rows or {0: error.message}
            reject(select(batch, guilty, error.tag))
        # A loop, not a recursion: a system may name its refused records one at a time.
        batch = without(batch, guilty)
        if not batch.num_rows:
            return []


async def write_isolating(
    call: Callable[[pa.RecordBatch], Awaitable[None]],
    batch: pa.RecordBatch,
    reject: Reject,
) -> None:
    """Write a batch; refused records go to `reject`, the others are written."""
    try:
        await call(batch)
    except DataError as error:
        if not error.rows and batch.num_rows > 1:
            half = batch.num_rows // 2
            await write_isolating(call, batch.slice(0, half), reject)
            await write_isolating(call, batch.slice(half), reject)
            return
        reject(select(batch, error.rows or {0: error.message}, error.tag))


def select(batch: pa.RecordBatch, guilty: dict[int, str], tag: str) -> Rejected:
    """The guilty rows with their reasons."""
    rows = sorted(guilty)
    return Rejected(batch.take(pa.array(rows, pa.int64())), [guilty[r] for r in rows], tag)


def without(batch: pa.RecordBatch, guilty: dict[int, str]) -> pa.RecordBatch:
    """The innocent rows."""
    mask = pa.array([row not in guilty for row in range(batch.num_rows)], pa.bool_())
    return batch.filter(mask)


def failed_records(node: str, rejected: Rejected) -> NodeError:
    """The error of a node whose policy is to fail: it names the records and their reasons."""
    described = [
        f"record {describe(rejected.records, row)}: {rejected.reasons[row]}"
        for row in range(min(SHOWN, rejected.records.num_rows))
    ]
    more = rejected.records.num_rows - len(described)
    text = "; ".join(described) + (f"; and {more} more" if more > 0 else "")
    return NodeError(
        node,
        text,
        retryable=False,
        tag=rejected.tag,
        remedy='correct the data, or set "on_error" to "dead_letter" or "drop"',
    )


def describe(records: pa.RecordBatch, row: int) -> str:
    """A record by its id and where it came from."""
    record_id = format_uuid(records.column("_id")[row].as_py())
    source = records.column("_source")[row].as_py()
    if not source or not source["uri"]:
        return record_id
    place = "" if source["position"] is None else f" at {source['position']}"
    return f"{record_id} from {source['uri']}{place}"
