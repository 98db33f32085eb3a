"""Records in another order than that in which they are read, however many they are.

Each record has a rank, its place in the new order. The records are read once and dealt into
buckets, files that hold neighbouring ranks each; then one bucket after the other is put in order in
memory. All reading and writing is sequential.
"""

import resource
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.tabular.widening import plain_type

BUCKET_BYTES = 64 << 20
"""What is put in order at once; more only where there would be too many files otherwise."""
MOST_BUCKETS = 512
FILES_SHARE = 4
"""Of the files that the process may have open, a bucket is at most every so-manieth."""
BATCH_BYTES = 8 << 20
MOST_BATCH_ROWS = 1 << 16

Ranks = npt.NDArray[np.int64]


def ranks_of(places: Iterable[pa.RecordBatch], count: int, scratch: Path) -> Ranks:
    """The rank of each record, from the places of the records in the new order.

    They are kept in a file: of many records they would not fit in memory either.

    Args:
        places: One column of places.
        count: How many records there are, at least one.
        scratch: Folder for the file.
    """
    ranks: Ranks = np.memmap(scratch / "ranks", np.int64, "w+", shape=(count,))
    start = 0
    for batch in places:
        end = start + batch.num_rows
        ranks[batch.column(0).to_numpy()] = np.arange(start, end)
        start = end
    return ranks


def arranged(
    records: Iterable[pa.RecordBatch], ranks: Ranks, size: int, scratch: Path
) -> Iterator[pa.RecordBatch]:
    """The records by their ranks.

    Args:
        records: All of them, of one schema.
        ranks: The rank of each.
        size: Bytes of all of them, about.
        scratch: Folder for the buckets.

    Raises:
        OSError: The disk is full or refuses.
    """
    count = min(_most_buckets(), -(-max(size, 1) // BUCKET_BYTES))
    width = max(1, -(-len(ranks) // count))
    if count == 1:
        yield from _in_order(pa.Table.from_batches(list(records)), ranks)
        return
    for bucket in _deal(records, ranks, width, scratch):
        with pa.OSFile(str(bucket), "rb") as file:
            table = pa.ipc.open_stream(file).read_all()
        bucket.unlink()
        last = table.num_columns - 1
        yield from _in_order(table.remove_column(last), table.column(last).to_numpy())


_RANK = "__nvisy_rank__"


def _most_buckets() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_BUCKETS
    return max(2, min(MOST_BUCKETS, files // FILES_SHARE))


def _deal(
    records: Iterable[pa.RecordBatch], ranks: Ranks, width: int, scratch: Path
) -> Sequence[Path]:
    """Write the records, each with its rank, into files of so many neighbouring ranks."""
    paths = [scratch / f"bucket-{start:012d}" for start in range(0, len(ranks), width)]
    start = 0
    with _buckets(paths) as write:
        for batch in records:
            end = start + batch.num_rows
            rank = np.array(ranks[start:end])
            start = end
            if not batch.num_rows:
                continue
            bucket = rank // width
            order = np.argsort(bucket, kind="stable")
            dealt = batch.append_column(_RANK, pa.array(rank)).take(pa.array(order))
            seams = np.flatnonzero(np.diff(bucket[order])) + 1
            for first, last in zip([0, *seams], [*seams, len(order)], strict=True):
                write(int(bucket[order[first]]), dealt.slice(first, last - first))
    return paths


@contextmanager
def _buckets(paths: Sequence[Path]) -> Generator[Any]:
    writers: dict[int, Any] = {}
    with ExitStack() as stack:

        def write(bucket: int, batch: pa.RecordBatch) -> None:
            if bucket not in writers:
                file = stack.enter_context(pa.OSFile(str(paths[bucket]), "wb"))
                writers[bucket] = stack.enter_context(pa.ipc.new_stream(file, batch.schema))
            writers[bucket].write_batch(batch)

        yield write


def _in_order(table: pa.Table, ranks: Ranks) -> Iterator[pa.RecordBatch]:
    whole = _one_piece(table)
    order = np.argsort(ranks, kind="stable")
    row_bytes = max(1, whole.nbytes // max(1, whole.num_rows))
    rows = max(1, min(MOST_BATCH_ROWS, BATCH_BYTES // row_bytes))
    for start in range(0, len(order), rows):
        piece = whole.take(pa.array(order[start : start + rows])).combine_chunks()
        for batch in piece.to_batches():
            yield from _as_promised(batch, table.schema)


def _one_piece(table: pa.Table) -> pa.Table:
    try:
        return table.unify_dictionaries().combine_chunks()
    except pa.ArrowInvalid:
        # The words are too many for the numbers that stand for them, or null is one of them.
        plain = pa.schema([field.with_type(plain_type(field.type)) for field in table.schema])
        return table.cast(plain).combine_chunks()


def _as_promised(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Texts told by number again where they were, in as few batches as there are numbers for."""
    if batch.schema.equals(schema):
        yield batch
        return
    try:
        yield batch.cast(schema)
    except pa.ArrowInvalid:
        middle = batch.num_rows // 2
        if not middle:
            raise
        yield from _as_promised(batch.slice(0, middle), schema)
        yield from _as_promised(batch.slice(middle), schema)
