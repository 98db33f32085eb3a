"""Text: every object is one document."""

from pathlib import PurePosixPath
from typing import ClassVar

import pyarrow as pa

from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats.compression import without_suffix
from nvisy_connectors.object.formats.media_types import type_of_name
from nvisy_connectors.object.formats.whole import WholeReader
from nvisy_connectors.object.params import ReadParams
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import payload_schema

BOM = b"\xef\xbb\xbf"


class TextReader(WholeReader):
    """Texts in UTF-8."""

    primitive: ClassVar[str] = "document"
    noun: ClassVar[str] = "document"

    @staticmethod
    def declared(params: ReadParams) -> pa.Schema:  # noqa: ARG004 - the same for all
        """The columns of a document."""
        return payload_schema(schema_of("document"))

    def refuse(self, content: bytes) -> str | None:
        """Why it is no UTF-8."""
        try:
            content.removeprefix(BOM).decode()
        except UnicodeDecodeError as error:
            return f"is not UTF-8 text: {error.reason} at byte {error.start}"
        return None

    def columns(self, infos: list[ObjectInfo], contents: list[bytes]) -> pa.RecordBatch:
        """Texts with the names and types of their objects."""
        keys = [without_suffix(info.key, self.params.compression) for info in infos]
        return pa.RecordBatch.from_arrays(
            [
                # They are UTF-8, as `refuse` found.
                pa.array([content.removeprefix(BOM) for content in contents], pa.string()),
                pa.array([PurePosixPath(key).stem for key in keys], pa.string()),
                pa.array([type_of_name(key) for key in keys], pa.string()),
                pa.nulls(len(infos), pa.string()),
            ],
            schema=self.declared(self.params),
        )
