"""CSV: every record is one row."""

import base64
import json
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import Folder
from nvisy_connectors.object.formats import csv_dialect, csv_parse
from nvisy_connectors.object.formats.csv_blocks import CsvBlock, Layout
from nvisy_connectors.object.formats.csv_cutter import HeaderError, LongRecordError, RecordCutter
from nvisy_connectors.object.formats.csv_dialect import Dialect
from nvisy_connectors.object.formats.csv_options import CsvReadOptions
from nvisy_connectors.object.formats.csv_parse import Form
from nvisy_connectors.object.formats.csv_salvage import BadRecord, Salvaged, salvage, texts
from nvisy_connectors.object.formats.csv_types import guess, parse_types
from nvisy_connectors.object.formats.fetched import Fetched
from nvisy_connectors.object.formats.reader import DECODES, Objects, Reader
from nvisy_connectors.object.formats.records import TORN, Records
from nvisy_connectors.object.origins import Origin, check_names, enclose
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import in_thread, ordered_map
from nvisy_dagster.sdk import Batch, DataError, RejectedRecord

SAMPLE_BYTES = 8 << 20
"""What types are inferred from: the first records of a read, of several files if they are small."""

DETECT_BYTES = 1 << 20
"""What the encoding is found in."""

MEND = "mend the record, or remove it"
TYPES = "mend the value, declare `columns`, or add what stands for nothing to `csv.null_values`"

Blocks = list[CsvBlock]


@dataclass(frozen=True)
class _Decoded(Records):
    """Records of neighbouring blocks."""

    blocks: Blocks
    ends: list[int]
    """For each block, the record after its last."""


class CsvReader(Reader):
    """Large files are read in blocks of a batch; small ones share batches."""

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
        self.options = params.csv or CsvReadOptions()
        self._expects_bad = False

    @staticmethod
    def declared(params: ReadParams) -> pa.Schema | None:
        """The declared columns; without their types only the data tells."""
        if not isinstance(params.columns, dict):
            return None
        return check_names(parse_types(params.columns), "`columns`")

    async def read(
        self, objects: Objects, resume: ObjectCursor | None
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """One record per row that is not blank; a record's position is the number of its line."""
        settled = settled_in(resume.columns) if resume is not None and resume.columns else None
        fetched = self.contents(objects, resume)
        async with aclosing(fetched):
            first: list[Fetched] = []
            dialect = settled.dialect if settled else None
            if dialect is None:
                first, dialect = await self._find_dialect(fetched)
            if dialect is None:
                return
            cutter = self._cutter(dialect, settled, resume)
            blocks = self._blocks(_chain(first, fetched), cutter)
            async with aclosing(blocks):
                sample, form = await self._settle(blocks, settled)
                if form is None:
                    return
                async for batch in self._batches(_chain(sample, blocks), form, resume, dialect):
                    yield batch

    async def _batches(
        self,
        blocks: AsyncGenerator[Blocks, None],
        form: Form,
        resume: ObjectCursor | None,
        dialect: Dialect,
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        decoded = ordered_map(blocks, lambda group: in_thread(self._decode, group, form), DECODES)
        skip = resume.skip if resume else 0
        token = _Token(form, dialect)
        async with aclosing(decoded):
            async for group in decoded:
                start = min(skip, group.count)
                skip -= start
                while start < group.count:
                    end = min(start + self.batch_rows, group.count)
                    rows, bad = group.cut(start, end)
                    yield Batch(rows, _cursor(group, end, token), bad)
                    start = end

    async def _find_dialect(
        self, fetched: AsyncGenerator[Fetched, None]
    ) -> tuple[list[Fetched], Dialect | None]:
        """What the first file is made of, and what was fetched to find it."""
        first: list[Fetched] = []
        begin = b""
        async for group in fetched:
            first.append(group)
            for span, data in zip(group.spans, group.data, strict=True):
                if span.info is first[0].spans[0].info:
                    begin += data[: DETECT_BYTES - len(begin)]
            last = group.spans[-1]
            if len(begin) == DETECT_BYTES or last.is_last or last.info is not group.spans[0].info:
                break
        if not first:
            return [], None
        whole = len(begin) == first[0].spans[0].info.size
        dialect = await to_thread.run_sync(
            lambda: csv_dialect.settle(begin, self.options, whole=whole)
        )
        return first, dialect

    def _cutter(
        self, dialect: Dialect, settled: "Settled | None", resume: ObjectCursor | None
    ) -> RecordCutter:
        columns = self.params.columns
        return RecordCutter(
            dialect,
            self.options,
            wanted=list(columns) if columns else None,
            resumed=(settled.layout, resume.line) if settled and resume else None,
            rejects=self.rejects,
        )

    async def _blocks(
        self, fetched: AsyncGenerator[Fetched, None], cutter: RecordCutter
    ) -> AsyncGenerator[Blocks, None]:
        def cut_group(group: Fetched) -> Blocks:
            found: Blocks = []
            for span, data in zip(group.spans, group.data, strict=True):
                try:
                    found += cutter.feed(span, bytes(data))
                except HeaderError as error:
                    raise self._refused(self.folder.uri(span.info.key), str(error)) from error
            return found

        async with aclosing(fetched):
            async for group in fetched:
                try:
                    blocks = await to_thread.run_sync(cut_group, group)
                except LongRecordError as error:
                    raise DataError(
                        f"{self.folder.uri(error.info.key)}, {error}",
                        rows={0: str(error)},
                        remedy="is this a CSV file? If so, is a quote in it never closed?",
                        tag="too_large",
                    ) from error
                if any(block.count for block in blocks):
                    yield [block for block in blocks if block.count]

    async def _settle(
        self, blocks: AsyncGenerator[Blocks, None], settled: "Settled | None"
    ) -> tuple[list[Blocks], Form | None]:
        """What every record must fit, and the blocks that were taken to find it."""
        if (declared := self.declared(self.params)) is not None:
            return [], self.form(declared)
        if settled is not None:
            return [], self.form(settled.schema, inferred=True)
        first: list[Blocks] = []
        size = 0
        sound = False  # files that cannot be read tell nothing, however many they are
        while (size < SAMPLE_BYTES or not sound) and (group := await anext(blocks, None)):
            first.append(group)
            sound = sound or any(not block.refused and not block.torn for block in group)
            size += sum(len(block.data) for block in group)
        if not first:
            return [], None
        sample = [block for group in first for block in group]
        schema = await to_thread.run_sync(self._infer, sample)
        return first, self.form(schema, inferred=True)

    def form(self, schema: pa.Schema, *, inferred: bool = False) -> Form:
        """What every record must fit."""
        options = self.options
        return Form(schema, tuple(options.null_values), options.decimal_point, inferred=inferred)

    def _infer(self, blocks: Blocks) -> pa.Schema:
        sound = [block for block in blocks if block.layout.names]
        if not sound:
            return pa.schema([])  # none of the files can be read
        names = list(self.params.columns or sound[0].layout.names)
        uri = self.folder.uri(sound[0].info.key)
        schema = check_names(pa.schema([(name, pa.string()) for name in names]), uri)
        form = texts(self.form(schema))
        rows = pa.Table.from_batches([salvage(block, form).rows for block in sound], schema)
        kinds: list[pa.DataType] = []
        for name in names:
            values = rows.column(name).combine_chunks()
            kinds.append(guess(values, form.null_values, form.decimal_point))
        return pa.schema(list(zip(names, kinds, strict=True)))

    def _decode(self, blocks: Blocks, form: Form) -> _Decoded:
        tables: list[pa.RecordBatch] = []
        origins: list[Origin] = []
        bad: list[tuple[int, RejectedRecord]] = []
        ends: list[int] = []
        for block in blocks:
            uri = self.folder.uri(block.info.key)
            before = ends[-1] if ends else 0
            found = self.parse(block, form)
            tables.append(found.rows)
            origins.append(Origin(block.info, block.numbers[found.indexes]))
            if block.refused is not None:
                bad.append((before, _refused_whole(block, uri)))
            places = np.searchsorted(block.filled, [one.index for one in found.bad])
            bad += [
                (before + int(place), rejected(block, one, uri))
                for place, one in zip(places, found.bad, strict=True)
            ]
            ends.append(before + block.count)
        columns = tables[0] if len(tables) == 1 else pa.concat_batches(tables)
        return _Decoded(enclose(columns, origins, self.folder), bad, blocks, ends)

    def parse(self, block: CsvBlock, form: Form) -> Salvaged:
        """The records of a block.

        Raises:
            DataError: Some are bad, and such are not rejected.
        """
        if block.refused is not None:
            nothing = pa.RecordBatch.from_pylist([], form.schema)
            return Salvaged(nothing, np.zeros(0, np.int64), [])
        if block.torn is not None:
            if not self.rejects:
                place = f", line {block.line} (byte {block.start})"
                raise self.torn(self.folder.uri(block.info.key), place, block.torn)
            nothing = pa.RecordBatch.from_pylist([], form.schema)
            bad = BadRecord(0, block.torn.reason, block.torn.tag)
            return Salvaged(nothing, np.zeros(0, np.int64), [bad])
        if not self._expects_bad and (rows := csv_parse.parse(block, form)) is not None:
            return Salvaged(rows, block.filled, [])
        found = salvage(block, form)
        self._expects_bad = found.unusual
        if found.bad and not self.rejects:
            raise self._bad(block, found.bad)
        return found

    def _bad(self, block: CsvBlock, bad: list[BadRecord]) -> DataError:
        uri = self.folder.uri(block.info.key)
        number = int(block.numbers[bad[0].index])
        byte = block.start + int(block.starts[bad[0].index])
        others = f"; {len(bad) - 1} more records are bad too" if len(bad) > 1 else ""
        rows = np.searchsorted(block.filled, [one.index for one in bad]).tolist()
        is_value = bad[0].tag == "validation"
        remedy = MEND if bad[0].tag in {"format", "too_large"} else TYPES
        if bad[0].tag == "encoding":
            remedy = "mend the record, or name the `csv.encoding` of the file"
        return DataError(
            f"{uri}, line {number} (byte {byte}): {bad[0].reason}{others}",
            rows={
                row: f"line {block.numbers[one.index]}: {one.reason}"
                for row, one in zip(rows, bad, strict=True)
            },
            remedy=remedy,
            tag="validation" if is_value else bad[0].tag,
        )

    def _refused(self, uri: str, reason: str) -> DataError:
        return DataError(
            f"{uri}: {reason}",
            rows={},
            remedy="check `columns`, `csv.header` and `csv.delimiter`, or choose like files with "
            "`glob`",
            tag="schema",
        )


@dataclass(frozen=True)
class Settled:
    """What a cursor keeps of a read: the columns, and the layout of the file it stands in."""

    schema: pa.Schema
    layout: Layout
    dialect: Dialect
    """Of files whose beginning tells nothing else."""


class _Token:
    """A cursor's text for each layout."""

    def __init__(self, form: Form, dialect: Dialect) -> None:
        self._schema = form.schema
        self._encoding = dialect.encoding
        self._texts: dict[str, str] = {}

    def of(self, layout: Layout) -> str:
        """The columns and the layout, see `settled_in`."""
        found = self._texts.get(layout.text)
        if found is None:
            told = {"layout": layout.text, "encoding": self._encoding}
            found = base64.b64encode(self._schema.with_metadata(told).serialize()).decode()
            self._texts = {layout.text: found}
        return found


def settled_in(text: str) -> Settled:
    """What the text in a cursor tells."""
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    told = schema.metadata or {}
    layout = Layout.from_json(json.loads(told[b"layout"]))
    dialect = replace(layout.dialect, encoding=told[b"encoding"].decode())
    return Settled(schema.remove_metadata(), layout, dialect)


def rejected(block: CsvBlock, bad: BadRecord, uri: str) -> RejectedRecord:
    """A bad record, with what it takes to read its bytes again."""
    number = int(block.numbers[bad.index])
    byte = block.start + int(block.starts[bad.index])
    return RejectedRecord(
        uri=uri,
        position=number,
        data=block.record(bad.index) if block.data else None,
        reason=f"line {number} (byte {byte}): {bad.reason}",
        tag=bad.tag,
        metadata={"line": number, "byte": byte, "csv": block.layout.to_json()}
        | (TORN if block.torn else {}),
    )


def _refused_whole(block: CsvBlock, uri: str) -> RejectedRecord:
    return RejectedRecord(uri, None, None, f"{uri}: {block.refused}", block.refused_tag)


def _cursor(group: _Decoded, record: int, token: _Token) -> ObjectCursor:
    """The position after a number of records of a group."""
    place = bisect_left(group.ends, record)
    block = group.blocks[place]
    at = ObjectCursor(
        key=block.info.key, version=block.info.version, columns=token.of(block.layout)
    )
    if record < group.ends[place]:
        read = record - (group.ends[place - 1] if place else 0)
        return at.model_copy(update={"offset": block.start, "line": block.line, "skip": read})
    if block.is_last:
        return at
    return at.model_copy(update={"offset": block.end, "line": block.line + block.lines})


async def _chain(first: list, rest: AsyncGenerator) -> AsyncGenerator:  # type: ignore[type-arg]
    for item in first:
        yield item
    async with aclosing(rest):
        async for item in rest:
            yield item
