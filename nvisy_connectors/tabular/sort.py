"""The action `sort`."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from nvisy_connectors.tabular.arranging import Ranks, arranged, ranks_of
from nvisy_connectors.tabular.keys import Keys
from nvisy_connectors.tabular.sort_keys import SortKey, columns_of, sql_order, wrong_columns
from nvisy_connectors.tabular.spilling import RECORDS, ROW, MemoryLimit, Spilling, numbered
from nvisy_dagster.sdk import (
    BlockingAction,
    Capabilities,
    EdgeType,
    Params,
    raise_mistakes,
)

PLACES = 1 << 16
"""Records whose places are told at once."""


class SortParams(Params):
    """The order of the records."""

    by: list[SortKey | str] = Field(min_length=1, examples=[["created"]])
    """Columns, the most important first: each a name, or an object with `column`, `descending` and
    `nulls`. Records that are equal in all of them keep the order in which the sources told them."""
    memory_limit: MemoryLimit = "512MB"
    """Memory for the keys, such as `512MB` or `2GB`; what does not fit is written to disk."""


class Sort(BlockingAction[SortParams]):
    """Put all records in order.

    The order is kept on the way to the sinks. A sink that replaces what was made of a document
    before needs all of a document in one epoch: behind a sort that may be all records.
    """

    name = "sort"
    capabilities = Capabilities()
    requires = ("duckdb",)
    extra = "tabular"
    drops = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the base's own
        super().__init__(*args, **kwargs)
        self._spilling = Spilling()

    def output(self, incoming: EdgeType) -> EdgeType:
        """The type that came in.

        Raises:
            ConfigError: A column does not exist, or has no order.
        """
        raise_mistakes(list(wrong_columns("by", columns_of(self.params.by), incoming.schema)))
        return incoming

    def gather(self, records: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """The records in order."""
        sizes: list[tuple[int, int]] = []
        ranks = self._ranks(records, scratch, sizes)
        if ranks is not None:
            yield from arranged(records, ranks, sum(size for _, size in sizes), scratch)

    def interrupt(self) -> None:
        """End the query that is under way."""
        self._spilling.interrupt()

    def _ranks(
        self, records: Iterable[pa.RecordBatch], scratch: Path, sizes: list[tuple[int, int]]
    ) -> Ranks | None:
        """The rank of each record; `None` if there is none. Rows and bytes go to `sizes`."""
        given = Keys(columns_of(self.params.by))

        def keys(batch: pa.RecordBatch) -> pa.RecordBatch:
            self.output(EdgeType("row", batch.schema))  # only now known of some sources
            sizes.append((batch.num_rows, batch.nbytes))
            return given.of(batch)

        reader = numbered(self._spilling.noted(map(keys, records)))
        if reader is None:
            return None
        with self._spilling.database(scratch, self.params.memory_limit) as database:
            database.register(RECORDS, reader)
            order = sql_order(self.params.by, given)
            query = f"SELECT {ROW} FROM {RECORDS} ORDER BY {order}"  # noqa: S608 - no names
            # All is read before the first place is known.
            places = iter(database.sql(query).to_arrow_reader(PLACES))
            first = next(places, None)
            count = sum(rows for rows, _ in sizes)
            return None if first is None else ranks_of(chain([first], places), count, scratch)
