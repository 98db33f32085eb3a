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
from nvisy_connectors.object.folder import Folder, Torn
from nvisy_connectors.object.formats import jsonl_errors, jsonl_parse, jsonl_sample
from nvisy_connectors.object.formats.columns import parse_columns
from nvisy_connectors.object.formats.fetched import Fetched
from nvisy_connectors.object.formats.jsonl_drift import rescuer, widened
from nvisy_connectors.object.formats.jsonl_errors import BadLine, Line
from nvisy_connectors.object.formats.jsonl_options import JsonlReadOptions
from nvisy_connectors.object.formats.jsonl_rescued import (
    RESCUED,
    RESCUED_FIELD,
    with_rescued,
    with_texts,
)
from nvisy_connectors.object.formats.jsonl_rows import line_reader
from nvisy_connectors.object.formats.jsonl_salvage import Salvaged, salvage
from nvisy_connectors.object.formats.line_blocks import Block, LineCutter, LongLineError
from nvisy_connectors.object.formats.reader import DECODES, Objects, Reader
from nvisy_connectors.object.formats.records import TORN, Records
from nvisy_connectors.object.origins import Origin, check_names, enclose
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import in_thread, ordered_map
from nvisy_connectors.object.read_memory import ReadMemory
from nvisy_dagster.sdk import Batch, DataError, RejectedRecord

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
        self._memory = ReadMemory()
        self._options = params.jsonl or JsonlReadOptions()
        self._expects_bad = False
        """Whether the block before had bad lines: then the next one is not tried as it is."""

    @property
    def memory(self) -> ReadMemory:
        """It is given back once a block is decoded."""
        return self._memory

    @staticmethod
    def declared(params: ReadParams) -> pa.Schema | None:
        """The declared columns; without them only the data tells."""
        if not isinstance(params.columns, dict):
            return None
        columns = check_names(parse_columns(params.columns), "`columns`")
        return with_rescued(columns, "`columns`") if _widens(params) else columns

    def _columns(self) -> pa.Schema | None:
        """The declared columns, without that of what is rescued."""
        declared = self.declared(self.params)
        if declared is None or not _widens(self.params):
            return declared
        return declared.remove(declared.get_field_index(RESCUED))

    async def read(
        self, objects: Objects, resume: ObjectCursor | None
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """One record per line that is not blank; a record's position is its line number."""
        blocks = self._blocks(self.contents(objects, resume), resume)
        async with aclosing(blocks):
            first, schema = await self._settle(blocks, resume)
            if schema is None:
                return
            inferred = self._columns() is None and schema.names
            token = _to_text(schema) if inferred else None
            decoded = ordered_map(
                _chain(first, blocks),
                lambda group: in_thread(self._decode, group, schema),
                DECODES,
            )
            skip = resume.skip if resume else 0
            try:
                async with aclosing(decoded):
                    async for group in decoded:
                        skipped = min(skip, group.count)
                        skip -= skipped
                        for batch in self._cut(group, skipped, token):
                            yield batch
            finally:
                self._memory.let_go()
                line_reader(schema, declared=self._columns() is not None).let_go()

    async def _blocks(
        self, fetched: AsyncGenerator[Fetched, None], resume: ObjectCursor | None
    ) -> AsyncGenerator[Blocks, None]:
        first_line = resume.line if resume else 1
        cutter = LineCutter(first_line, MAX_LINE_BYTES, skip_long=self.rejects, memory=self.memory)

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
        if (declared := self._columns()) is not None:
            return [], declared
        if resume is not None and resume.columns:
            return [], _from_text(resume.columns)
        first: list[Blocks] = []
        size = 0
        group: Blocks | None = []
        while size < self._options.sample_bytes and (group := await anext(blocks, None)):
            first.append(group)
            size += sum(len(block.data) for block in group)
        if not first:
            return [], None
        sample = [block for group in first for block in group]
        return first, await to_thread.run_sync(self._infer, sample, group is None)

    def _infer(self, blocks: Blocks, whole: bool) -> pa.Schema | None:  # noqa: FBT001 - of a thread
        uri = self.folder.uri(blocks[0].info.key)
        widens = _widens(self.params)
        lenient = self.rejects or widens
        try:
            infer = jsonl_sample.infer_leniently if lenient else jsonl_parse.infer
            schema = infer(blocks)
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
        if not schema.names and not self.rejects:
            for block in blocks:
                if block.torn is not None:
                    raise self._torn(block, block.torn)
        if not schema.names and any(block.data.strip() for block in blocks):
            raise DataError(
                f"{uri}: the first lines have no fields", rows={}, remedy="declare `columns`"
            )
        if not schema.names:
            return None
        check_names(with_rescued(schema, uri) if widens else schema, uri)
        return widened(schema) if widens else schema

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
            block.let_go(self._memory)
        columns = tables[0] if len(tables) == 1 else pa.concat_batches(tables)
        return _Decoded(enclose(columns, origins, self.folder), bad, blocks, ends)

    def _parse(self, block: Block, schema: pa.Schema) -> Salvaged:
        declared, widens = self._columns() is not None, _widens(self.params)
        if block.torn is not None and not self.rejects:
            raise self._torn(block, block.torn)
        if block.too_long or block.torn is not None:
            return _left_out(block, schema.append(RESCUED_FIELD) if widens else schema)
        compiled = line_reader(schema, declared=declared).makes_rows
        # Without columns anything is an object of no columns, and nothing is refused.
        if schema.names and not compiled and not self._expects_bad:
            plain = _without_bad(block, schema, declared=declared)
            if plain is not None:
                rows = with_texts(plain.rows) if widens else plain.rows
                return Salvaged(rows, plain.numbers, [])
        drift = self._options.on_drift
        if self.rejects or compiled or widens:
            salvaged = salvage(block, schema, declared=declared, rescues=widens)
            self._expects_bad = bool(salvaged.bad)
            if widens:
                salvaged = rescuer(schema, declared=declared)(salvaged)
            if not salvaged.bad:
                return salvaged
            found = [bad for bad in salvaged.bad if bad.drifted or not self.rejects]
            if not found or (self.rejects and drift != "fail"):
                return salvaged
        else:
            found = jsonl_errors.bad_lines(block, schema, declared=declared)
            if not found:  # each line is a row by itself
                return salvage(block, schema, declared=declared)
        remedy = jsonl_errors.MEND if declared else jsonl_errors.DECLARE
        raise jsonl_errors.data_error(found, self.folder.uri(block.info.key), remedy)

    def _torn(self, block: Block, torn: Torn) -> DataError:
        place = f", line {block.line} (byte {block.start})"
        return self.torn(self.folder.uri(block.info.key), place, torn)

    def _cut(
        self, group: _Decoded, skipped: int, token: str | None
    ) -> Iterator[Batch[ObjectCursor]]:
        start = skipped
        while start < group.count:
            end = min(start + self.batch_rows, group.count)
            rows, bad = group.cut(start, end)
            yield Batch(rows, _cursor(group, end, token), bad)
            start = end


def _without_bad(block: Block, schema: pa.Schema, *, declared: bool) -> Salvaged | None:
    """The rows of a block, if Arrow takes each of its lines as one."""
    try:
        rows = jsonl_parse.parse(block, schema, declared=declared)
    except pa.ArrowInvalid:
        return None
    numbers = jsonl_parse.line_numbers(block, rows.num_rows)
    return None if numbers is None else Salvaged(rows, numbers, [])


def _widens(params: ReadParams) -> bool:
    return params.jsonl is not None and params.jsonl.on_drift == "widen"


def _rejected(bad: BadLine, uri: str) -> RejectedRecord:
    line, block = bad.line, bad.line.block
    return RejectedRecord(
        uri=uri,
        position=line.number,
        data=None if block.too_long or block.torn else line.data,
        reason=f"line {line.number} (byte {line.start}): {bad.reason}",
        tag=bad.tag,
        metadata={"line": line.number, "byte": line.start} | (TORN if block.torn else {}),
    )


def _left_out(block: Block, schema: pa.Schema) -> Salvaged:
    line = Line(block, 0, block.line, block.start, b"")
    if block.torn is not None:
        bad = BadLine(line, block.torn.reason, block.torn.tag)
    else:
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
