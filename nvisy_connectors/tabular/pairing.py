"""Which records of two inputs belong together, however many there are."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.tabular.comparing import comparable
from nvisy_connectors.tabular.join_layout import LEFT, RIGHT, Key
from nvisy_connectors.tabular.spilling import ROW, numbered

if TYPE_CHECKING:
    import duckdb

Rows = npt.NDArray[np.int64]

AT_ONCE = 1 << 16
"""Pairs that are told at once."""
_TABLES = {LEFT: "__nvisy_left__", RIGHT: "__nvisy_right__"}


@dataclass(frozen=True)
class Pairs:
    """Pairs of records, told by their places in their inputs; of the left, then of the right."""

    left: Rows
    right: Rows
    """-1 for a record of the left that belongs to none."""


def register(
    database: "duckdb.DuckDBPyConnection",
    side: str,
    records: Iterable[pa.RecordBatch],
    keys: Sequence[Key],
) -> bool:
    """Give the keys of an input to a database; whether there are any records."""

    def compared(batch: pa.RecordBatch) -> pa.RecordBatch:
        arrays = [comparable(batch.column(key.of(side)), key.kind) for key in keys]
        return pa.RecordBatch.from_arrays(arrays, names=_names(keys))

    reader = numbered(map(compared, records))
    if reader is not None:
        database.register(_TABLES[side], reader)
    return reader is not None


def matched(database: "duckdb.DuckDBPyConnection", keys: Sequence[Key]) -> Iterator[Rows]:
    """The places of the records of the left that belong to some of the right, in any order."""
    left, right = _TABLES[LEFT], _TABLES[RIGHT]
    query = f"SELECT {left}.{ROW} FROM {left} SEMI JOIN {right} ON {_equal(keys)}"  # noqa: S608
    for batch in database.sql(query).to_arrow_reader(AT_ONCE):
        yield batch.column(0).to_numpy()


def pairs_of(
    database: "duckdb.DuckDBPyConnection", keys: Sequence[Key], scratch: Path, *, outer: bool
) -> Pairs:
    """All pairs, kept in files.

    Args:
        database: It knows both inputs.
        keys: What is to be equal.
        scratch: Folder for the files.
        outer: Whether a record of the left that belongs to none is told, too.
    """
    left, right = _TABLES[LEFT], _TABLES[RIGHT]
    query = (
        f"SELECT {left}.{ROW}, coalesce({right}.{ROW}, -1) FROM {left} "  # noqa: S608
        f"{'LEFT' if outer else 'INNER'} JOIN {right} ON {_equal(keys)} ORDER BY 1, 2"
    )
    return Pairs(*_filed(database, query, scratch, ["left", "right"]))


def by_right(
    database: "duckdb.DuckDBPyConnection", pairs: Pairs, scratch: Path
) -> tuple[Rows, Rows]:
    """The pairs in the order of the right: for each its record, and its number among the pairs.

    Those that have none of the right are left out, and not counted.
    """
    schema = pa.schema([("record", pa.int64()), ("number", pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        number = 0
        for start in range(0, len(pairs.right), AT_ONCE):
            records = pairs.right[start : start + AT_ONCE]
            records = records[records >= 0]
            numbers = np.arange(number, number + len(records))
            number += len(records)
            yield pa.record_batch([pa.array(records), pa.array(numbers)], schema=schema)

    table = "__nvisy_pairs__"
    database.register(table, pa.RecordBatchReader.from_batches(schema, batches()))
    query = f"SELECT record, number FROM {table} ORDER BY 1, 2"  # noqa: S608 - nothing of a user's
    records, numbers = _filed(database, query, scratch, ["records", "numbers"])
    return records, numbers


def _filed(
    database: "duckdb.DuckDBPyConnection", query: str, scratch: Path, names: Sequence[str]
) -> list[Rows]:
    """The columns of a result, each in a file: of many records they would not fit in memory."""
    paths = [scratch / f"column-{name}" for name in names]
    rows = 0
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for batch in database.sql(query).to_arrow_reader(AT_ONCE):
            rows += batch.num_rows
            for file, column in zip(files, batch.columns, strict=True):
                file.write(column.to_numpy().tobytes())
    if not rows:
        return [np.zeros(0, np.int64) for _ in paths]
    return [np.memmap(path, np.int64, "r", shape=(rows,)) for path in paths]


def _names(keys: Sequence[Any]) -> list[str]:
    return [f"key{place}" for place in range(len(keys))]


def _equal(keys: Sequence[Key]) -> str:
    left, right = _TABLES[LEFT], _TABLES[RIGHT]
    return " AND ".join(f"{left}.{name} = {right}.{name}" for name in _names(keys))
