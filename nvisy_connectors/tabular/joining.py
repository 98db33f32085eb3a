"""Making the records of pairs: those of the left one after the other, with theirs of the right."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.tabular.arranging import BATCH_BYTES, MOST_BATCH_ROWS, arranged
from nvisy_connectors.tabular.join_layout import Layout
from nvisy_connectors.tabular.pairing import AT_ONCE, Pairs, Rows, by_right
from nvisy_connectors.tabular.unmatched import of_right
from nvisy_connectors.tabular.widening import fit
from nvisy_dagster.sdk.envelope import ENVELOPE, derive_joined, payload

if TYPE_CHECKING:
    import duckdb

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

MOST_BYTES = 64 << 20
"""Up to so many the records of the right are kept in memory."""


class Joining:
    """Makes the records of one join.

    Args:
        layout: Their columns.
        right: The records of the right.
        scratch: Folder for what does not fit in memory.
        node_id: The node that makes them.
    """

    def __init__(
        self, layout: Layout, right: Iterable[pa.RecordBatch], scratch: Path, node_id: str
    ) -> None:
        self._layout = layout
        self._right = right
        self._scratch = scratch
        self._node_id = node_id
        self._rows = self._bytes = 0
        self._met = np.zeros(0, np.bool_)
        """Which records of the right are in a pair, up to now."""
        self._sizes = scratch / "sizes"
        """File of the bytes of each record of the right."""
        self._pairs = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._sorted: tuple[Rows, Rows] | None = None
        self.traced = 0
        """Records of both inputs of which something was made, up to now."""

    def sized(self) -> Iterator[pa.RecordBatch]:
        """The records of the right, while it looks at how much that is."""
        with self._sizes.open("wb") as file:
            for batch in self._right:
                needed = self._of(batch)
                self._rows += batch.num_rows
                self._bytes += needed.nbytes
                file.write(row_bytes(needed).tobytes())
                yield batch

    def prepare(self, database: "duckdb.DuckDBPyConnection", pairs: Pairs) -> None:
        """Work out in which order the right is needed, if it does not fit in memory."""
        self._pairs = pairs
        if self._bytes > MOST_BYTES:
            self._sorted = by_right(database, pairs, self._scratch)

    def joined(self, left: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The records of pairs, and of those of the left that are told without one."""
        places, others = self._pairs.left, self._pairs.right
        met = self._met = np.zeros(self._rows, np.bool_)
        right = self._kept() if self._sorted is None else self._arranged(*self._sorted)
        sizes = self._right_sizes()
        start = 0
        for batch in left:
            end = start + batch.num_rows
            first, last = np.searchsorted(places, [start, end]).tolist()
            own = self._plain(batch)
            own_sizes = row_bytes(own)
            at = first
            while at < last:
                some = slice(at, min(at + MOST_BATCH_ROWS, last))
                mine, which = places[some] - start, np.array(others[some])
                size = own_sizes[mine] + np.where(which < 0, 0, sizes[which])
                rows = max(1, int(np.searchsorted(np.cumsum(size), BATCH_BYTES)))
                mine, which = mine[:rows], which[:rows]
                met[which[which >= 0]] = True
                yield self._made(own.take(pa.array(mine)), right.take(which))
                at += rows
            self.traced += len(np.unique(places[first:last]))
            start = end
        self.traced += int(met.sum())

    def unmatched(self) -> Iterator[pa.RecordBatch]:
        """The records of those of the right that were in no pair."""
        start = 0
        for batch in self._right:
            end = start + batch.num_rows
            rest = np.flatnonzero(~self._met[start:end])
            if len(rest):
                yield of_right(batch.take(pa.array(rest)), self._layout, self._node_id)
                self.traced += len(rest)
            start = end

    def _made(self, left: pa.RecordBatch, right: pa.RecordBatch) -> pa.RecordBatch:
        arrays = [*payload(left).columns, *right.columns[1:]]
        columns = pa.RecordBatch.from_arrays(arrays, schema=self._layout.payload)
        return derive_joined(left, right.column(0), columns, node_id=self._node_id)

    def _plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Records of the left with the types that come out."""
        schema = pa.schema([*ENVELOPE, *self._layout.left])
        arrays = [fit(batch.column(field.name), field.type) for field in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What is needed of records of the right: their ids and the columns that come along."""
        fields = self._layout.right
        arrays = [fit(batch.column(name), field.type) for name, field in fields.items()]
        nullable = [field.with_nullable(nullable=True) for field in fields.values()]
        schema = pa.schema([ENVELOPE.field("_id").with_nullable(nullable=True), *nullable])
        return pa.RecordBatch.from_arrays([batch.column("_id"), *arrays], schema=schema)

    def _kept(self) -> "_Kept":
        return _Kept(pa.Table.from_batches([self._of(batch) for batch in self._right]))

    def _arranged(self, records: Rows, numbers: Rows) -> "_Arranged":
        """The records of the right as often as they are needed, in the order of the pairs."""
        sizes = self._right_sizes()
        chunks = (records[at : at + AT_ONCE] for at in range(0, len(records), AT_ONCE))
        size = sum(int(sizes[some].sum()) for some in chunks)
        needed = self._needed(records)
        schema = self._of(next(iter(self._right)).slice(0, 0)).schema
        if not len(records):
            return _Arranged(iter(()), schema)
        return _Arranged(arranged(needed, numbers, size, self._scratch), schema)

    def _needed(self, records: Rows) -> Iterator[pa.RecordBatch]:
        """Each record of the right as often as it is in a pair, in its order."""
        start = 0
        for batch in self._right:
            end = start + batch.num_rows
            first, last = np.searchsorted(records, [start, end]).tolist()
            kept = self._of(batch)
            sizes, at = row_bytes(kept), first
            while at < last:
                some = records[at : min(at + AT_ONCE, last)] - start
                rows = max(1, int(np.searchsorted(np.cumsum(sizes[some]), BATCH_BYTES)))
                yield kept.take(pa.array(some[:rows]))
                at += rows
            start = end

    def _right_sizes(self) -> Rows:
        if not self._rows:
            return np.zeros(1, np.int64)
        return np.memmap(self._sizes, np.int64, "r", shape=(self._rows,))


_LONG = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


def row_bytes(batch: pa.RecordBatch) -> Rows:
    """The bytes of each record, about: one that is large may be in many pairs."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if any(is_kind(column.type) for is_kind in _LONG):
            sizes += pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        else:
            sizes += column.nbytes // max(1, len(column)) + 1
    return sizes


class _Kept:
    """Records of the right in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()

    def take(self, which: Rows) -> pa.RecordBatch:
        """Those at some places, nulls for -1."""
        taken = self._table.take(pa.array(which, mask=which < 0)).combine_chunks()
        return _one(taken.to_batches(), taken.schema)


class _Arranged:
    """Records of the right that come in the order in which they are needed."""

    def __init__(self, records: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        self._records = records
        self._schema = schema
        self._rest = _one([], schema)

    def take(self, which: Rows) -> pa.RecordBatch:
        """The next ones, as many as there are places, nulls for -1."""
        there = which >= 0
        pieces: list[pa.RecordBatch] = []
        missing = int(there.sum())
        while missing:
            if not self._rest.num_rows:
                self._rest = next(self._records)
            piece = self._rest.slice(0, missing)
            pieces.append(piece)
            missing -= piece.num_rows
            self._rest = self._rest.slice(piece.num_rows)
        table = pa.Table.from_batches(pieces, self._schema).combine_chunks()
        places = np.cumsum(there) - 1
        taken = table.take(pa.array(places, mask=~there)).combine_chunks()
        return _one(taken.to_batches(), self._schema)


def _one(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema)
