"""Writing objects to any store, in any format: exactly once, by epochs."""

import shutil
from abc import abstractmethod
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio
import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.object.errors import disk_error
from nvisy_connectors.object.folder import Folder
from nvisy_connectors.object.formats.writers import WRITERS, PartWriter
from nvisy_connectors.object.params import WriteParams
from nvisy_connectors.object.parts import PartName, parse_part, run_token
from nvisy_connectors.object.pipeline import together
from nvisy_dagster.sdk import Capabilities, ConfigError, EdgeType, NvisyError, Progress, Sink
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES, payload
from nvisy_dagster.sdk.identity import format_uuid

P = TypeVar("P", bound=WriteParams)

UPLOADS = 16
"""Parts that are published at once."""

CONTENT = {
    "text": ("text", "string", (pa.types.is_string, pa.types.is_large_string)),
    "binary": ("data", "binary", (pa.types.is_binary, pa.types.is_large_binary)),
}
"""Formats that write one column of a record as a file of its own: which, and of what type."""


@dataclass
class _Part:
    file: Path
    writer: PartWriter
    record: str | None


class ObjectSink(Sink[P]):
    """Writes parts to files of this machine and publishes them when an epoch is committed.

    So a part appears whole or not at all, an upload can be tried again, and memory stays small.
    """

    capabilities = Capabilities(write_mode="epoch")

    objects: Folder
    _run = ""
    _partial = False

    @abstractmethod
    async def make_folder(self) -> Folder:
        """Where the objects go; made if it can be.

        Raises:
            ConfigError: There cannot be such a place.
        """

    def keeps_earlier(self) -> bool:
        """In mode `append` only."""
        return self.params.mode == "append"

    def check(self, incoming: EdgeType) -> None:
        """What is a file of its own needs its column; other formats take all but no payload."""
        if incoming.schema is None:
            return
        names = [name for name in incoming.schema.names if name not in ENVELOPE_NAMES]
        if self.params.format in CONTENT:
            column, what, fits = CONTENT[self.params.format]
            if column not in names or not any(
                fit(incoming.schema.field(column).type) for fit in fits
            ):
                raise ConfigError(
                    f"param 'format' is {self.params.format!r}, but no column {column!r} of type "
                    f"{what} comes in; the columns are {', '.join(names) or 'none'}",
                    remedy="make one with a `map` before, or write `jsonl` or `parquet`",
                    tag="schema",
                )
        elif not names and not self.params.envelope:
            raise ConfigError(
                "no columns come in but the envelope",
                remedy='set "envelope": true to write it',
                tag="schema",
            )
        WRITERS[self.params.format].check(incoming.schema, self.params)

    async def open(self) -> None:
        """Ask for the first page of the listing, so that what is refused is told at once."""
        self.objects = await self.make_folder()
        self.stack.callback(self.objects.close)
        self._turn = anyio.Lock()
        self._open_part: _Part | None = None
        self._closed: list[_Part] = []
        self._schema: pa.Schema | None = None
        self._number = 0
        self._spool: Path | None = None
        self._tried: set[str] = set()
        self._broken: NvisyError | None = None
        async with aclosing(self.objects.listing()) as pages:
            await anext(pages, None)
        self.stack.push_async_callback(self._discard)

    async def start(self, progress: Progress) -> None:
        """Delete what this run wrote after its last checkpoint."""
        self._run = run_token(progress.id)
        self._partial = progress.partial
        with anyio.CancelScope(shield=True):  # what is made must be known, to be removed
            writer = run_token(f"{self._run}.{self.node_id}")
            self._spool = await self.objects.make_spool(writer, progress.token)
        await self._delete(lambda part: part.run == self._run and part.epoch > progress.epoch)

    async def write(self, batch: pa.RecordBatch) -> None:
        """Add rows to the open part; nobody sees them before `commit`."""
        if batch.num_rows:
            async with self._turn:
                await self._spool_work(lambda: self._write(batch))

    async def commit(self, epoch: int) -> None:
        """Publish the parts of this epoch."""
        async with self._turn:
            await self._spool_work(self._close_part)
            if not self._closed:
                return
            extension = WRITERS[self.params.format].extension
            numbered = list(enumerate(self._closed))
            for start in range(0, len(numbered), UPLOADS):
                await together(
                    self._publish(part, PartName(self._run, epoch, number, extension, part.record))
                    for number, part in numbered[start : start + UPLOADS]
                )
            await self.objects.flush()
            self._closed.clear()
            self._tried.clear()

    async def finish(self) -> None:
        """In mode `replace`, delete the parts of earlier runs."""
        if self.params.mode == "replace" and not self._partial:
            await self._delete(lambda part: part.run != self._run)

    async def _spool_work(self, work: Callable[[], None]) -> None:
        """Work on the open part.

        A file that failed half way stays so: to write the same rows again would double some.
        """
        if self._broken is not None:
            raise self._broken
        try:
            await to_thread.run_sync(work)
        except OSError as error:
            self._broken = disk_error(error, self.location() or "", writing=True)
            raise self._broken from error

    async def _publish(self, part: _Part, name: PartName) -> None:
        key = str(name)
        # `start` has deleted what an earlier attempt left, so only a rival can hold this name.
        if key not in self._tried and await self.objects.head(key) is not None:
            raise ConfigError(
                f"{self.objects.uri(key)} exists: another sink of this run writes there too",
                remedy="give each sink a folder or prefix of its own",
                tag="conflict",
            )
        self._tried.add(key)
        await self.objects.publish(part.file, key)

    async def _delete(self, chosen: Callable[[PartName], bool]) -> None:
        keys: list[str] = []
        async with aclosing(self.objects.listing()) as pages:
            async for page in pages:
                for info in page:
                    part = parse_part(info.key)
                    if part is not None and chosen(part):
                        keys.append(info.key)
        if keys:
            await self.objects.delete(keys)
            await self.objects.flush()

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._schema is None:
            # What came in may not have been known when the graph was compiled.
            self.check(EdgeType("row", batch.schema))
            self._schema = batch.schema
        rows = batch if self.params.envelope or self.params.format in CONTENT else payload(batch)
        if WRITERS[self.params.format].one_record:
            for place, record in enumerate(batch.column("_id").to_pylist()):
                self._part(rows.schema, format_uuid(record)).writer.write(rows.slice(place, 1))
                self._close_part()
            return
        part = self._part(rows.schema, None)
        part.writer.write(rows)
        if part.writer.size() >= self.params.part_bytes:
            self._close_part()

    def _part(self, schema: pa.Schema, record: str | None) -> _Part:
        if self._open_part is None:
            assert self._spool is not None, "write before start"  # noqa: S101 - the engine's order
            file = self._spool / f"{self._number}"
            self._number += 1
            self._open_part = _Part(file, self._writer(file, schema), record)
        return self._open_part

    def _writer(self, file: Path, schema: pa.Schema) -> PartWriter:
        return WRITERS[self.params.format](file, schema, self.params)

    def _close_part(self) -> None:
        if self._open_part is not None:
            self._open_part.writer.close()
            self._closed.append(self._open_part)
            self._open_part = None

    async def _discard(self) -> None:
        def remove() -> None:
            if self._open_part is not None:
                with suppress(OSError):  # a full disk; nobody wants this part
                    self._open_part.writer.close()
            if self._spool is not None:
                shutil.rmtree(self._spool, ignore_errors=True)

        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(remove)
