"""Trying again what could not be read: lines from their bytes, objects from where they are.

Both go through the reader of the format, so that what is made of them is what a read makes: lines
as those of an object that holds nothing else, whose numbers are then put right.
"""

import datetime as dt
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.chosen import Choice
from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import Folder, ObjectInfo
from nvisy_connectors.object.formats.csv_decoding import LAYOUT, reread
from nvisy_connectors.object.formats.csv_reader import CsvReader
from nvisy_connectors.object.formats.reader import Objects
from nvisy_connectors.object.formats.readers import READERS
from nvisy_connectors.object.formats.whole import WholeReader
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import in_thread
from nvisy_connectors.object.remembered import Kept, RememberedFolder
from nvisy_dagster.sdk import Batch, Decoded, RejectedRecord
from nvisy_dagster.sdk.envelope import ENVELOPE, SOURCE, payload, with_envelope
from nvisy_dagster.sdk.identity import root_ids_of

LINES = frozenset({"jsonl"})
"""Formats in which what was rejected is a line, whose position is its number."""

RECORDS = frozenset({"csv"})
"""Formats in which it is a record, which may have several lines, or a whole file."""

_PLACE = re.compile(r"line \d+ \(byte \d+\): ")
_FIRST = 2
"""Number of the first line that was kept: a blank one comes before it, so that none is taken for
the begin of a file, where a byte order mark is left out."""

_NOTHING = "nothing can be made of it"
_NO_RECORDS = pa.RecordBatch.from_pylist([], ENVELOPE)


def can_decode(kind: str, rejected: RejectedRecord) -> bool:
    """Whether what was rejected can be tried again.

    Args:
        kind: Name of the format.
        rejected: What was rejected.
    """
    if kind in RECORDS and rejected.position is not None:
        return rejected.data is not None and LAYOUT in rejected.metadata
    if kind in LINES:
        data, position = rejected.data, rejected.position
        return data is not None and position is not None and b"\n" not in data
    # Of a file of many records only all of it: what was read of it before must not come again.
    return issubclass(READERS[kind], WholeReader) or rejected.position is None


class Decoder:
    """Tries again what one source could not read.

    Args:
        params: What the source is told now.
        folder: Where its objects are now.
    """

    def __init__(self, params: ReadParams, folder: Folder) -> None:
        self._params = _lenient(params)
        self._folder = folder
        self._reader = READERS[params.format]

    async def decode(self, rejected: Sequence[RejectedRecord]) -> AsyncGenerator[Decoded, None]:
        """What they are now; see `Source.decode`."""
        settled = await self._settled()
        there = {uri: await self._there(uri) for uri in dict.fromkeys(r.uri for r in rejected)}
        if self._params.format in LINES:
            found = self._lines(rejected, there, settled)
        elif self._params.format in RECORDS:
            found = self._records(rejected, there, settled)
        else:
            found = self._objects(rejected, there, settled)
        async with aclosing(found):
            async for decoded in found:
                yield decoded

    async def _settled(self) -> ObjectCursor | None:
        """Where the params do not tell the columns: those that a read finds now."""
        if self._reader.declared(self._params) is not None:
            return None
        reader = self._reader(self._params, self._folder, rejects=True)
        async with aclosing(reader.read(self._listed(), None)) as batches:
            async for batch in batches:
                if batch.cursor.columns is not None:
                    return ObjectCursor(key="", version="", columns=batch.cursor.columns)
        return None

    async def _listed(self) -> Objects:
        choice = Choice(self._params, self._folder)
        async with aclosing(self._folder.listing()) as pages:
            async for page in pages:
                for info in choice.of(page):
                    yield info

    async def _there(self, uri: str) -> ObjectInfo | None:
        """The object as it is now, if it is still where the source reads."""
        tail = uri.removeprefix(self._folder.uri(""))
        for key in dict.fromkeys((tail, tail[1:], unquote(tail), unquote(tail[1:]))):
            if key and self._folder.uri(key) == uri:
                return await self._folder.head(key)
        return None

    async def _lines(
        self,
        rejected: Sequence[RejectedRecord],
        there: dict[str, ObjectInfo | None],
        settled: ObjectCursor | None,
    ) -> AsyncGenerator[Decoded, None]:
        kept: dict[str, list[RejectedRecord]] = {}
        for one in rejected:
            kept.setdefault(one.uri, []).append(one)
        folder = _folder_of({
            uri: b"\n" + b"\n".join(one.data or b"" for one in some) for uri, some in kept.items()
        })
        waiting = {(one.uri, one.position) for one in rejected}
        async with aclosing(self._read(folder, folder.infos(), settled)) as batches:
            async for batch in batches:
                decoded = _in_place(batch, kept, there)
                waiting -= _places(decoded.data)
                waiting -= {(one.uri, one.position) for one in decoded.rejected}
                yield decoded
        if left := [one for one in rejected if (one.uri, one.position) in waiting]:
            yield Decoded(_NO_RECORDS, _refused(left, _NOTHING))

    async def _records(
        self,
        rejected: Sequence[RejectedRecord],
        there: dict[str, ObjectInfo | None],
        settled: ObjectCursor | None,
    ) -> AsyncGenerator[Decoded, None]:
        kept = [one for one in rejected if one.position is not None]
        if kept:
            reader = CsvReader(self._params, self._folder, rejects=True)
            again = await in_thread(reread, reader, kept, settled)
            yield Decoded(_enclosed(again.rows, again.found, there), again.rejected)
        if files := [one for one in rejected if one.position is None]:
            async with aclosing(self._objects(files, there, settled)) as found:
                async for decoded in found:
                    yield decoded

    async def _objects(
        self,
        rejected: Sequence[RejectedRecord],
        there: dict[str, ObjectInfo | None],
        settled: ObjectCursor | None,
    ) -> AsyncGenerator[Decoded, None]:
        # As it is now, if it can be had: what was kept of it may be of an older version.
        now = [info for info in there.values() if info is not None]
        gone = {one.uri: one.data for one in rejected if there[one.uri] is None}
        folder = _folder_of({uri: data for uri, data in gone.items() if data is not None})
        for source, infos in ((self._folder, _each(now)), (folder, folder.infos())):
            async with aclosing(self._read(source, infos, settled)) as batches:
                async for batch in batches:
                    yield Decoded(batch.data, batch.rejected)
        lost = [one for one in rejected if one.uri in gone and one.data is None]
        if lost:
            yield Decoded(_NO_RECORDS, _refused(lost, "it is gone from where the source reads"))

    def _read(
        self, folder: Folder, infos: Objects, settled: ObjectCursor | None
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        params = self._params
        if folder is not self._folder:  # what was kept is decoded, whatever the key says
            params = params.model_copy(update={"compression": "none"})
        return self._reader(params, folder, rejects=True).read(infos, settled)


def _lenient(params: ReadParams) -> ReadParams:
    """The params with which a line that drifts is refused, and does not fail the read."""
    if params.jsonl is None or params.jsonl.on_drift != "fail":
        return params
    jsonl = params.jsonl.model_copy(update={"on_drift": None})
    return params.model_copy(update={"jsonl": jsonl})


async def _each(infos: Iterable[ObjectInfo]) -> Objects:
    for info in infos:
        yield info


def _folder_of(objects: dict[str, bytes]) -> RememberedFolder:
    """What was kept, by the address of the object that it was kept of."""
    epoch = dt.datetime.fromtimestamp(0, dt.UTC)
    return RememberedFolder({
        uri: Kept(ObjectInfo(uri, len(data), "kept", epoch), uri, data)
        for uri, data in objects.items()
    })


def _in_place(
    batch: Batch[ObjectCursor],
    kept: dict[str, list[RejectedRecord]],
    there: dict[str, ObjectInfo | None],
) -> Decoded:
    """Records of kept lines, as those of the object that the lines were in."""

    def was(uri: str, line: int | None) -> RejectedRecord:
        return kept[uri][(line or _FIRST) - _FIRST]

    found = [was(uri, line) for uri, line in _ordered_places(batch.data)]
    data = _enclosed(payload(batch.data), found, there)
    rejected: list[RejectedRecord] = []
    for one in batch.rejected:
        before = was(one.uri, one.position)
        place = before.metadata
        where = f"line {before.position} (byte {place['byte']}): " if "byte" in place else ""
        reason = where + _PLACE.sub("", one.reason, count=1)
        rejected.append(replace(before, reason=reason, tag=one.tag))
    return Decoded(data, rejected)


def _enclosed(
    rows: pa.RecordBatch, found: list[RejectedRecord], there: dict[str, ObjectInfo | None]
) -> pa.RecordBatch:
    """Rows with the envelope that they would have had, each at the place of a rejected record."""
    uris = [one.uri for one in found]
    times = [info.modified if (info := there[uri]) else None for uri in uris]
    places = np.array([one.position for one in found], np.int64)
    return with_envelope(
        rows,
        ids=root_ids_of(uris, np.ones(len(uris), np.int64), places),
        uri=pa.array(uris, SOURCE.field("uri").type),
        positions=places,
        created_at=pa.array(times, ENVELOPE.field("_created_at").type),
    )


def _ordered_places(records: pa.RecordBatch) -> list[tuple[str, int | None]]:
    return [(one["uri"], one["position"]) for one in records.column("_source").to_pylist()]


def _places(records: pa.RecordBatch) -> set[tuple[str, int | None]]:
    return set(_ordered_places(records))


def _refused(records: Iterable[RejectedRecord], reason: str) -> list[RejectedRecord]:
    return [replace(one, reason=f"{one.uri}: {reason}", tag="not_found") for one in records]
