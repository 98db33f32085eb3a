"""A source that tells every change that it sees: a document may come more than once in a run."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pyarrow as pa

from nvisy_dagster.sdk import Batch, Bookmark, Change, Cursor, EdgeType, Params, Source
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import ids_to_array, root_ids

COLUMNS = pa.schema([
    pa.field("text", pa.string(), nullable=False),
    pa.field("title", pa.string()),
    pa.field("mime_type", pa.string()),
    pa.field("language", pa.string()),
])


class FeedParams(Params):
    path: Path
    """JSON: a list of steps, each a name and its text, or null for one that is gone."""
    from_step: int = 0
    """Steps before it were told by earlier runs."""


class FeedCursor(Cursor):
    step: int


class FeedSource(Source[FeedParams, FeedCursor]):
    """Tells step by step."""

    name = "feed"
    bookmarks = True

    def output(self) -> EdgeType:
        return EdgeType("document")

    def location(self) -> str:
        return "feed:"

    async def read(self, cursor: FeedCursor | None) -> AsyncGenerator[Batch[FeedCursor], None]:
        async for change in self.read_changes(cursor, Bookmark()):
            if change.batch is not None:
                yield change.batch

    async def read_changes(
        self, cursor: FeedCursor | None, bookmark: Bookmark
    ) -> AsyncGenerator[Change[FeedCursor], None]:
        steps: list[dict[str, str | None]] = json.loads(self.params.path.read_text())
        told = max([batch["step"][0].as_py() for batch in bookmark.last], default=0)
        for number in range(cursor.step if cursor else told, len(steps)):
            after = FeedCursor(step=number + 1)
            step = steps[number]
            texts = {name: text for name, text in step.items() if text is not None}
            gone = [name for name, text in step.items() if text is None]
            yield Change(
                after,
                batch=Batch(_documents(texts), after) if texts else None,
                gone=ids_to_array(np.concatenate([_id(name) for name in gone])) if gone else None,
                bookmark=pa.record_batch({"step": [number + 1]}),
            )


def _id(name: str) -> "np.ndarray[tuple[int, int], np.dtype[np.uint64]]":
    return root_ids(f"feed:{name}", np.zeros(1, np.int64))


def _documents(texts: dict[str, str]) -> pa.RecordBatch:
    nothing = [None] * len(texts)
    columns = pa.RecordBatch.from_arrays(
        [
            pa.array(texts.values(), pa.string()),
            pa.array(texts, pa.string()),
            pa.array(nothing, pa.string()),
            pa.array(nothing, pa.string()),
        ],
        schema=COLUMNS,
    )
    return with_envelope(
        columns,
        ids=np.concatenate([_id(name) for name in texts]),
        uri=pa.array([f"feed:{name}" for name in texts]),
        positions=np.zeros(len(texts), np.int64),
    )
