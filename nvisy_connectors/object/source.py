"""Reading objects of any store, in any format."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

import pyarrow as pa

from nvisy_connectors.object.changes import ObjectChanges
from nvisy_connectors.object.chosen import Choice
from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.decoding import Decoder, can_decode
from nvisy_connectors.object.folder import Folder, ObjectInfo
from nvisy_connectors.object.formats.reader import Reader
from nvisy_connectors.object.formats.readers import READERS
from nvisy_connectors.object.params import ReadParams
from nvisy_dagster.sdk import (
    Batch,
    Bookmark,
    Change,
    ConfigError,
    Decoded,
    EdgeType,
    RejectedRecord,
    Source,
)
from nvisy_dagster.sdk.envelope import ENVELOPE

P = TypeVar("P", bound=ReadParams)


class ObjectSource(Source[P, ObjectCursor]):
    """Lists the objects of a folder and reads one after the other.

    A connector says in `make_folder` where the objects are.
    """

    skips_bad_records = True
    bookmarks = True
    decodes = True
    objects: Folder

    @abstractmethod
    async def make_folder(self) -> Folder:
        """Where the objects are.

        Raises:
            ConfigError: There is no such place.
        """

    async def open(self) -> None:
        """Ask for the first page of the listing, so that what is refused is told at once."""
        self.objects = await self.make_folder()
        self.stack.callback(self.objects.close)
        async with aclosing(self.objects.listing()) as pages:
            await anext(pages, None)

    def output(self) -> EdgeType:
        """Documents of `text`, blobs of `binary`, rows of others, typed if `columns` says how."""
        reader = READERS[self.params.format]
        declared = reader.declared(self.params)
        schema = None if declared is None else pa.schema([*ENVELOPE, *declared])
        return EdgeType(reader.primitive, schema)

    def check_on_error(self, on_error: str) -> None:
        """Refuse to keep lines that drift as dead letters where there are none."""
        jsonl = self.params.jsonl
        if jsonl is not None and jsonl.on_drift == "dead_letter" and on_error != "dead_letter":
            raise ConfigError(
                f'lines that drift are to be dead letters, and "on_error" of the node is '
                f'"{on_error}"',
                remedy='set "on_error": "dead_letter" on the node; or leave out "on_drift", and '
                "what becomes of them is what becomes of other bad lines",
                place=("jsonl", "on_drift"),
            )

    async def read(self, cursor: ObjectCursor | None) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """Objects in the order of their keys, each from its first record to its last.

        An empty folder has no records. That files are there and `glob` chooses none of them, or
        that nothing has the prefix, is an error.

        Raises:
            ConfigError: The object in which the cursor stands is not what it was, or nothing is
                where the params say.
        """
        begun = None if cursor is None or cursor.offset is None else await self._resumed(cursor)
        reader = self._reader()
        objects = self._objects(cursor, begun)
        async with aclosing(reader.read(objects, cursor)) as batches:
            async for batch in batches:
                yield batch

    async def read_changes(
        self, cursor: ObjectCursor | None, bookmark: Bookmark
    ) -> AsyncGenerator[Change[ObjectCursor], None]:
        """Objects that are new, or whose version changed, and what is gone; see `read`."""
        begun = None if cursor is None or cursor.offset is None else await self._resumed(cursor)
        changes = ObjectChanges(self.objects, bookmark, cursor, begun)
        reader = self._reader()
        was_there = bool(bookmark.last)
        listed = self._objects(cursor, begun, may_be_empty=bookmark.may_empty and was_there)
        async with aclosing(changes.read(listed, lambda some: reader.read(some, cursor))) as steps:
            async for step in steps:
                yield step

    def can_decode(self, rejected: RejectedRecord) -> bool:
        """A line whose bytes were kept, or an object that can be read again whole."""
        return can_decode(self.params.format, rejected)

    async def decode(self, rejected: Sequence[RejectedRecord]) -> AsyncGenerator[Decoded, None]:
        """Lines from their bytes; whole objects as they are now, or were if they are gone."""
        async with aclosing(Decoder(self.params, self.objects).decode(rejected)) as found:
            async for decoded in found:
                yield decoded

    def _reader(self) -> Reader:
        reader = READERS[self.params.format](
            self.params,
            self.objects,
            rejects=self.bad_records == "reject",
            rows_at_most=self.rows_at_most,
        )
        reader.hint = self.hint
        return reader

    async def _objects(
        self,
        cursor: ObjectCursor | None,
        begun: ObjectInfo | None,
        *,
        may_be_empty: bool = False,
    ) -> AsyncGenerator[ObjectInfo, None]:
        if begun is not None:
            yield begun
        choice = Choice(self.params, self.objects)
        matched = cursor is not None  # then some object was read already
        async with aclosing(self.objects.listing(cursor.key if cursor else None)) as pages:
            async for page in pages:
                for info in choice.of(page):
                    matched = True
                    yield info
        if not matched and (choice.any_listed or not may_be_empty):
            self._check_emptiness(choice)

    def _check_emptiness(self, choice: Choice) -> None:
        """Tell a place that is empty from one that was not meant.

        A sink that replaces what earlier runs wrote would end up empty because of a typing error.
        """
        if choice.left_out is not None and self.params.glob:
            raise ConfigError(
                f"the glob {self.params.glob!r} matches none of the files in {self.location()}",
                remedy="check `glob`: `*` stays within a folder, `**/*` enters all of them",
                tag="not_found",
            )
        if choice.left_out is not None:
            raise ConfigError(
                f"{self.objects.uri(choice.left_out.key)} and all else there has a name by which "
                "it is left out: what begins with `_` or `.` is no part of a table",
                remedy="if it is to be read, begin `glob` with the same sign, such as `_*`",
                tag="not_found",
            )
        if not choice.any_listed and not self.objects.may_be_empty:
            raise ConfigError(
                f"there is nothing at {self.location()}",
                remedy="check `prefix`: nothing in the bucket begins with it",
                tag="not_found",
            )

    async def _resumed(self, cursor: ObjectCursor) -> ObjectInfo:
        info = await self.objects.head(cursor.key)
        if info is None or info.version != cursor.version:
            what = "is gone" if info is None else "changed"
            raise ConfigError(
                f"{self.objects.uri(cursor.key)} {what} after a part of it was read, "
                "so the read cannot go on where it stopped",
                remedy="run the graph again from the beginning",
                tag="changed",
            )
        return info
