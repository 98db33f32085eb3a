"""The action `aggregate`."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from nvisy_connectors.tabular.grouping import Grouping, grouping_of
from nvisy_connectors.tabular.measures import Measure
from nvisy_connectors.tabular.spilling import RECORDS, MemoryLimit, Spilling, numbered
from nvisy_dagster.sdk import BlockingAction, Capabilities, DataError, EdgeType, Params
from nvisy_dagster.sdk.envelope import ENVELOPE, ENVELOPE_NAMES

AT_ONCE = 1 << 14
"""Groups that are told at once."""
LISTS_AT_ONCE = 1 << 10
"""The same if all their values are told."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class AggregateParams(Params):
    """What makes a group, and what is made of it."""

    by: list[str] = Field(default=[], max_length=100, examples=[["country"]])
    """Columns whose values make records a group; null is a value here, and NaN one, too. Without
    any, all records are one group."""
    measures: dict[Name, Measure] = Field(
        min_length=1, max_length=500, examples=[{"total": {"function": "sum", "column": "amount"}}]
    )
    """What is made of each group: the name of a column, and a `function` of a `column`."""
    memory_limit: MemoryLimit = "512MB"
    """Memory for the groups, such as `512MB` or `2GB`; what does not fit is written to disk. The
    values of one `list`, and the different values of one `count_distinct`, have to fit."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        seen: set[str] = set()
        places = [(name, ("by", place)) for place, name in enumerate(self.by)]
        places += [(name, ("measures", name)) for name in self.measures]
        for name, place in places:
            if name in ENVELOPE_NAMES and place[0] == "measures":
                raise _misnamed(name, place, "is a column of the envelope")
            if name.lower() in seen:
                raise _misnamed(name, place, "names another column already, whatever its case")
            seen.add(name.lower())
        return self


def _misnamed(name: str, place: tuple[str | int, ...], why: str) -> PydanticCustomError:
    facts = {"name": f'"{name}"', "why": why, "at": place, "remedy": "choose another name"}
    return PydanticCustomError("misnamed", "{name} {why}", facts)


class Aggregate(BlockingAction[AggregateParams]):
    """Make one record of each group of records.

    Its columns are those in `by` and one for each of the `measures`. Types are known before the
    run: a count is an `int64`; a sum of integers an `int64` (of unsigned ones an `uint64`), of
    decimals a `decimal128(38, s)`, of floats a `double`; an average a `double`; `min`, `max`,
    `first` and `last` have the type of their column. A sum of integers or decimals is exact, and
    one that is too large ends the run. null is no value: a group without any has null, but for
    counts, which are 0, and lists, which are empty. Of no records none is made.

    The records come in the order of their groups, null last. Each has an id that follows from the
    node and the values in `by`: what the next run makes of the group replaces it where a sink
    replaces records by their ids. So do groups of the same values from a node of the same id in
    another graph, as ids never tell of graphs: nodes whose records go to one place need different
    ids, whichever graphs they are in. It is a root of its own, without parents, as a group may have
    millions, and without a source; `_created_at` is that of its newest record. All records that
    came in count as passed on.
    """

    name = "aggregate"
    capabilities = Capabilities()
    requires = ("duckdb",)
    extra = "tabular"
    makes = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the base's own
        super().__init__(*args, **kwargs)
        self._spilling = Spilling()
        self._took = 0

    def output(self, incoming: EdgeType) -> EdgeType:
        """Rows of the columns in `by` and the measures.

        Raises:
            ConfigError: A column is not there, or cannot be grouped or measured.
        """
        if incoming.schema is None:
            return EdgeType("row")
        grouping = grouping_of(self.params, incoming.schema)
        return EdgeType("row", pa.schema([*ENVELOPE, *grouping.payload]))

    def gather(self, records: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """The records of all groups."""
        first = next(iter(records), None)
        if first is None:
            return
        grouping = grouping_of(self.params, first.schema)
        reader = numbered(self._spilling.noted(self._read(records, grouping)))
        if reader is None:
            return
        threads = 1 if grouping.in_order else None
        with (
            self._spilling.database(scratch, self.params.memory_limit, threads) as database,
            _readable_overflow(),
        ):
            database.register(RECORDS, reader)
            lists = any(one.function == "list" for one in self.params.measures.values())
            at_once = LISTS_AT_ONCE if lists else AT_ONCE
            for rows in database.sql(grouping.query()).to_arrow_reader(at_once):
                yield grouping.made(rows, self.node_id)

    def traced(self) -> int:
        """All of them: each is in a group."""
        return self._took

    def interrupt(self) -> None:
        """End the query that is under way."""
        self._spilling.interrupt()

    def _read(
        self, records: Iterable[pa.RecordBatch], grouping: Grouping
    ) -> Iterator[pa.RecordBatch]:
        self._took = 0
        for batch in records:
            self._took += batch.num_rows
            yield grouping.read(batch)


@contextmanager
def _readable_overflow() -> Generator[None]:
    import duckdb

    try:
        yield
    except duckdb.OutOfRangeException as error:
        raise DataError(
            "a sum does not fit 38 digits",
            rows={},
            remedy='make a DOUBLE of the column with "convert" before',
        ) from error
