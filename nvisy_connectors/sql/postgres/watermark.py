"""From where an incremental run reads rows, so that none is missed which became visible late; pure.

Values of the cursor column are whole numbers here: microseconds of a time, days of a date.

A row becomes visible when its transaction commits, which may be long after its value was settled:
then it appears below the highest value that a run has seen. If no transaction takes longer than
the lag, all rows below a moment's highest value are visible once the lag has passed.

- Of **times** the value itself says when it was settled: a run reads from the highest value of the
  run before it, less the lag.
- **Numbers** are drawn from a sequence by a transaction that holds a lock on the table from before
  it draws until it ends. Once all that held one when the highest value was looked up have ended,
  every row up to it is visible: the next run begins right there.
- Where those locks cannot be seen, or numbers are settled in another way, each run notes what the
  highest value was, and when. A later run reads from the newest such note that was older than the
  lag when the run before it began.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.sdk import Bookmark

ROW = pa.schema([
    pa.field("kind", pa.string(), nullable=False),
    pa.field("id", pa.binary(16)),
    pa.field("value", pa.int64()),
    pa.field("moment", pa.timestamp("us", "UTC")),
])
"""Rows of a bookmark. `begin`: value from which the next run reads. `note`: highest value, and
when. `row`: a row that the next run reads again, and its value."""

NOTHING = -(2**63)
"""A value below all others."""

pc: Any = pyarrow.compute  # its functions are made at run time

Mask = npt.NDArray[np.bool_]

NOTES = 100
"""How many are kept at most; the oldest that still matters always is."""


@dataclass(frozen=True)
class Note:
    """The highest value at a moment."""

    moment: int
    """Microseconds, by the clock of the server."""
    value: int


@dataclass(frozen=True)
class Seen:
    """What a run finds when it begins."""

    now: int
    """Microseconds, by the clock of the server."""
    oldest: int | None
    """When the oldest of the other transactions began, as far as the user may see them."""
    highest: int | None
    """Highest value that is visible; `None` when there is none."""
    settled: bool = False
    """Whether every row up to the highest value is visible for certain."""

    def unsettled(self) -> "Seen":
        """The same, if nothing is certain."""
        return replace(self, settled=False)

    def lag(self, least_microseconds: int) -> int:
        """How long ago values may have been settled that are not visible yet."""
        age = 0 if self.oldest is None else self.now - self.oldest
        return max(least_microseconds, age)


@dataclass(frozen=True)
class Known:
    """What the last successful run left."""

    begin: int | None = None
    """Value from which to read; `None` for all."""
    notes: Sequence[Note] = ()
    rows: pa.Table | None = None
    """Columns `id` and `value` of what is read again."""


def known(bookmark: Bookmark) -> Known:
    """What a bookmark says; nothing if it is not to be trusted."""
    batches = [batch.cast(ROW) for batch in bookmark.last if batch.num_rows]
    if not bookmark.trusted or not batches:
        return Known()
    table = pa.Table.from_batches(batches)
    kinds = table.column("kind").to_numpy()
    begins = table.filter(pa.array(kinds == "begin")).column("value").to_pylist()
    notes = table.filter(pa.array(kinds == "note"))
    moments = notes.column("moment").cast(pa.int64()).to_pylist()
    pairs = zip(moments, notes.column("value").to_pylist(), strict=True)
    rows = table.filter(pa.array(kinds == "row")).select(["id", "value"])
    return Known(
        begin=max(begins, default=None),
        notes=sorted((Note(*pair) for pair in pairs), key=lambda note: note.moment),
        rows=rows,
    )


def next_of_times(seen: Seen, lag: int, unit: int) -> int | None:
    """Where the next run begins, by a column of times.

    Args:
        seen: What this run found.
        lag: Microseconds.
        unit: Microseconds of one step of the values.
    """
    if seen.highest is None:
        return None
    # A row that is dated ahead must not hide what is written until then.
    highest = min(seen.highest, seen.now // unit)
    return highest - -(-seen.lag(lag) // unit)


def next_of_numbers(
    seen: Seen, lag: int, notes: Sequence[Note], begin: int | None
) -> tuple[int | None, Sequence[Note]]:
    """Where the next run begins, by a column of numbers, and the notes that it needs.

    Args:
        seen: What this run found.
        lag: Microseconds.
        notes: Of earlier runs.
        begin: Where this run begins: all below was read before.
    """
    if seen.highest is None:
        return None, []
    if seen.settled:
        return seen.highest, [Note(seen.now, seen.highest)]
    settled = seen.now - seen.lag(lag)
    # Numbers that began anew are not told by notes of the old ones.
    notes = [n for n in notes if n.value <= seen.highest]
    notes.append(Note(seen.now, seen.highest))
    old = [note for note in notes if note.moment <= settled]
    new = [note for note in notes if note.moment > settled]
    if len(new) > NOTES:
        # Those in between are not missed: a lower value is always safe.
        new = [*new[: NOTES // 2], *new[-NOTES // 2 :]]
    safe = [value for value in (begin, *(note.value for note in old)) if value is not None]
    return max(safe, default=None), [*old[-1:], *new]


def head(begin: int | None, notes: Iterable[Note]) -> pa.RecordBatch:
    """Rows of the next bookmark that it begins with."""
    rows = [{"kind": "begin", "value": begin}]
    rows += [{"kind": "note", "value": n.value, "moment": n.moment} for n in notes]
    return pa.RecordBatch.from_pylist(rows, schema=ROW)


def begun(seen: Seen) -> pa.RecordBatch:
    """What tells later runs that one began, and may have sent rows whatever becomes of it."""
    return head(None, [Note(seen.now, NOTHING)])


def rows_from(begin: int, ids: pa.Array, values: pa.Array) -> pa.RecordBatch | None:
    """Rows of the next bookmark for those that the next run, which begins there, reads again."""
    again = pc.greater_equal(values, begin).fill_null(False)  # noqa: FBT003 - Arrow's
    ids, values = ids.filter(again), values.filter(again)
    count = len(ids)
    if not count:
        return None
    kinds = pa.repeat(pa.scalar("row"), count)
    return pa.RecordBatch.from_arrays(
        [kinds, ids, values, pa.nulls(count, ROW.field("moment").type)], schema=ROW
    )


class Window:
    """The rows that were read before and are read again, by id.

    Args:
        last: Columns `id` and `value`.
    """

    def __init__(self, last: pa.Table | None) -> None:
        ids = [] if last is None else last.column("id").to_pylist()
        values = [] if last is None else last.column("value").to_pylist()
        self._values: dict[bytes, int] = dict(zip(ids, values, strict=True))

    def compare(self, ids: pa.Array, values: pa.Array) -> tuple[Mask, Mask]:
        """Of each row, whether it was there, and whether it has the same value still."""
        if not self._values:
            none = np.zeros(len(ids), np.bool_)
            return none, none
        before = [self._values.get(one) for one in ids.to_pylist()]
        was_there = np.array([value is not None for value in before], np.bool_)
        same = [old == new for old, new in zip(before, values.to_pylist(), strict=True)]
        return was_there, np.array(same, np.bool_) & was_there
