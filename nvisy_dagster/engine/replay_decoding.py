"""The letters of a source, tried again: its own component decodes what it had rejected.

Under the id of the node itself, so that what fails again is a letter of that node, with one more
attempt, and what can be read now goes down the node's edges.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
from pydantic import Field

from nvisy_dagster.compiler import Node
from nvisy_dagster.engine.dead_letter import letter_ids
from nvisy_dagster.engine.replay_records import (
    ReplayCursor,
    ReplayParams,
    ReplaySource,
    rejected_of,
)
from nvisy_dagster.sdk import Batch, Connection, EdgeType, Params, RejectedRecord, Source

pc = cast("Any", pyarrow.compute)


class DecodingParams(Params):
    """Params of `DecodingSource`."""

    letters: ReplayParams
    """What was rejected."""
    component: type[Any] = Field(exclude=True)
    """The source that had rejected it."""
    asked: Params = Field(exclude=True)
    """What that source is told now."""
    told: Mapping[str, Any]
    """The same as JSON: told something else, it makes other records."""


class DecodingCursor(ReplayCursor):
    """How many batches of letters were decoded, and how many batches of the next one were made."""

    made: int = 0


class DecodingSource(Source[DecodingParams, DecodingCursor]):
    """Has a source try again what it had rejected."""

    name = "dead_letters_of_source"
    skips_bad_records = True

    def __init__(
        self,
        params: DecodingParams,
        connection: Connection | None = None,
        *,
        node_id: str = "",
        folder: Path | None = None,
    ) -> None:
        super().__init__(params, connection, node_id=node_id, folder=folder)
        self._source: Source[Any, Any] = params.component(
            params.asked, connection, node_id=node_id, folder=folder
        )

    async def open(self) -> None:
        """Open the source."""
        await self.stack.enter_async_context(self._source)

    def location(self) -> str | None:
        """Where the source reads."""
        return self._source.location()

    def output(self) -> EdgeType:
        """What the source reads."""
        return self._source.output()

    async def read(
        self, cursor: DecodingCursor | None
    ) -> AsyncGenerator[Batch[DecodingCursor], None]:
        """What was rejected, decoded now, in the order in which it was.

        Raises:
            StorageError: The file of letters is gone or damaged.
        """
        number, skip = (cursor.batches, cursor.made) if cursor else (0, 0)
        # All of them, whatever was closed since: they must be cut as they were before.
        whole = self.params.letters.model_copy(update={"closed": frozenset[bytes]()})
        letters = ReplaySource(whole)
        async with aclosing(letters.read(ReplayCursor(batches=number))) as batches:
            async for batch in batches:
                async with aclosing(self._decoded(batch.data, batch.cursor, skip)) as found:
                    async for decoded in found:
                        yield decoded
                skip = 0

    async def _decoded(
        self, letters: pa.RecordBatch, after: ReplayCursor, skip: int
    ) -> AsyncGenerator[Batch[DecodingCursor], None]:
        rejected = list(rejected_of(letters))
        if not rejected:
            return
        made, closed = 0, _Closed(self.params.letters, letters)
        async with aclosing(self._source.decode(rejected)) as found:
            async for decoded in found:
                made += 1
                if made > skip:
                    cursor = DecodingCursor(batches=after.batches - 1, made=made)
                    yield Batch(closed.without(decoded.data), cursor, closed.none(decoded.rejected))


class _Closed:
    """Which letters of a batch are closed, and what is made of them is left out.

    Args:
        params: Tells the letters that are closed.
        letters: The records of the batch.
    """

    def __init__(self, params: ReplayParams, letters: pa.RecordBatch) -> None:
        self._node, self._closed = params.node, params.closed
        self._places: set[tuple[str, int | None]] = set()
        if not self._closed:
            return
        ids = letter_ids(self._node, letters).to_pylist()
        places = letters.column("_source").to_pylist()
        still_open: set[str] = set()
        for id_, place in zip(ids, places, strict=True):
            if id_ in self._closed:
                self._places.add((place["uri"], place["position"]))
            else:
                still_open.add(place["uri"])
        self._objects = {uri for uri, place in self._places if place is None} - still_open

    def without(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """Records that are of none of them."""
        if not self._places:
            return records
        closed = pa.array(sorted(self._closed), pa.binary(16))
        left_out = pc.is_in(letter_ids(self._node, records), closed)
        uris = pc.struct_field(records.column("_source"), "uri")
        of_objects = pc.is_in(uris, pa.array(sorted(self._objects), uris.type))
        return records.filter(pc.invert(pc.or_(left_out, of_objects)))

    def none(self, rejected: Sequence[RejectedRecord]) -> list[RejectedRecord]:
        """What was rejected again of none of them."""
        return [one for one in rejected if (one.uri, one.position) not in self._places]


def decoding_node(node: Node, letters: ReplayParams) -> Node:
    """The node of a source, as a replay of its letters runs it."""
    params = DecodingParams(
        letters=letters,
        component=node.component,
        asked=node.params,
        told=node.params.model_dump(mode="json"),
    )
    return replace(node, component=DecodingSource, params=params, incremental=False)
