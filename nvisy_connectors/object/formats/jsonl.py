"""JSON lines: every line is one row."""

import base64
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import Folder, Span
from nvisy_connectors.object.formats import jsonl_errors, jsonl_parse, jsonl_sample
from nvisy_connectors.object.formats.columns import parse_columns
from nvisy_connectors.object.formats.jsonl_errors import BadLine, Line
from nvisy_connectors.object.formats.jsonl_salvage import Experience, Salvaged, salvage
from nvisy_connectors.object.formats.line_blocks import Block, LineCutter, LongLineError
from nvisy_connectors.object.formats.reader import DECODES, Fetched, Objects, Reader
from nvisy_connectors.object.formats.records import Records
from nvisy_connectors.object.origins import Origin, check_names, enclose
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import in_thread, ordered_map
from nvisy_dagster.sdk import Batch, DataError, RejectedRecord

SAMPLE_BYTES = 8 << 20
"""What types are inferred from: the first lines of a read, of several objects if they are small."""

MAX_LINE_BYTES = 128 << 20

Blocks = list[Block]


@dataclass(frozen=True)
class _Decoded(Records):
    """Records of neighbouring blocks."""

    blocks: Blocks
    ends: list[int]
    """For each block, the record after its last."""


class JsonlReader(Reader):
    """Large objects are read in blocks of a batch; small ones share batches."""

    primitive: ClassVar[str] = "row"

    def __init__(
        self,
        params: ReadParams,
        folder: Folder,
        *,
        rejects: bool = False,
        rows_at_most: Callable[[int], int] = int,
    ) -> None:
        super().__init__(params, folder, rejects=rejects, rows_at_most=rows_at_most)
        self._past = Experience()

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
            inferred = self.declared(self.params) is None and schema.names
            token = _to_text(schema) if inferred else None
            decoded = ordered_map(
                _chain(first, blocks),
                lambda group: in_thread(self._decode, group, schema),
                DECODES,
            )
            skip = resume.skip if resume else 0
            async with aclosing(decoded):
                async for group in decoded:
                    skipped = min(skip, group.count)
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
        first_line = resume.line if resume else 1
        cutter = LineCutter(first_line, MAX_LINE_BYTES, skip_long=self.rejects)

        def cut_group(group: Fetched) -> Blocks:
            fed = (cutter.feed(s, d) for s, d in zip(group.spans, group.data, strict=True))
            return [block for blocks in fed for block in blocks]

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
        group: Blocks | None = []
        while size < SAMPLE_BYTES and (group := await anext(blocks, None)):
            first.append(group)
            size += sum(len(block.data) for block in group)
        if not first:
            return [], None
        sample = [block for group in first for block in group]
        return first, await to_thread.run_sync(self._infer, sample, group is None)

    def _infer(self, blocks: Blocks, whole: bool) -> pa.Schema | None:  # noqa: FBT001 - of a thread
        uri = self.folder.uri(blocks[0].info.key)
        try:
            schema = self._infer_leniently(blocks) if self.rejects else jsonl_parse.infer(blocks)
        except jsonl_sample.NoSchemaError as error:
            if whole:
                return pa.schema([])  # none of its lines is a record
            raise DataError(
                f"{uri}: none of the first lines is a JSON object",
                rows={},
                remedy="is this a file of JSON lines? If so, declare `columns`",
                tag="format",
            ) from error
        except pa.ArrowInvalid as error:
            found = jsonl_errors.bad_lines_of_sample(blocks)
            uri = self.folder.uri(found[0].line.block.info.key)
            raise jsonl_errors.data_error(found, uri, jsonl_errors.DECLARE) from error
        if not schema.names and any(block.data.strip() for block in blocks):
            raise DataError(
                f"{uri}: the first lines have no fields", rows={}, remedy="declare `columns`"
            )
        return check_names(schema, uri) if schema.names else None

    def _infer_leniently(self, blocks: Blocks) -> pa.Schema:
        try:
            schema = jsonl_parse.infer(blocks)
        except pa.ArrowInvalid:
            return jsonl_sample.infer_leniently(blocks)
        return schema if schema.names else jsonl_sample.infer_leniently(blocks)

    def _decode(self, blocks: Blocks, schema: pa.Schema) -> _Decoded:
        tables: list[pa.RecordBatch] = []
        origins: list[Origin] = []
        bad: list[tuple[int, RejectedRecord]] = []
        ends: list[int] = []
        for block in blocks:
            found = self._parse(block, schema)
            tables.append(found.rows)
            origins.append(Origin(block.info, found.numbers))
            before = ends[-1] if ends else 0
            if found.bad:
                uri = self.folder.uri(block.info.key)
                bad += [(before + one.line.row, _rejected(one, uri)) for one in found.bad]
            ends.append(before + found.rows.num_rows + len(found.bad))
        columns = tables[0] if len(tables) == 1 else pa.concat_batches(tables)
        return _Decoded(enclose(columns, origins, self.folder), bad, blocks, ends)

    def _parse(self, block: Block, schema: pa.Schema) -> Salvaged:
        declared = self.declared(self.params) is not None
        if block.too_long:
            return _left_out(block, schema)
        try:
            # Without columns anything is an object of no columns, and nothing is refused.
            if schema.names and not self._past.expects_bad:
                rows = jsonl_parse.parse(block, schema, declared=declared)
                numbers = jsonl_parse.line_numbers(block, rows.num_rows)
                if numbers is not None:
                    return Salvaged(rows, numbers, [])
        except pa.ArrowInvalid:
            pass
        if self.rejects:
            return salvage(block, schema, self._past, declared=declared)
        found = jsonl_errors.bad_lines(block, schema, declared=declared)
        remedy = jsonl_errors.MEND if declared else jsonl_errors.DECLARE
        raise jsonl_errors.data_error(found, self.folder.uri(block.info.key), remedy)

    def _cut(
        self, group: _Decoded, skipped: int, token: str | None
    ) -> Iterator[Batch[ObjectCursor]]:
        start = skipped
        while start < group.count:
            end = min(start + self.batch_rows, group.count)
            rows, bad = group.cut(start, end)
            yield Batch(rows, _cursor(group, end, token), bad)
            start = end


def _rejected(bad: BadLine, uri: str) -> RejectedRecord:
    line = bad.line
    return RejectedRecord(
        uri=uri,
        position=line.number,
        data=None if line.block.too_long else line.data,
        reason=f"line {line.number} (byte {line.start}): {bad.reason}",
        tag=bad.tag,
        metadata={"line": line.number, "byte": line.start},
    )


def _left_out(block: Block, schema: pa.Schema) -> Salvaged:
    line = Line(block, 0, block.line, block.start, b"")
    reason = f"it is longer than {MAX_LINE_BYTES} bytes, which are not kept here"
    bad = BadLine(line, reason, "too_large")
    return Salvaged(pa.RecordBatch.from_pylist([], schema), np.zeros(0, np.int64), [bad])


def _cursor(group: _Decoded, record: int, token: str | None) -> ObjectCursor:
    """The position after a number of records of a group."""
    place = bisect_left(group.ends, record)
    block = group.blocks[place]
    at = ObjectCursor(key=block.info.key, version=block.info.version, columns=token)
    if record < group.ends[place]:
        read = record - (group.ends[place - 1] if place else 0)
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
