"""Reading only the objects that are new or changed, and telling which are gone."""

from array import array
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import Folder, ObjectInfo
from nvisy_connectors.object.formats.reader import Objects
from nvisy_connectors.object.formats.records import TORN
from nvisy_connectors.object.known import ABSENT, Indexes, KnownObjects, row
from nvisy_dagster.sdk import Batch, Bookmark, Change, ChangeCounts, ConfigError
from nvisy_dagster.sdk.identity import ids_to_array, root_ids

IDS_PER_STEP = 1 << 20
"""Ids of records that are gone, in one step: 16 MB."""

MANY = 10
"""Objects that do not all vanish at once by intention, unless the graph says so."""

NO_CURSOR = ObjectCursor(key="", version="")


@dataclass
class _Read:
    """An object that was handed to the reader."""

    info: ObjectInfo
    index: int
    """Where it is known from; `ABSENT` for a new one."""
    upto: int = 0
    """Where the records end that were read so far."""
    kept: bool = False
    """Whether all of it could not be read: what was made of it stays."""


@dataclass
class _Unchanged:
    indexes: "array[int]" = field(default_factory=lambda: array("q"))


class ObjectChanges:
    """One incremental read.

    The listing is compared with the bookmark as it comes. What is new or changed goes to the
    reader, which runs ahead; all of it waits in order until the reader's batches have passed it.

    Args:
        objects: Where the objects are.
        bookmark: What earlier runs left.
        cursor: Where to go on.
        begun: The object in which the cursor stands.
    """

    def __init__(
        self,
        objects: Folder,
        bookmark: Bookmark,
        cursor: ObjectCursor | None,
        begun: ObjectInfo | None,
    ) -> None:
        self._objects = objects
        self._trusted = bookmark.trusted
        self._may_empty = bookmark.may_empty
        self._known = KnownObjects(bookmark)
        self._cursor = cursor or NO_CURSOR
        self._waiting: deque[_Read | _Unchanged] = deque()
        self._at = self._cursor
        """Position behind the last object that was listed."""
        if begun is not None:
            self._known.see_one(self._known.find_one(objects.uri(begun.key)))
        self._begun = begun

    async def read(
        self,
        listed: Objects,
        reader: Callable[[Objects], AsyncGenerator[Batch[ObjectCursor], None]],
    ) -> AsyncGenerator[Change[ObjectCursor], None]:
        """What is new, changed and gone.

        Args:
            listed: All objects from the cursor on, the begun one first.
            reader: Reads some of them.

        Raises:
            ConfigError: Nothing is left of many objects.
        """
        self._check_moved()
        async with aclosing(reader(self._changed(listed))) as batches:
            async for batch in batches:
                yield self._step(batch)
        for change in self._rest():
            yield change
        if not self._cursor.listed:
            await self._check_vanished()
            for change in self._gone():
                yield change

    def _all_may_go(self) -> bool:
        return self._may_empty or self._known.count < MANY

    def _check_moved(self) -> None:
        """Before anything is read: another place looks as if everything had been deleted.

        So does another graph of the same name that keeps its state in the same folder.
        """
        place = self._objects.uri("")
        if self._all_may_go() or self._known.has_any_below(place):
            return
        raise ConfigError(
            f"none of the {self._known.count:,} objects that the last run of this graph knew is at "
            f"{place}: all that was made of them would be removed",
            remedy="put the path right, or give this graph a name or a storage folder of its own; "
            'if the objects have moved, say "on_removed": "all" on this source',
            tag="conflict",
        )

    async def _check_vanished(self) -> None:
        """Tell a place that was emptied from one that is not there, such as an unmounted disk."""
        if self._all_may_go():
            return
        # Asked anew: a read that goes on may have nothing left to list.
        async with aclosing(self._objects.listing()) as pages:
            async for page in pages:
                if page:
                    return
        raise ConfigError(
            f"{self._objects.uri('')} is empty: all {self._known.count:,} objects that the last "
            "run knew are gone",
            remedy="see whether the disk is mounted and the path is right; if all of it was "
            'deleted, say "on_removed": "all" on this source, and everything made of it is removed',
            tag="not_found",
        )

    async def _changed(self, listed: Objects) -> Objects:
        async with aclosing(listed):
            async for info in listed:
                uri = self._objects.uri(info.key)
                index = self._known.find_one(uri)
                self._known.see_one(index)
                begun = self._begun is not None and info.key == self._begun.key
                if not begun:
                    self._at = ObjectCursor(key=info.key, version=info.version)
                if index != ABSENT and not begun and self._is_unchanged(index, info):
                    if not self._waiting or not isinstance(self._waiting[-1], _Unchanged):
                        self._waiting.append(_Unchanged())
                    last = self._waiting[-1]
                    assert isinstance(last, _Unchanged)  # noqa: S101 - just appended
                    last.indexes.append(index)
                    continue
                self._waiting.append(_Read(info, index, self._cursor.upto if begun else 0))
                yield info

    def _is_unchanged(self, index: int, info: ObjectInfo) -> bool:
        return self._trusted and self._known.version(index) == info.version

    def _step(self, batch: Batch[ObjectCursor]) -> Change[ObjectCursor]:
        """A batch of the reader, and all that is settled with it."""
        step = _Step(self._objects, self._known)
        cursor = batch.cursor
        by_uri = {self._objects.uri(e.info.key): e for e in self._waiting if isinstance(e, _Read)}
        step.take(batch, by_uri)
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, _Read) and first.info.key == cursor.key:
                if cursor.offset is None:
                    step.end(first)
                    self._waiting.popleft()
                else:
                    cursor = cursor.model_copy(update={"upto": first.upto})
                break
            step.end(first)
            self._waiting.popleft()
        self._cursor = cursor
        return step.change(cursor, batch)

    def _rest(self) -> Iterator[Change[ObjectCursor]]:
        """What the reader had no records of."""
        if not self._waiting:
            return
        step = _Step(self._objects, self._known)
        for entry in self._waiting:
            step.end(entry)
        self._waiting.clear()
        self._cursor = self._at.model_copy(update={"columns": self._cursor.columns})
        yield step.change(self._cursor, None)

    def _gone(self) -> Iterator[Change[ObjectCursor]]:
        """Objects of earlier runs that are not there any more."""
        removed = 0
        ids: list[pa.Array] = []
        for uri, upto, was_there in self._known.gone():
            removed += was_there
            for start in range(0, upto, IDS_PER_STEP):
                ids.append(_ids(uri, start, min(upto, start + IDS_PER_STEP)))
                if sum(map(len, ids)) >= IDS_PER_STEP:
                    yield Change(self._cursor, gone=pa.concat_arrays(ids))
                    ids = []
        if removed or ids:
            # Told once, in the last step, after which a resumed read tells nothing again.
            self._cursor = self._cursor.model_copy(update={"listed": True})
            gone = pa.concat_arrays(ids) if ids else None
            yield Change(self._cursor, gone=gone, counts=ChangeCounts(removed=removed))


class _Step:
    """What one step tells."""

    def __init__(self, objects: Folder, known: KnownObjects) -> None:
        self._objects = objects
        self._known = known
        self._gone: list[pa.Array] = []
        self._touched: tuple[list[str], list[int]] = ([], [])
        self._ended: list[_Read] = []
        self._unchanged: list[Indexes] = []

    def take(self, batch: Batch[ObjectCursor], waiting: dict[str, _Read]) -> None:
        """Note the records of a batch."""
        for one in batch.rejected:
            unknown = one.position is None or TORN.items() <= one.metadata.items()
            if unknown and one.uri in waiting:
                waiting[one.uri].kept = True
        places: defaultdict[str, list[Indexes]] = defaultdict(list)
        for uri, positions in _runs(batch.data):
            places[uri].append(positions)
        for one in batch.rejected:
            if one.position is not None:
                places[one.uri].append(np.array([one.position], np.int64))
        for uri, some in places.items():
            self._pass(uri, waiting[uri], np.concatenate(some))

    def _pass(self, uri: str, entry: _Read, positions: Indexes) -> None:
        upto = int(positions.max()) + 1
        if entry.index != ABSENT and upto - entry.upto != len(positions):
            lost = np.setdiff1d(np.arange(entry.upto, upto), positions)
            self._gone.append(_ids_at(uri, lost))
        entry.upto = upto
        self._touched[0].append(uri)
        self._touched[1].append(upto)

    def end(self, entry: "_Read | _Unchanged") -> None:
        """All of an object was read, or it did not change."""
        if isinstance(entry, _Unchanged):
            self._unchanged.append(np.array(entry.indexes, np.int64))
            return
        self._ended.append(entry)
        before = self._known.upto(entry.index)
        if entry.kept:
            entry.upto = max(entry.upto, before)
        elif before > entry.upto:
            uri = self._objects.uri(entry.info.key)
            self._gone.append(_ids(uri, entry.upto, before))

    def change(
        self, cursor: ObjectCursor, batch: Batch[ObjectCursor] | None
    ) -> Change[ObjectCursor]:
        """All of it as one step."""
        uris, upto = self._touched
        new = sum(not self._known.was_there(entry.index) for entry in self._ended)
        return Change(
            cursor,
            batch=batch,
            gone=pa.concat_arrays(self._gone) if self._gone else None,
            bookmark=self._rows(),
            touched=row(uris, [""] * len(uris), upto) if uris else None,
            counts=ChangeCounts(
                new=new,
                changed=len(self._ended) - new,
                unchanged=sum(map(len, self._unchanged)),
            ),
        )

    def _rows(self) -> pa.RecordBatch | None:
        rows = [
            row(
                [self._objects.uri(entry.info.key) for entry in self._ended],
                [entry.info.version for entry in self._ended],
                [entry.upto for entry in self._ended],
            )
        ]
        if self._unchanged:
            rows += self._known.rows(np.concatenate(self._unchanged))
        rows = [some for some in rows if some.num_rows]
        return pa.concat_batches(rows) if rows else None


def _runs(records: pa.RecordBatch) -> Iterator[tuple[str, Indexes]]:
    """The records of a batch by object: its URI and their positions."""
    if not records.num_rows:
        return
    source = records.column("_source")
    uris, positions = source.field("uri"), source.field("position").to_numpy()
    codes = uris.dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(codes)], strict=True):
        yield uris[start].as_py(), positions[start:end]


def _ids(uri: str, start: int, end: int) -> pa.Array:
    return _ids_at(uri, np.arange(start, end))


def _ids_at(uri: str, positions: Indexes) -> pa.Array:
    return ids_to_array(root_ids(uri, positions))
