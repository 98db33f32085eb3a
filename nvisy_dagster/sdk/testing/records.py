"""Checking and comparing records."""

import datetime as dt
import json
import math
import random
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import pyarrow as pa

from nvisy_dagster.sdk.envelope import ENVELOPE

SEED = 20_260_101
"""Seed of the random cuts: the same on every run, so that a failure can be seen again."""

Row = Mapping[str, Any]


def to_rows(batches: Iterable[pa.RecordBatch]) -> list[dict[str, Any]]:
    """All rows of some batches, in order."""
    return [row for batch in batches for row in batch.to_pylist()]


def ids(batches: Iterable[pa.RecordBatch]) -> list[bytes]:
    """The `_id` of every row, in order."""
    return [row["_id"] for row in to_rows(batches)]


def cuts(rows: pa.RecordBatch) -> Iterator[list[pa.RecordBatch]]:
    """Ways to cut a batch: single rows, halves, then some at random, with empty batches between."""
    n = rows.num_rows
    chance = random.Random(SEED)  # noqa: S311 - chooses cuts, keeps no secret
    yield _cut(rows, list(range(n + 1)))
    yield _cut(rows, [0, n // 2, n])
    for _ in range(5):
        inner = chance.choices(range(n + 1), k=chance.randint(1, max(1, n // 2)))
        yield _cut(rows, sorted([0, *inner, n]))


def _cut(rows: pa.RecordBatch, places: Sequence[int]) -> list[pa.RecordBatch]:
    return [rows.slice(start, stop - start) for start, stop in pairwise(places)]


def check_batch(batch: pa.RecordBatch) -> None:
    """Check the envelope of a batch, and every column against its own declaration.

    Raises:
        AssertionError: A column is missing, misplaced, of another type, or holds what it may not.
    """
    for place, field in enumerate(ENVELOPE):
        found = batch.schema.field(place) if place < len(batch.schema) else None
        assert found is not None, f"column {place} must be {field.name!r} of the envelope; none is"
        assert found.equals(field), f"column {place} must be the envelope's {field}; it is {found}"
    assert len(set(batch.schema.names)) == len(batch.schema), "two columns have the same name"
    batch.validate(full=True)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if not field.nullable:
            assert column.null_count == 0, f"column {field.name!r} is not nullable but holds nulls"
    parents = cast("pa.ListArray[Any]", batch.column("_parent_ids")).flatten()
    assert parents.null_count == 0, "a list in '_parent_ids' holds a null"
    for text in batch.column("_metadata").to_pylist():
        try:
            json.loads("null" if text is None else text)
        except ValueError as error:
            raise AssertionError(f"'_metadata' holds what is not JSON: {text!r}") from error


def check_unique(found: Sequence[bytes]) -> None:
    """Check that no `_id` occurs twice.

    Raises:
        AssertionError: Some id does.
    """
    doubled = len(found) - len(set(found))
    assert not doubled, f"{doubled} of {len(found)} records share an '_id' with another"


def check_same(
    got: Sequence[Row], wanted: Sequence[Row], what: str, *, tolerance: float = 0.0
) -> None:
    """Check that two lists of rows agree, in order, in every column.

    Raises:
        AssertionError: They do not; names the first row and column.
    """
    assert len(got) == len(wanted), f"{what}: {len(got)} rows, not {len(wanted)}"
    for place, (left, right) in enumerate(zip(got, wanted, strict=True)):
        assert list(left) == list(right), f"{what}: row {place} has other columns"
        for name in left:
            assert alike(left[name], right[name], tolerance), (
                f"{what}: row {place}, column {name!r} is {left[name]!r}, not {right[name]!r}"
            )


def alike(left: object, right: object, tolerance: float) -> bool:
    """Whether two values are the same, floating point numbers up to a tolerance."""
    if isinstance(left, float) and isinstance(right, float | int):
        same = math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
        return same or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(
            alike(a, b, tolerance) for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            alike(left[key], right[key], tolerance) for key in left
        )
    return left == right


def plain(value: object) -> object:
    """A value in the form in which those of two systems compare: ids and times as text."""
    if isinstance(value, bytes) and len(value) == ENVELOPE.field("_id").type.byte_width:
        return str(uuid.UUID(bytes=value))
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, dt.datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return moment.astimezone(dt.UTC).isoformat()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value
