"""Formats of which every object is one record, read whole."""

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import ClassVar

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import ObjectInfo, Span
from nvisy_connectors.object.formats.fetched import Fetched
from nvisy_connectors.object.formats.inflating import Inflater
from nvisy_connectors.object.formats.reader import DECODES, Objects, Reader
from nvisy_connectors.object.formats.records import Records
from nvisy_connectors.object.origins import Origin, enclose
from nvisy_connectors.object.pipeline import in_thread, ordered_map
from nvisy_dagster.sdk import Batch, DataError, RejectedRecord


class WholeReader(Reader):
    """Small objects are fetched many at once and share batches; too large ones are refused."""

    noun: ClassVar[str]
    """What an object is, in messages."""

    async def read(
        self,
        objects: Objects,
        resume: ObjectCursor | None,  # noqa: ARG002 - an object is read whole
    ) -> AsyncGenerator[Batch[ObjectCursor], None]:
        """One record per object."""
        inflater = Inflater(self.params, whole=True)
        fetched = self.inflated(self._spans(objects, inflater), inflater)
        decoded = ordered_map(fetched, lambda group: in_thread(self._decode, group), DECODES)
        async with aclosing(decoded):
            async for spans, records in decoded:
                start = 0
                while start < records.count:
                    end = min(start + self.batch_rows, records.count)
                    rows, bad = records.cut(start, end)
                    last = spans[end - 1].info
                    yield Batch(rows, ObjectCursor(key=last.key, version=last.version), bad)
                    start = end

    @abstractmethod
    def columns(self, infos: list[ObjectInfo], contents: list[bytes]) -> pa.RecordBatch:
        """The payload of some objects."""

    def refuse(self, content: bytes) -> str | None:  # noqa: ARG002 - for overriding
        """Why this content can be no record, with tag `encoding`; nothing by default."""
        return None

    async def _spans(self, objects: Objects, inflater: Inflater) -> AsyncGenerator[Span, None]:
        async with aclosing(objects):
            async for info in objects:
                if info.size <= self.params.most_object_bytes:
                    compressed = info.size and inflater.codec(info) is not None
                    spans = (
                        self.pieces(info, 0, inflater) if compressed else [Span(info, 0, info.size)]
                    )
                    for span in spans:
                        yield span
                elif self.rejects:
                    yield Span(info, 0, 0)  # its bytes are not wanted
                else:
                    raise DataError(
                        f"{self.folder.uri(info.key)} {self._too_large(info)}",
                        rows={0: "too large"},
                        remedy="leave it out with `glob`, split it, or raise `max_object_bytes`",
                        tag="too_large",
                    )

    def _decode(self, fetched: Fetched) -> tuple[list[Span], Records]:
        infos: list[ObjectInfo] = []
        contents: list[bytes] = []
        bad: dict[int, RejectedRecord] = {}
        for row, (span, data) in enumerate(zip(fetched.spans, fetched.data, strict=True)):
            content = bytes(data)
            refused = self._refused(span, content)
            if refused is None:
                infos.append(span.info)
                contents.append(content)
            else:
                bad[row] = refused
        if bad and not self.rejects:
            torn = next((span for span in fetched.spans if span.torn is not None), None)
            if torn is not None and torn.torn is not None:
                raise self.torn(self.folder.uri(torn.info.key), "", torn.torn)
            raise _unreadable(bad)
        origins = [Origin(info, np.zeros(1, np.int64)) for info in infos]
        rows = enclose(self.columns(infos, contents), origins, self.folder)
        return fetched.spans, Records(rows, list(bad.items()))

    def _refused(self, span: Span, data: bytes) -> RejectedRecord | None:
        uri = self.folder.uri(span.info.key)
        if span.torn is not None:
            return RejectedRecord(uri, 0, None, f"{uri}: {span.torn.reason}", span.torn.tag)
        if span.end < span.info.size:
            reason = f"{uri} {self._too_large(span.info)}"
            return RejectedRecord(uri, 0, None, reason, "too_large")
        reason = self.refuse(data)
        if reason is None:
            return None
        return RejectedRecord(uri, 0, data, f"{uri} {reason}", "encoding")

    def _too_large(self, info: ObjectInfo) -> str:
        return f"has {info.size} bytes; a {self.noun} may have {self.params.most_object_bytes}"


def _unreadable(bad: dict[int, RejectedRecord]) -> DataError:
    others = f" (and {len(bad) - 1} more objects)" if len(bad) > 1 else ""
    return DataError(
        next(iter(bad.values())).reason + others,
        rows={row: record.reason for row, record in bad.items()},
        remedy="convert it to UTF-8, or leave it out with `glob`",
        tag="encoding",
    )
