"""Running bound expressions on a batch, and finding the rows on which they fail."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.tabular.binding import Bound
from nvisy_connectors.tabular.database import select
from nvisy_connectors.tabular.reasons import Cause, message, reasons
from nvisy_connectors.tabular.syntax import RefusedError
from nvisy_connectors.tabular.tolerant import Tolerant, one_array, tolerant
from nvisy_dagster.sdk import DataError

CALM_RUNS = 8
"""Runs without a failure until failures are no longer expected."""

MAX_USELESS = 3
"""Times in a row that the tolerant form may fail all the same before it is given up."""

SEVERAL = -1
"""Stands for several attempts that were refused on one row."""


@dataclass(frozen=True)
class Evaluated:
    """What expressions give."""

    values: list[pa.Array]
    """By expression, one value per row; on rows that fail they mean nothing."""
    failures: dict[int, str] = field(default_factory=dict[int, str])
    """The reason of each row on which an expression fails."""


class _Memory:
    """What is remembered of expressions from batch to batch."""

    def __init__(self) -> None:
        self.calm = CALM_RUNS
        """Runs since rows failed. While failures are expected, the tolerant form is used, which
        does not end at one; where no row fails it costs hardly more."""
        self.useless = 0
        """Times in a row that the tolerant form failed."""
        self.proven: dict[tuple[int, int], bool] = {}
        """Of an expression and an attempt that it always makes: whether all rows failed on which
        the attempt was refused, as far as they were run in the plain form."""


@lru_cache(maxsize=1024)
def memory_of(selected: tuple[str, ...], schema: pa.Schema) -> _Memory:  # noqa: ARG001 - the key
    """What is remembered of expressions over columns of these types, by their SQL."""
    return _Memory()


def evaluate(bound: Bound, batch: pa.RecordBatch) -> Evaluated:
    """The result of each expression, and the rows that fail, for instance in a cast.

    Raises:
        ConfigError: No row can be evaluated, whatever its values.
    """
    import duckdb

    if not bound.expressions:
        return Evaluated([])
    records = bound.inputs(batch)
    memory = memory_of(bound.selected, records.schema)
    found: Evaluated | None = None
    if memory.calm >= CALM_RUNS:
        with suppress(duckdb.Error):
            found = Evaluated(_run(bound.selected, records))
    if found is None:
        found = _tolerantly(bound, records, memory) or _row_by_row(bound, records)
        memory.calm = 0 if found.failures else memory.calm + 1
    values = [
        result if result.type == kind else result.cast(kind)
        for result, kind in zip(found.values, bound.types, strict=True)
    ]
    return Evaluated(values, found.failures)


def refusal(
    failures: dict[int, str],
    of: int,
    result: pa.RecordBatch | Mapping[str, pa.RecordBatch],
    remedy: str | None = None,
) -> DataError:
    """The error of rows that fail.

    Args:
        failures: Their reasons.
        of: Rows of the batch.
        result: What was made of the others.
        remedy: What the reader can do; by default, guard the expression.
    """
    return DataError(
        f"{len(failures)} of {of} rows fail: {failures[min(failures)]}",
        rows=dict(sorted(failures.items())),
        remedy=remedy or "guard the expression with TRY(...) or TRY_CAST(...), which give NULL",
        tag="expression",
        result=result,
    )


def sound(failures: dict[int, str], of: int) -> npt.NDArray[np.bool_]:
    """A mask of the rows that do not fail."""
    mask = np.ones(of, np.bool_)
    mask[list(failures)] = False
    return mask


def _run(selected: Sequence[str], records: pa.RecordBatch) -> list[pa.Array]:
    table = select(", ".join(f"{sql} AS c{i}" for i, sql in enumerate(selected)), records)
    return [one_array(column) for column in table.columns]


def _tolerantly(bound: Bound, records: pa.RecordBatch, memory: _Memory) -> Evaluated | None:
    """As `_row_by_row`, but fast; nothing where that is not possible."""
    import duckdb

    form = tolerant(bound.selected, records.schema) if memory.useless < MAX_USELESS else None
    if form is None:
        return None
    try:
        values, refused = form.run(records)
    except duckdb.Error:
        memory.useless += 1
        return None
    memory.useless = 0
    outcome = _Outcome(bound, records, form, refused, memory.proven)
    settled = [outcome.settle(place, found) for place, found in enumerate(values)]
    return Evaluated(settled, outcome.failures)


class _Outcome:
    """Tells which of the rows with refused values fail, and why."""

    def __init__(
        self,
        bound: Bound,
        records: pa.RecordBatch,
        form: Tolerant,
        refused: Sequence[pa.Array],
        proven: dict[tuple[int, int], bool],
    ) -> None:
        self.failures: dict[int, str] = {}
        self._bound = bound
        self._records = records
        self._form = form
        self._refused = [_valid(values) for values in refused]
        self._proven = proven

    def settle(self, place: int, values: pa.Array) -> pa.Array:
        """Add the failures of an expression.

        Returns:
            Its values, also where a value that was refused does not matter.
        """
        refusing: dict[int, int] = {}
        sure: set[int] = set()
        for attempt in self._form.uses[place]:
            for row in self._refused[attempt]:
                refusing[row] = SEVERAL if row in refusing else attempt
            if self._proven.get((place, attempt)):
                sure.update(self._refused[attempt])
        unsure = sorted(refusing.keys() - sure)
        if unsure:
            values = self._confirm(place, values, refusing, unsure)
        self._tell(place, refusing)
        return values

    def _confirm(
        self, place: int, values: pa.Array, refusing: dict[int, int], unsure: Sequence[int]
    ) -> pa.Array:
        """Run rows that may fail in the plain form; those that do not are taken out."""
        tried = _tried(self._bound, place, self._records.take(pa.array(unsure, pa.int64())))
        passed = [unsure[i] for i in _true_rows(tried.is_valid())]
        spared = {refusing[row] for row in passed}
        for attempt in {refusing[row] for row in unsure} - {SEVERAL}:
            if self._form.uses[place][attempt] and self._form.attempts[attempt].of_text:
                before = self._proven.get((place, attempt), True)
                self._proven[place, attempt] = before and attempt not in spared
        for row in passed:
            del refusing[row]
        return _replaced(values, passed, tried.drop_null().field(0)) if passed else values

    def _tell(self, place: int, failing: dict[int, int]) -> None:
        rows = sorted(failing.keys() - self.failures.keys())
        if rows:
            causes = [self._cause(row, failing[row]) for row in rows]
            expression, sql = self._bound.expressions[place], self._bound.selected[place]
            told = reasons(expression, sql, self._records, rows, causes)
            self.failures |= zip(rows, told, strict=True)

    def _cause(self, row: int, attempt: int) -> Cause | None:
        # Of two values that are refused, DuckDB names the one that it comes to first.
        if attempt == SEVERAL or not self._form.attempts[attempt].of_text:
            return None
        return Cause(self._form.attempts[attempt], str(self._refused[attempt][row]))


def _valid(values: pa.Array) -> dict[int, object]:
    """The values that are not NULL, by row."""
    if values.null_count == len(values):
        return {}
    rows = _true_rows(values.is_valid())
    return dict(zip(rows, values.drop_null().to_pylist(), strict=True))


def _true_rows(mask: pa.Array) -> list[int]:
    return mask.to_numpy(zero_copy_only=False).nonzero()[0].tolist()


def _replaced(values: pa.Array, rows: Sequence[int], others: pa.Array) -> pa.Array:
    """The values, with others on some rows."""
    places = np.arange(len(values))
    places[rows] = np.arange(len(values), len(values) + len(rows))
    return pa.concat_arrays([values, others]).take(pa.array(places))


def _row_by_row(bound: Bound, records: pa.RecordBatch) -> Evaluated:
    """What the expressions give, where rows fail for any reason whatever."""
    failures: dict[int, str] = {}
    values: list[pa.Array] = []
    for place, tried in enumerate(_tried_all(bound, records)):
        rows = [row for row in _true_rows(tried.is_null()) if row not in failures]
        if rows:
            told = reasons(bound.expressions[place], bound.selected[place], records, rows)
            failures |= zip(rows, told, strict=True)
        values.append(tried.field(0))
    return Evaluated(values, failures)


def _tried_all(bound: Bound, records: pa.RecordBatch) -> list[pa.Array]:
    """The value of each expression in a struct, NULL where it fails."""
    import duckdb

    with suppress(duckdb.Error):
        return _run([_in_try(sql) for sql in bound.selected], records)
    return [_tried(bound, place, records) for place in range(len(bound.selected))]


def _tried(bound: Bound, place: int, records: pa.RecordBatch) -> pa.Array:
    import duckdb

    try:
        return pa.concat_arrays(list(_halved([_in_try(bound.selected[place])], records)))
    except duckdb.Error as failure:
        refused = RefusedError(message(failure))
        raise bound.expressions[place].error(refused) from failure


def _halved(selected: Sequence[str], records: pa.RecordBatch) -> Iterator[pa.Array]:
    """The values on each row, NULL where DuckDB throws in spite of `TRY`, as at a time zone.

    Raises:
        duckdb.Error: It throws whatever the values are, so also where there are none.
    """
    import duckdb

    try:
        yield _run(selected, records)[0]
    except (duckdb.FatalException, duckdb.InternalException):
        raise
    except duckdb.Error:
        half = records.num_rows // 2
        if half:
            yield from _halved(selected, records.slice(0, half))
            yield from _halved(selected, records.slice(half))
        else:
            yield pa.nulls(1, _run(selected, _of_nulls(records))[0].type)


def _of_nulls(records: pa.RecordBatch) -> pa.RecordBatch:
    """One row without any values."""
    schema = records.schema
    fields = [field.with_nullable(nullable=True) for field in schema]
    return pa.RecordBatch.from_arrays(
        [pa.nulls(1, field.type) for field in fields], schema=pa.schema(fields)
    )


def _in_try(sql: str) -> str:
    # NULL in a struct is a value, and no struct at all a failure.
    return f"TRY({{'v': {sql}}})"
