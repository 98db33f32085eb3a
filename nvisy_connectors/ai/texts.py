"""The text column of an incoming batch: found, checked, and cut into units of work."""

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.sdk import ConfigError, DataError, EdgeType
from nvisy_dagster.sdk.envelope import payload_schema

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

TEXTUAL = frozenset({"document", "row", "chunk"})
"""Primitives whose payload can hold a column of text."""


def check_text_column(incoming: EdgeType, column: str) -> None:
    """Refuse an edge that is known to lack the column of text.

    Raises:
        ConfigError: The column is missing or holds something else.
    """
    if incoming.schema is not None:
        _require_text(incoming.schema, column)


def text_column(batch: pa.RecordBatch, column: str, *, allow_empty: bool) -> pa.Array:
    """The column of text, as `large_string` without nulls.

    Raises:
        ConfigError: The column is missing or holds something else.
        DataError: Rows where it is null or, unless `allow_empty`, of no length.
    """
    _require_text(batch.schema, column)
    texts = batch.column(column).cast(pa.large_string())
    rows = {int(row): f"column {column!r} is null" for row in _where(pc.is_null(texts))}
    if not allow_empty:
        empty = pc.equal(pc.binary_length(texts), 0)
        rows |= {int(row): f"column {column!r} is empty" for row in _where(empty)}
    if rows:
        raise DataError(
            f"{len(rows)} of {len(texts)} records have no text in column {column!r}",
            rows=dict(sorted(rows.items())),
            remedy="filter them out before, or let the node drop or dead-letter them",
        )
    return texts


def carried(schema: pa.Schema, column: str, made: Collection[str]) -> list[pa.Field]:
    """Payload fields of the parent that its children keep.

    All but the text itself and those whose name the action gives to a column that it makes.
    """
    return [f for f in payload_schema(schema) if f.name != column and f.name not in made]


def byte_lengths(batch: pa.RecordBatch, column: str) -> npt.NDArray[np.int64]:
    """Bytes of text in each row; 0 where there is none, so that cutting never fails."""
    index = batch.schema.get_field_index(column)
    if index < 0 or not _is_text(batch.schema.field(index).type):
        return np.zeros(batch.num_rows, np.int64)
    lengths = pc.fill_null(pc.binary_length(batch.column(index)), 0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64)


def units(
    batch: pa.RecordBatch, weights: npt.NDArray[np.int64], *, budget: int, max_rows: int
) -> Iterator[pa.RecordBatch]:
    """Cut a batch greedily into slices of at most `budget` weight and `max_rows` rows.

    A row heavier than the budget is a unit of its own.
    """
    totals = np.cumsum(weights)
    start = 0
    while start < batch.num_rows:
        spent = int(totals[start - 1]) if start else 0
        stop = int(np.searchsorted(totals, spent + budget, side="right"))
        stop = min(max(stop, start + 1), start + max_rows)
        yield batch.slice(start, stop - start)
        start = stop


def _require_text(schema: pa.Schema, column: str) -> None:
    names = payload_schema(schema).names
    if column not in names:
        near = get_close_matches(column, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"column {column!r} is not in the incoming records",
            remedy=f"{hint}param 'column' names one of: {', '.join(names)}",
            tag="schema",
        )
    kind = schema.field(column).type
    if not _is_text(kind):
        raise ConfigError(
            f"column {column!r} holds {kind}, not text",
            remedy="name a column of text with param 'column', or cast it with a map before",
            tag="schema",
        )


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _where(mask: pa.Array) -> npt.NDArray[np.int64]:
    return np.flatnonzero(pc.fill_null(mask, fill_value=False).to_numpy(zero_copy_only=False))
