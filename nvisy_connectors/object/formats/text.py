"""Text: every object is one document."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from mimetypes import MimeTypes
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import ObjectInfo, Span
from nvisy_connectors.object.formats.reader import DECODES, Fetched, Objects, Reader
from nvisy_connectors.object.origins import Origin, enclose
from nvisy_connectors.object.params import ReadParams
from nvisy_connectors.object.pipeline import in_thread, ordered_map
from nvisy_dagster.sdk import Batch, DataError, RejectedRecord
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import payload_schema

MAX_DOCUMENT_BYTES = 512 << 20
BOM = b"\xef\xbb\xbf"

# Python's own table only: the machine's files would give other types on other machines.
_TYPES = MimeTypes()
for _suffix, _type in ((".md", "text/markdown"), (".rst", "text/x-rst"), (".yaml", "text/yaml")):
    _TYPES.add_type(_type, _suffix)


class TextReader(Reader):
    """Small objects are fetched many at once and share batches."""

    primitive: ClassVar[str] = "document"

    @staticmethod
    def declared(params: ReadParams) -> pa.Schema:  # noqa: ARG004 - the same for all
        """The columns of a document."""
        return payload_schema(schema_of("document"))

    async def read(
        self,
        objects: Objects,
        resume: ObjectCursor | None,  # noqa: ARG002 - an object is read whole
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """One record per object."""
        fetched = self.fetch(self._spans(objects))
        decoded = ordered_map(fetched, lambda group: in_thread(self._decode, group), DECODES)
        async with aclosing(decoded):
            async for batch in decoded:
                yield batch

    async def _spans(self, objects: Objects) -> AsyncGenerator[Span, None]:
        async with aclosing(objects):
            async for info in objects:
                if info.size <= MAX_DOCUMENT_BYTES:
                    yield Span(info, 0, info.size)
                elif self.rejects:
                    yield Span(info, 0, 0)  # its bytes are not wanted
                else:
                    raise DataError(
                        f"{self.folder.uri(info.key)} {_too_large(info)}",
                        rows={0: "too large"},
                        remedy="leave it out with `glob`, or split it",
                        tag="too_large",
                    )

    def _decode(self, fetched: Fetched) -> Batch[ObjectCursor]:
        last = fetched.spans[-1].info
        texts, bad = self._texts(fetched)
        if bad and not self.rejects:
            raise _not_utf8(bad)
        infos = [
            span.info for span, text in zip(fetched.spans, texts, strict=True) if text is not None
        ]
        paths = [PurePosixPath(info.key) for info in infos]
        columns = pa.RecordBatch.from_arrays(
            [
                pa.array([text for text in texts if text is not None], pa.string()),
                pa.array([path.stem for path in paths], pa.string()),
                pa.array([_TYPES.guess_type(path.name)[0] for path in paths], pa.string()),
                pa.nulls(len(infos), pa.string()),
            ],
            schema=self.declared(self.params),
        )
        origins = [Origin(info, np.zeros(1, np.int64)) for info in infos]
        cursor = ObjectCursor(key=last.key, version=last.version)
        return Batch(enclose(columns, origins, self.folder), cursor, list(bad.values()))

    def _texts(self, fetched: Fetched) -> tuple[list[str | None], dict[int, RejectedRecord]]:
        """The text of each object, and why those that have none have none."""
        texts: list[str | None] = []
        bad: dict[int, RejectedRecord] = {}
        for row, (span, data) in enumerate(zip(fetched.spans, fetched.data, strict=True)):
            text = refused = None
            if span.end < span.info.size:
                refused = (_too_large(span.info), "too_large", None)
            else:
                try:
                    text = data.removeprefix(BOM).decode()
                except UnicodeDecodeError as error:
                    reason = f"is not UTF-8 text: {error.reason} at byte {error.start}"
                    refused = (reason, "encoding", data)
            texts.append(text)
            if refused is not None:
                reason, tag, kept = refused
                uri = self.folder.uri(span.info.key)
                bad[row] = RejectedRecord(uri, 0, kept, f"{uri} {reason}", tag)
        return texts, bad


def _too_large(info: ObjectInfo) -> str:
    return f"has {info.size} bytes; a document may have {MAX_DOCUMENT_BYTES}"


def _not_utf8(bad: dict[int, RejectedRecord]) -> DataError:
    others = f" (and {len(bad) - 1} more objects)" if len(bad) > 1 else ""
    return DataError(
        next(iter(bad.values())).reason + others,
        rows={row: record.reason for row, record in bad.items()},
        remedy="convert it to UTF-8, or leave it out with `glob`",
        tag="encoding",
    )
