"""What earlier runs read: objects by URI, with the version and how far records went."""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.sdk import Bookmark

pc = cast("Any", pyarrow.compute)

ROW = pa.schema([
    pa.field("uri", pa.string(), nullable=False),
    pa.field("version", pa.string(), nullable=False),
    pa.field("upto", pa.int64(), nullable=False),
])
"""One object: its records, if any, had positions below `upto`. As a row of what was touched its
version is empty: nobody knows which of them reached a sink."""

Indexes = npt.NDArray[np.int64]
ABSENT = -1
_WORDS = struct.Struct("<QQ")


def row(uris: Sequence[str], versions: Sequence[str], upto: Sequence[int]) -> pa.RecordBatch:
    """Rows of a bookmark."""
    return pa.RecordBatch.from_arrays(
        [pa.array(uris, pa.string()), pa.array(versions, pa.string()), pa.array(upto, pa.int64())],
        schema=ROW,
    )


class KnownObjects:
    """The objects of a bookmark, found by the hash of their URI: about 150 bytes for each.

    Args:
        bookmark: What earlier runs left.
    """

    def __init__(self, bookmark: Bookmark) -> None:
        table = pa.Table.from_batches(_sound(bookmark.last), ROW)
        touched = pa.Table.from_batches(_sound(bookmark.touched), ROW)
        self._rows = pa.concat_tables([table, touched]).combine_chunks()
        hashes = _hashes(_texts(self._rows))
        upto = self._rows.column("upto").to_numpy()
        # Last by last, so that what was touched comes after what the bookmark says of it.
        order = np.lexsort((np.arange(len(hashes)), hashes[:, 1], hashes[:, 0]))
        hashes = hashes[order]
        one = np.ones(min(len(hashes), 1), np.bool_)
        last = np.r_[(hashes[1:] != hashes[:-1]).any(axis=1), one]
        starts = np.flatnonzero(np.r_[one, last[:-1]])
        self._hashes = hashes[last]
        self._words = np.ascontiguousarray(self._hashes[:, 0])
        self._index = order[last]
        """Row of each known object, that which was touched before the other."""
        self._upto = (
            np.maximum.reduceat(upto[order], starts) if len(starts) else np.zeros(0, np.int64)
        )
        self._first = np.minimum.reduceat(order, starts) if len(starts) else order
        self._were_there = table.num_rows
        self._versions = _chunk(self._rows, "version")
        self._seen = np.zeros(len(self._hashes), np.bool_)
        for batch in _sound(bookmark.so_far):
            for uri in batch.column("uri").to_pylist():
                self.see_one(self.find_one(uri))

    @property
    def count(self) -> int:
        """How many objects the last successful run knew."""
        return self._were_there

    def has_any_below(self, uri: str) -> bool:
        """Whether the last successful run knew an object there."""
        uris = self._rows.column("uri").slice(0, self._were_there)
        return bool(pc.any(pc.starts_with(uris, f"{uri.rstrip('/')}/")).as_py())

    def find_one(self, uri: str) -> int:
        """Index of an object, `ABSENT` if it is not known."""
        high, low = _WORDS.unpack(_digest(uri))
        place = int(self._words.searchsorted(np.uint64(high)))
        # Two objects whose hashes begin alike stand next to each other.
        while place < len(self._words) and self._words[place] == high:
            if self._hashes[place, 1] == low:
                return place
            place += 1
        return ABSENT

    def see_one(self, index: int) -> None:
        """Note that an object is there."""
        if index != ABSENT:
            self._seen[index] = True

    def version(self, index: int) -> str:
        """Version of a known object; empty if that is not certain."""
        return self._versions[int(self._index[index])].as_py()

    def was_there(self, index: int) -> bool:
        """Whether the last successful run knew the object."""
        return index != ABSENT and bool(self._first[index] < self._were_there)

    def upto(self, index: int) -> int:
        """Where the records of an object end; 0 for one that is not known."""
        return 0 if index == ABSENT else int(self._upto[index])

    def rows(self, indexes: Indexes) -> Iterator[pa.RecordBatch]:
        """Rows of the next bookmark for objects that did not change."""
        taken = self._rows.take(pa.array(self._index[indexes]))
        yield from taken.combine_chunks().to_batches(max_chunksize=65_536)

    def gone(self) -> Iterator[tuple[str, int, bool]]:
        """Objects that were not seen: URI, end of the records, whether the last bookmark has it."""
        missing = np.flatnonzero(~self._seen)
        for start in range(0, len(missing), 65_536):
            some = missing[start : start + 65_536]
            uris = self._rows.column("uri").take(pa.array(self._index[some])).to_pylist()
            known = (self._first[some] < self._were_there).tolist()
            yield from zip(uris, self._upto[some].tolist(), known, strict=True)


def _sound(batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Those with rows; a bookmark of nothing has no columns either."""
    return [batch.cast(ROW) for batch in batches if batch.num_rows]


def _texts(rows: pa.Table) -> Iterator[Sequence[str]]:
    for batch in rows.select(["uri"]).to_batches(max_chunksize=65_536):
        yield batch.column(0).to_pylist()


def _chunk(rows: pa.Table, name: str) -> pa.Array:
    chunks = rows.column(name).chunks
    return chunks[0] if chunks else pa.array([], pa.string())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _hashes(texts: Iterable[Sequence[str]]) -> npt.NDArray[np.uint64]:
    digests = b"".join(_digest(text) for some in texts for text in some)
    return np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2)
