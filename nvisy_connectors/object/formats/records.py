"""Records of which some are bad, in the order of their source."""

from bisect import bisect_left
from dataclasses import dataclass
from operator import itemgetter

import pyarrow as pa

from nvisy_dagster.sdk import RejectedRecord


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
