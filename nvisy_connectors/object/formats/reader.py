"""What a format must do to be read, and how objects become groups of spans."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import Folder, ObjectInfo, Span
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import ordered_map
from nvisy_dagster.sdk import Batch

FETCHES = 2
"""Groups of spans that are fetched ahead."""

DECODES = 2
"""Groups that are decoded at once, each in one thread: two keep two cores busier than the threads
that Arrow would start for one, which wait for each other at its end."""

MAX_SPANS = 1024
"""Objects in one group, whatever their size."""

Objects = AsyncGenerator[ObjectInfo, None]


@dataclass(frozen=True)
class Fetched:
    """Some neighbouring spans and their bytes."""

    spans: list[Span]
    data: list[bytes]


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

    def fetch(self, spans: AsyncGenerator[Span, None]) -> AsyncGenerator[Fetched, None]:
        """Fetch spans in groups of a batch, some groups ahead."""

        async def fetch(group: list[Span]) -> Fetched:
            return Fetched(group, await self.folder.fetch(group))

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
