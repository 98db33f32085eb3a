"""The action `limit`."""

from collections.abc import Iterable

import pyarrow as pa
from pydantic import Field

from nvisy_dagster.sdk import Capabilities, EdgeType, Params, SequentialAction

MOST = 2**53
"""Every count of a checkpoint is exact up to there."""


class LimitParams(Params):
    """Which records `limit` lets through, by their places."""

    count: int = Field(ge=1, le=MOST, examples=[10])
    """Most records that are let through."""
    offset: int = Field(default=0, ge=0, le=MOST)
    """Records that are left out before the first one."""


class Limit(SequentialAction[LimitParams]):
    """Let only the first records through.

    It counts the records that reach it, those that failed or were dropped before are none of them.
    As soon as it has enough, what comes before it and feeds nobody else stops reading and working.
    The records keep their ids, their columns and their order.

    Of records that come from one source along one way the first ones are always the same. Where
    several inputs meet, those are the first that come first: put a `sort` before it to choose.
    """

    name = "limit"
    capabilities = Capabilities()

    _taken = 0

    def output(self, incoming: EdgeType) -> EdgeType:
        """The type that came in."""
        return incoming

    def begin(self, taken: int) -> None:
        """Go on with the record behind so many."""
        self._taken = taken

    def take(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        """Those of the batch that are let through."""
        first = min(max(0, self.params.offset - self._taken), batch.num_rows)
        last = min(max(first, self._end - self._taken), batch.num_rows)
        self._taken += batch.num_rows
        return [batch.slice(first, last - first)]

    def has_enough(self) -> bool:
        """Whether the last one that may has come."""
        return self._taken >= self._end

    @property
    def _end(self) -> int:
        return self.params.offset + self.params.count
