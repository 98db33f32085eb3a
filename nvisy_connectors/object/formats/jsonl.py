"""JSON lines: every line is one row."""

import base64
from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import Span
from nvisy_connectors.object.formats import jsonl_errors, jsonl_parse
from nvisy_connectors.object.formats.columns import parse_columns
from nvisy_connectors.object.formats.line_blocks import Block, LineCutter, LongLineError
from nvisy_connectors.object.formats.reader import DECODES, Fetched, Objects, Reader
from nvisy_connectors.object.origins import Origin, check_names, enclose
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import in_thread, ordered_map
from nvisy_dagster.sdk import Batch, DataError

SAMPLE_BYTES = 8 << 20
"""What types are inferred from: the first lines of a read, of several objects if they are small."""

MAX_LINE_BYTES = 128 << 20

Blocks = list[Block]


@dataclass(frozen=True)
class _Decoded:
    """Rows of neighbouring blocks."""

    rows: pa.RecordBatch
    blocks: Blocks
    ends: list[int]
    """For each block, the row after its last."""


class JsonlReader(Reader):
    """Large objects are read in blocks of a batch; small ones share batches."""

    primitive: ClassVar[str] = "row"

    @staticmethod
    def declared(params: ReadParams) -> pa.Schema | None:
        """The declared columns; without them only the data tells."""
        if not isinstance(params.columns, dict):
            return None
        return check_names(parse_columns(params.columns), "`columns`")

    async def read(
        self, objects: Objects, resume: ObjectCursor | None
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """One record per line that is not blank; a record's position is its line number."""
        blocks = self._blocks(self.fetch(self._spans(objects, resume)), resume)
        async with aclosing(blocks):
            first, schema = await self._settle(blocks, resume)
            if schema is None:
                return
            token = _to_text(schema) if self.declared(self.params) is None else None
            decoded = ordered_map(
                _chain(first, blocks),
                lambda group: in_thread(self._decode, group, schema),
                DECODES,
            )
            skip = resume.skip if resume else 0
            async with aclosing(decoded):
                async for group in decoded:
                    skipped = min(skip, group.rows.num_rows)
                    skip -= skipped
                    for batch in self._cut(group, skipped, token):
                        yield batch

    async def _spans(
        self, objects: Objects, resume: ObjectCursor | None
    ) -> AsyncGenerator[Span, None]:
        start = (resume.offset or 0) if resume else 0
        step = self.params.batch_bytes
        async with aclosing(objects):
            async for info in objects:
                for place in range(start, info.size, step):
                    yield Span(info, place, min(place + step, info.size))
                start = 0

    async def _blocks(
        self, fetched: AsyncGenerator[Fetched, None], resume: ObjectCursor | None
    ) -> AsyncGenerator[Blocks, None]:
        cutter = LineCutter(resume.line if resume else 1, MAX_LINE_BYTES)

        def cut_group(group: Fetched) -> Blocks:
            fed = (cutter.feed(s, d) for s, d in zip(group.spans, group.data, strict=True))
            return [block for block in fed if block is not None]

        async with aclosing(fetched):
            async for group in fetched:
                try:
                    blocks = await to_thread.run_sync(cut_group, group)
                except LongLineError as error:
                    raise DataError(
                        f"{self.folder.uri(error.info.key)}: {error}",
                        rows={0: str(error)},
                        remedy="is this a file of JSON lines, one object per line?",
                        tag="too_large",
                    ) from error
                if blocks:
                    yield blocks

    async def _settle(
        self, blocks: AsyncGenerator[Blocks, None], resume: ObjectCursor | None
    ) -> tuple[list[Blocks], pa.Schema | None]:
        """The schema of the read, and the blocks that were taken to find it."""
        if (declared := self.declared(self.params)) is not None:
            return [], declared
        if resume is not None and resume.columns:
            return [], _from_text(resume.columns)
        first: list[Blocks] = []
        size = 0
        while size < SAMPLE_BYTES and (group := await anext(blocks, None)):
            first.append(group)
            size += sum(len(block.data) for block in group)
        if not first:
            return [], None
        return first, await to_thread.run_sync(self._infer, [b for group in first for b in group])

    def _infer(self, blocks: Blocks) -> pa.Schema | None:
        uri = self.folder.uri(blocks[0].info.key)
        try:
            schema = jsonl_parse.infer(blocks)
        except pa.ArrowInvalid as error:
            found = jsonl_errors.bad_lines_of_sample(blocks)
            uri = self.folder.uri(found[0].line.block.info.key)
            raise jsonl_errors.data_error(found, uri, jsonl_errors.DECLARE) from error
        if not schema.names and any(block.data.strip() for block in blocks):
            raise DataError(
                f"{uri}: the first lines have no fields", rows={}, remedy="declare `columns`"
            )
        return check_names(schema, uri) if schema.names else None

    def _decode(self, blocks: Blocks, schema: pa.Schema) -> _Decoded:
        tables: list[pa.RecordBatch] = []
        origins: list[Origin] = []
        for block in blocks:
            rows, origin = self._parse(block, schema)
            tables.append(rows)
            origins.append(origin)
        columns = tables[0] if len(tables) == 1 else pa.concat_batches(tables)
        ends = list(accumulate(table.num_rows for table in tables))
        return _Decoded(enclose(columns, origins, self.folder), blocks, ends)

    def _parse(self, block: Block, schema: pa.Schema) -> tuple[pa.RecordBatch, Origin]:
        declared = self.declared(self.params) is not None
        numbers = None
        try:
            rows = jsonl_parse.parse(block, schema, declared=declared)
            numbers = jsonl_parse.line_numbers(block, rows.num_rows)
        except pa.ArrowInvalid:
            rows = None
        if rows is None or numbers is None:
            found = jsonl_errors.bad_lines(block, schema, declared=declared)
            remedy = jsonl_errors.MEND if declared else jsonl_errors.DECLARE
            raise jsonl_errors.data_error(found, self.folder.uri(block.info.key), remedy)
        return rows, Origin(block.info, numbers)

    def _cut(
        self, group: _Decoded, skipped: int, token: str | None
    ) -> Iterator[Batch[ObjectCursor]]:
        for start in range(skipped, group.rows.num_rows, self.params.batch_rows):
            rows = group.rows.slice(start, self.params.batch_rows)
            yield Batch(rows, _cursor(group, start + rows.num_rows, token))


def _cursor(group: _Decoded, row: int, token: str | None) -> ObjectCursor:
    """The position after a number of rows of a group."""
    place = bisect_left(group.ends, row)
    block = group.blocks[place]
    at = ObjectCursor(key=block.info.key, version=block.info.version, columns=token)
    if row < group.ends[place]:
        read = row - (group.ends[place - 1] if place else 0)
        return at.model_copy(update={"offset": block.start, "line": block.line, "skip": read})
    if block.is_last:
        return at
    return at.model_copy(update={"offset": block.end, "line": block.line + block.lines})


async def _chain(
    first: list[Blocks], rest: AsyncGenerator[Blocks, None]
) -> AsyncGenerator[Blocks, None]:
    for group in first:
        yield group
    async for group in rest:
        yield group


def _to_text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize()).decode()


def _from_text(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
