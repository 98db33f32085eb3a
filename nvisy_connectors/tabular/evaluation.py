"""Running bound expressions on a batch, and finding the rows on which they fail."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from nvisy_connectors.tabular.binding import Bound
from nvisy_connectors.tabular.database import error_details, explained, select
from nvisy_connectors.tabular.expression import Expression
from nvisy_connectors.tabular.syntax import RefusedError
from nvisy_dagster.sdk import DataError

if TYPE_CHECKING:
    import duckdb

MAX_REASONS = 100
"""Failing rows of one batch that are run again alone for their reason; about 1 ms each."""
MAX_REASON_CHARACTERS = 300


def evaluate(bound: Bound, batch: pa.RecordBatch) -> list[pa.Array]:
    """The result of each expression, one value per row.

    Raises:
        DataError: Some rows fail, for instance in a cast.
        ConfigError: No row can be evaluated, whatever its values.
    """
    import duckdb

    if not bound.expressions:
        return []
    records = bound.inputs(batch)
    try:
        results = _run(bound.selected, records)
    except duckdb.Error as error:
        results = _row_by_row(bound, records, error)
    return [
        result if result.type == kind else result.cast(kind)
        for result, kind in zip(results, bound.types, strict=True)
    ]


def _run(selected: Sequence[str], records: pa.RecordBatch) -> list[pa.Array]:
    columns = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(selected))
    table = select(columns, records)
    return [_one_array(column) for column in table.columns]


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _row_by_row(bound: Bound, records: pa.RecordBatch, error: "duckdb.Error") -> list[pa.Array]:
    """What the expressions give where DuckDB fails on the batch but on none of its rows."""
    import duckdb

    reasons: dict[int, str] = {}
    results: list[pa.Array] = []
    for expression, sql in zip(bound.expressions, bound.selected, strict=True):
        try:
            [tried] = _run([f"TRY({{'v': {sql}}})"], records)
        except duckdb.Error as failure:
            raise expression.error(RefusedError(_message(failure))) from failure
        for row in tried.is_null().to_numpy(zero_copy_only=False).nonzero()[0].tolist():
            if row not in reasons:
                alone = records.slice(row, 1) if len(reasons) < MAX_REASONS else None
                reasons[row] = _reason(expression, sql, alone)
        results.append(tried.field(0))
    if reasons:
        rows = dict(sorted(reasons.items()))
        first = next(iter(rows.values()))
        raise DataError(
            f"{len(rows)} of {records.num_rows} rows fail: {first}",
            rows=rows,
            remedy="guard the expression with TRY(...) or TRY_CAST(...), which give NULL",
            tag="expression",
        ) from error
    return results


def _reason(expression: Expression, sql: str, row: pa.RecordBatch | None) -> str:
    reason = "it fails, like other rows of the batch"
    if row is not None:
        error = explained(sql, row)
        reason = _message(error) if error else reason
    return f"expression {expression.param!r}: {reason}"


def _message(error: Exception) -> str:
    lines = error_details(error)["exception_message"].strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    short = text[:MAX_REASON_CHARACTERS]
    return short if short == text else f"{short}..."
