"""What happens to records that a component refuses: they are told apart from the others.

A system that names the records it refuses is taken at its word. One that refuses a batch as a whole
is asked for parts of it, by a binary search for the first guilty record after another: with k of n
guilty that takes at most `k * (ceil(log2(n)) + 1)` calls more than the one that was refused.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

import numpy as np
import pyarrow as pa

from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.sdk import DataError
from nvisy_dagster.sdk.identity import format_uuid

ID = "_id"
SHOWN = 3
SIZE_TAGS = frozenset({"too_large", "time_limit", "memory_limit"})
"""Of what is refused for its size, so that the parts of it may well be taken."""


@dataclass(frozen=True)
class Rejected:
    """Records that were refused, one reason each."""

    records: pa.RecordBatch
    reasons: list[str]
    tag: str
    batch: str | None = None
    """The batch that was refused as a whole and narrowed down to them, in words."""


Reject = Callable[[Rejected], None]
R = TypeVar("R")


async def apply_isolating(
    call: Callable[[pa.RecordBatch], Awaitable[R]], batch: pa.RecordBatch, reject: Reject
) -> list[tuple[pa.RecordBatch, R]]:
    """Apply a call to a batch; refused records go to `reject`.

    The others are applied again, unless the refusal brings what was made of them.

    Returns:
        The batches that were taken, each with what the call made of it, in order; only the ids of
        those of which a refusal brought it.
    """
    isolation = _Isolation(call, reject, batch, all_or_nothing=True)
    await isolation.run()
    return isolation.taken


async def write_isolating(
    call: Callable[[pa.RecordBatch], Awaitable[None]],
    batch: pa.RecordBatch,
    reject: Reject,
) -> None:
    """Write a batch; refused records go to `reject`, the others are written.

    Where the system names the records that it refuses, it has written the others.
    """
    await _Isolation(call, reject, batch, all_or_nothing=False).run()


class _Isolation(Generic[R]):
    """Settles one batch: every record is taken or rejected, from the first to the last.

    Args:
        call: What is done with records.
        reject: Gets those that are refused.
        batch: All of them.
        all_or_nothing: Whether a call that names refused records did nothing for the others.
    """

    def __init__(
        self,
        call: Callable[[pa.RecordBatch], Awaitable[R]],
        reject: Reject,
        batch: pa.RecordBatch,
        *,
        all_or_nothing: bool,
    ) -> None:
        self._call = call
        self._reject = reject
        self._batch = batch
        self._all_or_nothing = all_or_nothing
        self.taken: list[tuple[pa.RecordBatch, R]] = []
        # The first call is the one that would have been made anyway.
        self._extra_calls = -1
        self._found = 0
        self._per_found = (max(batch.num_rows, 1) - 1).bit_length() + 1

    async def run(self) -> None:
        rest = self._batch
        while True:
            refusal = await self._try(rest)
            if refusal is None or refusal.error is None:
                return
            rest = await self._settle_first(refusal.records, refusal.error)
            if not rest.num_rows:
                return

    async def _try(self, records: pa.RecordBatch) -> "_Refusal | None":
        """Call once, and again without those that are named if nothing was made of the others.

        Returns:
            Nothing if all were taken; otherwise what is refused as a whole, if anything is left.
        """
        named = False
        while True:
            self._extra_calls += 1
            try:
                self.taken.append((records, await self._call(records)))
            except DataError as error:
                if not error.rows:
                    return _Refusal(records, error)
                named = True
                self._found += len(error.rows)
                self._reject(select(records, error.rows, error.tag))
                if not self._all_or_nothing:
                    return _Refusal(records, None)
                if error.result is not None:
                    return self._take_result(records, error)
                # A loop: a system may name its refused records one at a time.
                records = without(records, error.rows)
                if records.num_rows:
                    continue
            return _Refusal(records, None) if named else None

    def _take_result(self, records: pa.RecordBatch, error: DataError) -> "_Refusal":
        """Take what a call made of the records that it does not name."""
        ids = without(records.select([ID]), error.rows)
        if ids.num_rows:
            # It is what the call returns, as the SDK asks of the component.
            self.taken.append((ids, cast("R", error.result)))
        return _Refusal(ids, None)

    async def _settle_first(self, records: pa.RecordBatch, error: DataError) -> pa.RecordBatch:
        """Settle all up to the first guilty record of some that are refused as a whole.

        Returns:
            The records behind it, of which nothing is known.
        """
        start, end, alone = 0, records.num_rows, records.num_rows == 1
        while end - start > 1:
            middle = start + (end - start) // 2
            refusal = await self._try(records.slice(start, middle - start))
            if refusal is None:
                # What was refused with them is guilty, then.
                start, alone = middle, False
            elif refusal.error is None:
                return records.slice(middle)
            elif refusal.records.num_rows < middle - start:
                # Some were named, and what is left is refused all the same.
                rest = await self._settle_first(refusal.records, refusal.error)
                return _joined(rest, records.slice(middle))
            else:
                end, error, alone = middle, refusal.error, middle - start == 1
        guilty, rest = records.slice(start, 1), records.slice(end)
        if not alone and self._may_ask_again(rest, error):
            refusal = await self._try(guilty)
            if refusal is None or refusal.error is None:
                return rest
            error = refusal.error
        self._found += 1
        rejected = select(guilty, {0: error.message}, error.tag)
        self._reject(replace(rejected, batch=self._described()))
        return rest

    def _may_ask_again(self, rest: pa.RecordBatch, error: DataError) -> bool:
        """Whether a record that was found by elimination may have a call of its own.

        Always when only the size may have been wrong, otherwise while the promised number of calls
        allows it.
        """
        needed = self._extra_calls + 1 + (rest.num_rows > 0)
        return error.tag in SIZE_TAGS or needed <= (self._found + 1) * self._per_found

    def _described(self) -> str | None:
        last = self._batch.num_rows - 1
        if not last:
            return None
        return (
            f"rows 0..{last} of a batch, {describe(self._batch, 0)} to "
            f"{describe(self._batch, last)}, were refused as a whole"
        )


@dataclass(frozen=True)
class _Refusal:
    records: pa.RecordBatch
    error: DataError | None
    """Why these are refused as a whole; `None` if all that is guilty was named."""


def _joined(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    return pa.concat_batches([first, second]) if first.num_rows else second


def select(batch: pa.RecordBatch, guilty: dict[int, str], tag: str) -> Rejected:
    """The guilty rows with their reasons."""
    rows = sorted(guilty)
    return Rejected(batch.take(pa.array(rows, pa.int64())), [guilty[r] for r in rows], tag)


def without(batch: pa.RecordBatch, guilty: dict[int, str]) -> pa.RecordBatch:
    """The innocent rows."""
    mask = np.ones(batch.num_rows, np.bool_)
    mask[list(guilty)] = False
    return batch.filter(pa.array(mask))


def failed_records(node: str, rejected: Rejected) -> NodeError:
    """The error of a node whose policy is to fail: it names the records and their reasons."""
    described = [
        f"record {describe(rejected.records, row)}: {rejected.reasons[row]}"
        for row in range(min(SHOWN, rejected.records.num_rows))
    ]
    more = rejected.records.num_rows - len(described)
    text = "; ".join(described) + (f"; and {more} more" if more > 0 else "")
    if rejected.batch is not None:
        text = f"{text} ({rejected.batch})"
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
