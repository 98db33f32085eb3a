"""Running bound expressions on a batch, and finding the rows on which they fail."""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import pyarrow as pa

from nvisy_connectors.tabular.binding import Bound
from nvisy_connectors.tabular.database import select
from nvisy_connectors.tabular.reasons import message, reasons, refused_by_cast
from nvisy_connectors.tabular.syntax import RefusedError
from nvisy_dagster.sdk import DataError

CALM_RUNS = 8
"""Runs without a failure until failures are no longer expected.

The rows that are left of a batch run again without its failing ones, so one such run tells nothing.
"""


class _History:
    """How long ago rows failed, in runs.

    While failures are expected, a query is used that does not stop at one; where no row fails it
    costs hardly more.
    """

    calm = CALM_RUNS


@lru_cache(maxsize=1024)
def _history(selected: tuple[str, ...]) -> _History:  # noqa: ARG001 - the key
    return _History()


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
    history = _history(bound.selected)
    cause: duckdb.Error | None = None
    results: list[pa.Array] | None = None
    if history.calm >= CALM_RUNS:
        try:
            results = _run(bound.selected, records)
        except duckdb.Error as error:
            cause = error
    if results is None:
        results, failures = _guarded(bound, records) or _row_by_row(bound, records)
        history.calm = 0 if failures else history.calm + 1
        if failures:
            raise _failed(failures, records.num_rows) from cause
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


def _guarded(bound: Bound, records: pa.RecordBatch) -> tuple[list[pa.Array], dict[int, str]] | None:
    """As `_row_by_row`, but fast: rows that a known cast refuses are left out.

    Returns:
        Nothing if no such cast is known, or other rows fail as well.
    """
    import duckdb

    guards = {
        place: guard
        for place, sql in enumerate(bound.selected)
        if (guard := refused_by_cast(sql, records.schema)) is not None
    }
    if not guards:
        return None
    guarded = [
        f"CASE WHEN {guards[place]} THEN NULL ELSE {sql} END" if place in guards else sql
        for place, sql in enumerate(bound.selected)
    ]
    try:
        found = _run([*guarded, *guards.values()], records)
    except duckdb.Error:
        return None
    failures: dict[int, str] = {}
    for place, refused in zip(guards, found[len(guarded) :], strict=True):
        _add_failures(failures, bound, place, records, refused, by_cast=True)
    return found[: len(guarded)], failures


def _add_failures(  # noqa: PLR0913 - all of one batch
    failures: dict[int, str],
    bound: Bound,
    place: int,
    records: pa.RecordBatch,
    failing: pa.Array,
    *,
    by_cast: bool = False,
) -> None:
    """Add the reasons of the rows on which an expression fails and none before it."""
    found = failing.to_numpy(zero_copy_only=False).nonzero()[0]
    rows = [row for row in found.tolist() if row not in failures]
    if rows:
        guilty = records.take(pa.array(rows, pa.int64()))
        expression, sql = bound.expressions[place], bound.selected[place]
        told = reasons(expression, sql, guilty, by_cast=by_cast)
        failures |= zip(rows, told, strict=True)


def _row_by_row(bound: Bound, records: pa.RecordBatch) -> tuple[list[pa.Array], dict[int, str]]:
    """What the expressions give, and the reason of each row on which one of them fails."""
    failures: dict[int, str] = {}
    results: list[pa.Array] = []
    for place, tried in enumerate(_tried(bound, records)):
        _add_failures(failures, bound, place, records, tried.is_null())
        results.append(tried.field(0))
    return results, failures


def _tried(bound: Bound, records: pa.RecordBatch) -> list[pa.Array]:
    """The value of each expression in a struct, NULL where it fails."""
    import duckdb

    tries = [f"TRY({{'v': {sql}}})" for sql in bound.selected]
    with suppress(duckdb.Error):
        return _run(tries, records)
    results: list[pa.Array] = []
    for expression, sql in zip(bound.expressions, tries, strict=True):
        try:
            results += _run([sql], records)
        except duckdb.Error as failure:
            raise expression.error(RefusedError(message(failure))) from failure
    return results


def _failed(failures: dict[int, str], of: int) -> DataError:
    rows = dict(sorted(failures.items()))
    first = next(iter(rows.values()))
    return DataError(
        f"{len(rows)} of {of} rows fail: {first}",
        rows=rows,
        remedy="guard the expression with TRY(...) or TRY_CAST(...), which give NULL",
        tag="expression",
    )
