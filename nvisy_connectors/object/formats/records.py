"""Records of which some are bad, in the order of their source."""

import json
from bisect import bisect_left
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import pyarrow as pa

from nvisy_dagster.sdk import RejectedRecord

KEPT_BYTES = 64 << 10
"""Longest row, as JSON, that is kept of one that is refused."""

TORN = {"torn": True}
"""In what is known of a bad record: the object breaks off there, and may have held more."""


@dataclass(frozen=True)
class Records:
    """Neighbouring records: rows, and bad ones between them."""

    rows: pa.RecordBatch
    bad: list[tuple[int, RejectedRecord]]
    """The bad ones by the number of the record that they are, in order."""

    @property
    def count(self) -> int:
        """How many there are."""
        return self.rows.num_rows + len(self.bad)

    def cut(self, start: int, end: int) -> tuple[pa.RecordBatch, list[RejectedRecord]]:
        """The rows and the bad ones among some neighbouring records."""
        first, last = (bisect_left(self.bad, at, key=itemgetter(0)) for at in (start, end))
        rows = self.rows.slice(start - first, end - last - (start - first))
        return rows, [record for _, record in self.bad[first:last]]


def kept_row(row: pa.RecordBatch) -> bytes | None:
    """What a dead letter shows of a single row that was refused: JSON, if it is not too long."""
    try:
        values = row.to_pylist()[0]
    except OverflowError:  # a time that Python has none for
        names = row.schema.names
        values = {name: shown_value(row.column(place)[0]) for place, name in enumerate(names)}
    text = json.dumps(values, default=str, ensure_ascii=False)
    data = text.encode(errors="backslashreplace")
    return data if len(data) <= KEPT_BYTES else None


def shown_value(value: pa.Scalar) -> Any:  # noqa: ANN401 - any value
    """A value of Python, or what tells of one that it has none for."""
    try:
        return value.as_py()
    except OverflowError:
        is_count = isinstance(value, pa.TimestampScalar | pa.DurationScalar)
        return value.value if is_count else f"a {value.type} that is too far"
