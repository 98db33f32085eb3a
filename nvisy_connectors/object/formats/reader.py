"""What a format must do to be read, and how objects become groups of spans."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import ClassVar

import pyarrow as pa

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import Folder, ObjectInfo, Span, Torn
from nvisy_connectors.object.formats.fetched import Fetched
from nvisy_connectors.object.formats.inflating import Inflater
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import iterate_in_thread, ordered_map
from nvisy_connectors.object.read_memory import ReadMemory
from nvisy_dagster.sdk import Batch, DataError
from nvisy_dagster.sdk.push_down import NO_HINT, Hint

FETCHES = 2
"""Groups of spans that are fetched ahead."""

DECODES = 2
"""Groups that are decoded at once, each in one thread: two keep two cores busier than the threads
that Arrow would start for one, which wait for each other at its end."""

MAX_SPANS = 1024
"""Objects in one group, whatever their size."""

Objects = AsyncGenerator[ObjectInfo, None]


class Reader(ABC):
    """Reads objects of one format.

    Args:
        params: What the source was told.
        folder: Where the objects are.
        rejects: Whether what cannot become a record goes into the batch as rejected; else it is an
            error.
        rows_at_most: Tells how many records the next batch may hold, of those that it would.
    """

    primitive: ClassVar[str]
    hint: Hint = NO_HINT
    """What may be left out; set before `read`."""

    def __init__(
        self,
        params: ReadParams,
        folder: Folder,
        *,
        rejects: bool = False,
        rows_at_most: Callable[[int], int] = int,
    ) -> None:
        self.params = params
        self.folder = folder
        self.rejects = rejects
        self._rows_at_most = rows_at_most

    @property
    def memory(self) -> ReadMemory | None:
        """What is fetched is read into, for a format that gives it back."""
        return None

    @property
    def batch_rows(self) -> int:
        """Most records in the next batch; asked again for each, since it may change."""
        return self._rows_at_most(self.params.batch_rows)

    @staticmethod
    @abstractmethod
    def declared(params: ReadParams) -> pa.Schema | None:
        """Payload schema as far as the params tell; pure."""

    @abstractmethod
    def read(
        self, objects: Objects, resume: ObjectCursor | None
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """Batches of the objects, in their order.

        Args:
            objects: What to read; closed when done.
            resume: Where to begin in the first object, if not at its beginning.
        """

    async def contents(
        self, objects: Objects, resume: ObjectCursor | None
    ) -> AsyncGenerator[Fetched, None]:
        """What objects hold, decoded if they are compressed, in groups of a batch.

        Args:
            objects: What to read; closed when done.
            resume: Where to begin in the first object.
        """
        start = (resume.offset or 0) if resume else 0
        inflater = Inflater(self.params)
        groups = self.inflated(self._spans_of(objects, start, inflater), inflater)
        async with aclosing(groups):
            async for group in groups:
                yield group

    async def _spans_of(
        self, objects: Objects, start: int, inflater: Inflater
    ) -> AsyncGenerator[Span, None]:
        async with aclosing(objects):
            async for info in objects:
                begin = start
                if start and inflater.codec(info):
                    inflater.resume(info, start)
                    begin = 0
                for span in self.pieces(info, begin, inflater):
                    yield span
                start = 0

    def torn(self, uri: str, place: str, torn: Torn) -> DataError:
        """The error that an object breaks off."""
        return DataError(
            f"{uri}{place}: {torn.reason}",
            rows={},
            remedy=torn.remedy,
            tag=torn.tag,
        )

    def pieces(self, info: ObjectInfo, start: int, inflater: Inflater) -> Iterator[Span]:
        """Spans of the size of a batch, until nothing can be made of the rest."""
        step = self.params.batch_bytes
        for place in range(start, info.size, step):
            if inflater.is_done_with(info):
                return
            yield Span(info, place, min(place + step, info.size))

    async def inflated(
        self, spans: AsyncGenerator[Span, None], inflater: Inflater
    ) -> AsyncGenerator[Fetched, None]:
        """Fetch spans in groups of a batch, and decode those of compressed objects."""
        fetched = self.fetch(spans)
        async with aclosing(fetched):
            async for group in fetched:
                if inflater.passes(group):
                    yield group
                    continue
                decoded = iterate_in_thread(inflater.inflate(group))
                async with aclosing(decoded):
                    async for one in decoded:
                        yield one
        if inflater.keeps_some:
            yield inflater.rest()

    def fetch(self, spans: AsyncGenerator[Span, None]) -> AsyncGenerator[Fetched, None]:
        """Fetch spans in groups of a batch, some groups ahead."""

        async def fetch(group: list[Span]) -> Fetched:
            return Fetched(group, await self.folder.fetch(group, self.memory))

        return ordered_map(self._groups(spans), fetch, FETCHES)

    async def _groups(self, spans: AsyncGenerator[Span, None]) -> AsyncGenerator[list[Span], None]:
        group: list[Span] = []
        size = 0
        most = min(MAX_SPANS, self.params.batch_rows)
        async with aclosing(spans):
            async for span in spans:
                if group and (size + span.size > self.params.batch_bytes or len(group) >= most):
                    yield group
                    group, size = [], 0
                group.append(span)
                size += span.size
        if group:
            yield group
