"""Binary: every object is one blob, as it is."""

from typing import ClassVar

import pyarrow as pa

from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats.media_types import type_of
from nvisy_connectors.object.formats.whole import WholeReader
from nvisy_connectors.object.params import ReadParams
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import payload_schema


class BinaryReader(WholeReader):
    """Files of any type."""

    primitive: ClassVar[str] = "blob"
    noun: ClassVar[str] = "blob"

    @staticmethod
    def declared(params: ReadParams) -> pa.Schema:  # noqa: ARG004 - the same for all
        """The columns of a blob."""
        return payload_schema(schema_of("blob"))

    def columns(self, infos: list[ObjectInfo], contents: list[bytes]) -> pa.RecordBatch:
        """Contents with their types and sizes."""
        pairs = zip(infos, contents, strict=True)
        return pa.RecordBatch.from_arrays(
            [
                pa.array(contents, pa.large_binary()),
                pa.array([type_of(info.key, content) for info, content in pairs], pa.string()),
                pa.array([len(content) for content in contents], pa.int64()),
            ],
            schema=self.declared(self.params),
        )
