"""Expressions bound to a schema: their columns exist, their types are known.

The types come from running the query on no rows, so they are those of a run.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.tabular import growth
from nvisy_connectors.tabular.arrow_types import readable, stored_type
from nvisy_connectors.tabular.bulk import known_type
from nvisy_connectors.tabular.costs import MAX_RECORD_BYTES, Costly, RecordSizes
from nvisy_connectors.tabular.database import column_types, error_details, explained, select
from nvisy_connectors.tabular.expression import ColumnUse, Expression, existing, nearest
from nvisy_connectors.tabular.limits import MEMORY_TAG, in_small_vectors
from nvisy_connectors.tabular.list_casts import still_too_large
from nvisy_connectors.tabular.syntax import BEFORE, RefusedError
from nvisy_dagster.sdk import ConfigError, DataError, raise_mistakes

ROW = "row"
"""The only column that is handed over when no expression reads one."""


@dataclass(frozen=True)
class Bound:
    """Expressions that fit a schema."""

    expressions: tuple[Expression, ...]
    columns: tuple[str, ...]
    """Columns of the batch that DuckDB is given."""
    selected: tuple[str, ...]
    """The SQL of each expression; one line of its own, so that a comment ends with it."""
    types: tuple[pa.DataType, ...]
    """Type of each result."""

    def inputs(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What DuckDB is given of a batch.

        Raises:
            DataError: Some records are too large for what the expressions do with them.
        """
        if not self.columns:
            return pa.record_batch([pa.nulls(batch.num_rows, pa.int8())], names=[ROW])
        records = readable(batch.select(list(self.columns)))
        _check_sizes(self.expressions, records)
        if any(call.slow or call.weight for one in self.expressions for call in one.calls):
            return in_small_vectors(records)
        return records


@lru_cache(maxsize=1024)
def bind(expressions: tuple[Expression, ...], schema: pa.Schema) -> Bound:
    """Type expressions against the columns of a batch; no rows are needed.

    Raises:
        ConfigError: A column does not exist or is ambiguous, or no function takes these types; of
            all the expressions together.
    """
    errors: list[ConfigError] = []
    with told(errors):
        _check_together(expressions)
    places: dict[int, None] = {}
    readable_ones: list[Expression] = []
    for expression in expressions:
        with told(errors):
            places |= {column_place(expression, use, schema): None for use in expression.columns}
            readable_ones.append(expression)
    used = pa.schema([schema.field(place).remove_metadata() for place in places])
    untyped = Bound(expressions, tuple(used.names), (), ())
    try:
        no_rows = [pa.nulls(0, field.type) for field in used]
        records = untyped.inputs(pa.RecordBatch.from_arrays(no_rows, names=used.names))
    except pa.ArrowException as error:
        raise ConfigError(f"expressions cannot read these columns: {error}") from error
    typed: list[tuple[str, pa.DataType]] = []
    for expression in readable_ones:
        with told(errors):
            typed.append(_typed(expression, records))
    raise_mistakes(errors)
    return replace(
        untyped,
        selected=tuple(sql for sql, _ in typed),
        types=tuple(kind for _, kind in typed),
    )


@contextmanager
def told(errors: list[ConfigError]) -> Generator[None]:
    """Collect what is raised inside, so that what follows is looked at too."""
    try:
        yield
    except ConfigError as error:
        errors.append(error)


def _check_together(expressions: Sequence[Expression]) -> None:
    sizes = growth.total(dict(expression.sizes) for expression in expressions)
    try:
        growth.check(sizes, None, growth.MAX_TOTAL_GROWTH)
    except RefusedError as refusal:
        raise ConfigError(
            f"the expressions of this node together: {refusal.reason}", remedy=refusal.remedy
        ) from None


def _check_sizes(expressions: Sequence[Expression], records: pa.RecordBatch) -> None:
    sizes = RecordSizes(records)
    failures: dict[int, str] = {}
    remedy = "make the expressions simpler, or the records smaller"
    for expression in expressions:
        for call in expression.calls:
            for row in _too_large(sizes, call).tolist():
                reason = (
                    f"{call.name!r} gets a value that may have more than {call.most_bytes} bytes"
                )
                found = expression.error(RefusedError(reason, offset=call.offset))
                failures.setdefault(row, found.message)
                remedy = call.remedy
        for row in sizes.too_large(expression.sizes, MAX_RECORD_BYTES).tolist():
            reason = f"a record may take more than {MAX_RECORD_BYTES} bytes of memory"
            failures.setdefault(row, expression.error(RefusedError(reason)).message)
    if failures:
        raise DataError(
            f"{len(failures)} of {records.num_rows} rows are too large: {failures[min(failures)]}",
            rows=dict(sorted(failures.items())),
            remedy=remedy,
            tag=MEMORY_TAG,
        )


def _too_large(sizes: RecordSizes, call: Costly) -> npt.NDArray[np.intp]:
    rows = sizes.too_large(call.size, call.most_bytes)
    if call.text is None or not len(rows):
        return rows
    values = sizes.column(call.text)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return rows[:0]  # no text: its items take their room already
    return rows[still_too_large(values.take(pa.array(rows)), call.per_object)]


def _typed(expression: Expression, records: pa.RecordBatch) -> tuple[str, pa.DataType]:
    import duckdb

    sql = f"(\n{expression.text}\n)"
    try:
        columns = [use.name for use in expression.columns]
        found = known_type(expression.text, columns, records) or _result_type(sql, records)
        # Arrow has no HUGEINT, and a decimal of 38 digits cannot hold the largest ones.
        if found == _HUGE and column_types(sql, records) != ["DECIMAL(38,0)"]:
            sql = f"CAST({sql} AS DECIMAL(38, 0))"
            found = _result_type(sql, records)
    except duckdb.Error as error:
        raise expression.error(_refusal(explained(sql, records) or error)) from error
    except DataError as error:
        # Constants are computed when the expression is typed.
        raise expression.error(RefusedError(error.message, remedy=error.remedy)) from error
    stored = stored_type(found)
    if stored is None:
        raise expression.error(
            RefusedError(
                "nothing says the type of its value",
                remedy="cast it, for instance NULL::VARCHAR or []::VARCHAR[]",
            )
        )
    return sql, stored


_HUGE = pa.decimal128(38, 0)


def _result_type(sql: str, records: pa.RecordBatch) -> pa.DataType:
    return select(sql, records).schema.field(0).type


def column_place(expression: Expression, use: ColumnUse, schema: pa.Schema) -> int:
    """Place of the column that is meant; names match as in DuckDB, where case does not matter.

    Raises:
        ConfigError: No column has this name, or several have.
    """
    names: list[str] = schema.names
    folded = _folded(use.name)
    found = [place for place, name in enumerate(names) if _folded(name) == folded]
    if len(found) == 1:
        return found[0]
    if not found:
        raise expression.error(
            RefusedError(
                f"there is no column {use.name!r}",
                offset=use.offset,
                remedy=nearest(use.name, names) or existing(names),
            )
        )
    among = ", ".join(repr(names[place]) for place in found)
    raise expression.error(
        RefusedError(
            f"column {use.name!r} is ambiguous: there are {among}, "
            "and case does not matter in expressions",
            offset=use.offset,
            remedy="rename one of them before, with 'rename' of a 'map' node",
        )
    )


def _folded(name: str) -> str:
    if name.isascii():
        return name.lower()
    # DuckDB folds the letters of ASCII and no others.
    return "".join(c.lower() if c.isascii() else c for c in name)


def _refusal(error: Exception) -> RefusedError:
    details = error_details(error)
    offset = int(details["position"]) - len(BEFORE) if "position" in details else None
    message = details["exception_message"].splitlines()[0]
    remedy = None
    if details.get("error_subtype") == "NO_MATCHING_FUNCTION":
        message = f"{details['name']!r} does not take these types: {details['call']}"
        candidates = details.get("candidates", "").split(",\n")[0].splitlines()[:3]
        remedy = f"cast an argument; there is {'; '.join(candidates)}"[:300] if candidates else None
    return RefusedError(message[:300], offset=offset, remedy=remedy)
