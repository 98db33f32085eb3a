"""Which points an epoch has made stale: what is left of the roots that it wrote anew.

A document that became shorter gives fewer chunks; those of its earlier life must go. Ids are kept
as numbers, 32 bytes a record, until the epoch is committed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.vector.qdrant.points import format_uuids

_IDS_PER_DELETE = 4096
"""Ids that one request names (160 kB), unless one root has more."""
_TABLE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Renewal:
    """Some roots and all that was written for them."""

    roots: list[str]
    keep: list[str]


class WrittenRoots:
    """The roots that earlier epochs of a run wrote, where there was nothing before it.

    A bit for each half of an id, in a table of fixed size. One that is taken for another costs a
    request that removes nothing; of ten million roots it is one in ten.
    """

    def __init__(self) -> None:
        self._bits = np.zeros(_TABLE_BYTES, np.uint8)

    def add(self, roots: "np.ndarray[Any, Any]") -> None:
        """Note roots."""
        for place, bit in _places(roots):
            np.bitwise_or.at(self._bits, place, bit)

    def among(self, roots: "np.ndarray[Any, Any]") -> npt.NDArray[np.bool_]:
        """Whether each may be one of them."""
        found = [self._bits[place] & bit != 0 for place, bit in _places(roots)]
        return np.logical_and.reduce(found)


def _places(roots: "np.ndarray[Any, Any]") -> Iterator[tuple[Any, Any]]:
    # Ids are hashes: any of their bits will do.
    words = np.ascontiguousarray(roots).view(np.uint64).reshape(-1, 2)
    for half in (words[:, 0], words[:, 1]):
        place = half % np.uint64(8 * _TABLE_BYTES)
        bit = np.left_shift(np.uint8(1), (place & np.uint64(7)).astype(np.uint8))
        yield (place >> np.uint64(3)).astype(np.int64), bit


@dataclass
class Epoch:
    """The records written since the last commit."""

    _ids: list[bytes] = field(default_factory=list)
    _roots: list[bytes] = field(default_factory=list)
    _gone: list[bytes] = field(default_factory=list)

    def add(self, batch: pa.RecordBatch) -> None:
        """Note records that were written."""
        self._ids.append(_raw(batch.column("_id")))
        self._roots.append(_raw(batch.column("_root_id")))

    def remove(self, roots: pa.Array) -> None:
        """Note roots of which nothing is to be left but what this epoch writes."""
        self._gone.append(_raw(roots))

    @property
    def removes(self) -> bool:
        """Whether any roots are to be removed."""
        return any(self._gone)

    def renewals(
        self, *, every_root: bool = True, among: WrittenRoots | None = None
    ) -> Iterator[Renewal]:
        """The records by root, in groups that one request can name; no root is split.

        Args:
            every_root: Whether all roots that were written are meant, or only those that are to be
                removed.
            among: Of which roots there may be anything; by default of all.
        """
        ids, roots = _joined(self._ids), _joined(self._roots)
        yield from self._removed(roots, among)
        meant = np.ones(len(roots), np.bool_)
        if not every_root:
            meant = np.isin(_sortable(roots), _sortable(_joined(self._gone)))
        if among is not None:
            meant &= among.among(roots)
        if not meant.all():
            ids, roots = ids[meant], roots[meant]
        if not len(ids):
            return
        words = roots.view(np.uint64).reshape(-1, 2)
        order = np.lexsort((words[:, 1], words[:, 0]))
        ids, words = ids[order], words[order]
        starts = np.flatnonzero(np.r_[True, (words[1:] != words[:-1]).any(axis=1)])
        ends = np.r_[starts[1:], len(ids)]
        first = 0
        while first < len(starts):
            # At least one root, then as many as fit.
            limit = starts[first] + _IDS_PER_DELETE
            last = max(first + 1, int(np.searchsorted(ends, limit, side="right")))
            begin, end = int(starts[first]), int(ends[last - 1])
            names = np.ascontiguousarray(words[starts[first:last]]).view("V16").ravel()
            yield Renewal(format_uuids(names.tolist()), format_uuids(ids[begin:end].tolist()))
            first = last

    def _removed(
        self, written: "np.ndarray[Any, Any]", among: WrittenRoots | None
    ) -> Iterator[Renewal]:
        """The roots of which nothing was written."""
        gone = np.setdiff1d(_sortable(_joined(self._gone)), _sortable(written)).view("V16")
        raw = (gone if among is None else gone[among.among(gone)]).tolist()
        for start in range(0, len(raw), _IDS_PER_DELETE):
            yield Renewal(format_uuids(raw[start : start + _IDS_PER_DELETE]), [])

    def note_roots(self, written: WrittenRoots) -> None:
        """Add the roots that were written."""
        written.add(_joined(self._roots))

    def clear(self) -> None:
        """Forget the records: the epoch is committed."""
        self._gone.clear()
        self._ids.clear()
        self._roots.clear()


def _joined(ids: list[bytes]) -> "np.ndarray[Any, Any]":
    return np.frombuffer(b"".join(ids), "V16")


def _sortable(ids: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Ids as numpy records, which can be compared."""
    return ids.view([("first", np.uint64), ("second", np.uint64)])


def _raw(column: pa.Array) -> bytes:
    start = 16 * column.offset
    buffer = column.buffers()[1]
    return b"" if buffer is None else buffer[start : start + 16 * len(column)].to_pybytes()
